#!/bin/bash
# sandbox.sh COMMAND...: run COMMAND where the network of a bed is at hand: the
# bridge with the node's and the services' address. It and all that it leaves
# running end with this script.
set -euo pipefail
here=$(dirname "$(readlink -f "$0")")
if [[ ${1-} != --inside ]]; then
  exec unshare --net --mount --pid --fork --mount-proc --kill-child "$here/sandbox.sh" --inside "$@"
fi
shift
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$here/lib.sh"
ip link set lo up
# The address is fixed, as in a bed: a bridge without one takes another with each port
# that joins, and its neighbours lose it for a while.
ip link add "$BRIDGE" address 02:00:0a:58:00:01 type bridge
ip addr add "$GATEWAY/16" dev "$BRIDGE"
ip addr add "$REPO_ADDRESS/16" dev "$BRIDGE"
ip link set "$BRIDGE" up
"$@"
