# shellcheck shell=bash
# What all scripts here share. Outside recipe/, because a change of it does not
# make the artefacts others.
# shellcheck source-path=SCRIPTDIR source=recipe/fleet.sh
. "${BASH_SOURCE[0]%/*}/recipe/fleet.sh"

# remote KEY_DIR TARGET [COMMAND...]: ssh as root with the keys in KEY_DIR (id,
# known_hosts); host keys are checked. An emulated sshd on a busy machine is slow
# to greet; a host that is down is known after 3 s, by the missing ARP answer.
remote() {
  local keys=$1 target=$2; shift 2
  ssh -F none -i "$keys/id" -o IdentitiesOnly=yes -o BatchMode=yes -o LogLevel=ERROR \
    -o StrictHostKeyChecking=yes -o UserKnownHostsFile="$keys/known_hosts" -o ConnectTimeout=60 \
    "root@$target" "$@"
}

# await KEY_DIR ADDRESS SECONDS COMMAND...: repeat the remote COMMAND until it succeeds.
await() {
  local keys=$1 address=$2 deadline=$((SECONDS + $3)); shift 3
  until remote "$keys" "$address" "$@" </dev/null 2>/dev/null; do
    ((SECONDS < deadline)) || { echo "hosts: $address: '$*' did not succeed" >&2; return 1; }
    sleep 0.3
  done
}

# serve_repo DIRECTORY LOG: the apt repository; prints the pid.
serve_repo() {
  setsid python3 -m http.server --bind "$REPO_ADDRESS" --directory "$1" "$REPO_PORT" >"$2" 2>&1 </dev/null &
  echo $!
}

seconds_since() { awk -v a="$1" -v b="$EPOCHREALTIME" 'BEGIN { printf "%.1f s", b - a }'; }
