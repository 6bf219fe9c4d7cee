#!/bin/bash
# sandbox.sh COMMAND...: run COMMAND where the network of a bed is at hand: the
# bridge with the node's and the services' address. It and all that it leaves
# running end with this script.
set -euo pipefail
recipe=$(dirname "$(readlink -f "$0")")
if [[ ${1-} != --inside ]]; then
  exec unshare --net --mount --pid --fork --mount-proc --kill-child "$recipe/sandbox.sh" --inside "$@"
fi
shift
# shellcheck source-path=SCRIPTDIR source=fleet.sh
. "$recipe/fleet.sh"
ip link set lo up
ip link add "$BRIDGE" type bridge
ip addr add "$GATEWAY/16" dev "$BRIDGE"
ip addr add "$REPO_ADDRESS/16" dev "$BRIDGE"
ip link set "$BRIDGE" up
"$@"
