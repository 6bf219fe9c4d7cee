#!/bin/bash
# Proves the hosts without a cluster, and measures: restore, distinct identities,
# kernel upgrade and reboot of all at once, one host lost and restored.
# `hosts selftest` runs it inside sandbox.sh.
set -euo pipefail
here=$(dirname "$(readlink -f "$0")")
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$here/lib.sh"
FETTLE_BED=$(mktemp -d /tmp/fettle-hosts-selftest.XXXXXX)
export FETTLE_BED
trap 'rm -rf "$FETTLE_BED"' EXIT
hosts() { "$here/hosts" "$@"; }
fail() { echo "selftest: FAILED: $*" >&2; exit 1; }
all() { fleet | cut -d' ' -f1; }
# each COMMAND: what it prints on every host, a line per host, in the order of the fleet
each() { local name; for name in $(all); do hosts ssh "$name" "$1" </dev/null; done; }
distinct() { [[ $(sort -u <<<"$2" | wc -l) == 3 ]] || fail "$1 is not distinct: $2"; }
boot_ids() { each 'cat /proc/sys/kernel/random/boot_id'; }

begin=$EPOCHREALTIME
hosts up
echo "selftest: three restored in $(seconds_since "$begin")"
# shellcheck source=/dev/null
. "$FETTLE_BED/hosts/env"

distinct "boot id" "$(boot_ids)"
distinct "machine id" "$(each 'cat /etc/machine-id')"
distinct "host key" "$(cut -d' ' -f3 "$FETTLE_BED/hosts/known_hosts")"
[[ $(each hostname) == "$(all)" ]] || fail "host names: $(each hostname)"
[[ $(each 'uname -r' | sort -u) == "$OLD_KERNEL" ]] || fail "kernels: $(each 'uname -r')"
for name in $(all); do
  skew=$(($(hosts ssh "$name" date +%s </dev/null) - $(date +%s)))
  ((skew >= -3 && skew <= 3)) || fail "$name: clock is $skew s off"
done
# Host key checking is real: the key of one host is refused for another.
sed 's/^web-1,[^ ]*/x/; s/^web-2,[^ ]*/10.88.0.11/' "$FETTLE_BED/hosts/known_hosts" >"$FETTLE_BED/wrong"
if ssh -F none -i "$FETTLE_BED/hosts/id" -o BatchMode=yes -o StrictHostKeyChecking=yes -o LogLevel=QUIET \
  -o UserKnownHostsFile="$FETTLE_BED/wrong" root@10.88.0.11 true; then fail "a wrong host key was accepted"; fi

before=$(boot_ids)
patch() {
  local name=$1 address service begin=$EPOCHREALTIME
  read -r _ address _ service < <(fleet_line "$name")
  # shellcheck disable=SC2016  # expanded on the host
  hosts ssh "$name" "apt-get -q update && DEBIAN_FRONTEND=noninteractive apt-get -qy install linux-image-$NEW_KERNEL" </dev/null >"$FETTLE_BED/$name.log" 2>&1 ||
    { cat "$FETTLE_BED/$name.log"; fail "$name: installation"; }
  echo "  $name: installed in $(seconds_since "$begin")"
  begin=$EPOCHREALTIME
  hosts ssh "$name" 'shutdown -r now' </dev/null || true
  await "$FETTLE_BED/hosts" "$address" 300 "test \$(uname -r) = $NEW_KERNEL && systemctl is-active --quiet $service"
  echo "  $name: rebooted, $service active after $(seconds_since "$begin")"
}
begin=$EPOCHREALTIME
jobs=()
for name in $(all); do patch "$name" & jobs+=($!); done
for job in "${jobs[@]}"; do wait "$job"; done
echo "selftest: three patched and rebooted in $(seconds_since "$begin")"
[[ $(comm -12 <(sort <<<"$before") <(boot_ids | sort)) == "" ]] || fail "a boot id did not change"
[[ $(curl -s -o /dev/null -w '%{http_code}' http://10.88.0.11/) == 200 ]] || fail "nginx does not serve"
[[ $(hosts ssh db-1 redis-cli ping </dev/null) == PONG ]] || fail "redis does not answer"
[[ $(grep -c "GET .*linux-image-$NEW_KERNEL.* 200 " "$FETTLE_BED/hosts/repo.log") == 3 ]] || fail "downloads: $(cat "$FETTLE_BED/hosts/repo.log")"
hosts status

hosts hold-lock web-2
if hosts ssh web-2 apt-get -qy install --reinstall nginx </dev/null >/dev/null 2>&1; then fail "the lock did not hold"; fi
hosts fill-boot web-2 5 >/dev/null
left=$(hosts ssh web-2 'df --output=avail -m /boot | tail -1' </dev/null)
((left <= 6)) || fail "/boot has $left MiB left"

hosts down web-2
if hosts ssh web-2 true </dev/null 2>/dev/null; then fail "web-2 is down but answers"; fi
begin=$EPOCHREALTIME
hosts reset
echo "selftest: reset of three in $(seconds_since "$begin")"
[[ $(each 'uname -r' | sort -u) == "$OLD_KERNEL" ]] || fail "not fresh after reset"
[[ $(boot_ids) == "$before" ]] || fail "not the snapshot after reset"
hosts down
for _ in $(seq 50); do pgrep qemu-system >/dev/null || break; sleep 0.1; done
if pgrep -a qemu-system; then fail "machines are left running"; fi
echo "selftest: passed"
