#!/bin/bash
# freeze.sh WORK: boot every host of WORK once, wait until its services run, and
# write its memory (NAME/ram) and device state (NAME/state) beside NAME/disk.raw.
# Runs inside sandbox.sh.
set -euo pipefail
work=$1
recipe=$(dirname "$(readlink -f "$0")")
# shellcheck source-path=SCRIPTDIR source=../lib.sh
. "$recipe/../lib.sh"

# What every story does first, so that it is in the page cache of the snapshot.
# The last command forgets the neighbours: where a host is restored, they may
# have other hardware addresses, and would be waited for in vain.
warm_up() {
  cat <<END
set -eu
systemctl is-active ssh $1
apt-get -q update
apt-get -q --download-only -o Debug::NoLocking=1 --print-uris install linux-image-$NEW_KERNEL
python3 -c 'import apt, json, tempfile, shutil, subprocess, platform, zipfile, base64, hashlib, multiprocessing; apt.Cache()'
dpkg -l >/dev/null; perl -e 1; systemd-run --quiet --wait true; depmod --version >/dev/null
sync; fstrim / || true
ip neigh flush all
END
}

freeze() {
  local name=$1 address=$2 service=$3 dir=$work/$1 begin=$EPOCHREALTIME
  machine "$name" "$dir/ram" on "$dir/disk.raw" raw "$dir"
  await "$work" "$address" 300 systemctl is-active --quiet "$service"
  echo "  $name: cold boot to service in $(seconds_since "$begin")"
  warm_up "$service" | remote "$work" "$address" sh >"$dir/warm-up.log" 2>&1 || { cat "$dir/warm-up.log" >&2; return 1; }
  "$recipe/qmp.py" freeze "$dir/qmp" "$dir/state"
  fallocate --dig-holes "$dir/ram"
  rm -f "$dir/pid" "$dir/qmp"
  echo "  $name: frozen after $(seconds_since "$begin"), memory $(du -m "$dir/ram" | cut -f1) MiB"
}

# shellcheck source=/dev/null
. "$work/env"
repo=$(serve_repo "$work/repo" "$work/repo.log")
jobs=()
while read -r name address _ service; do
  freeze "$name" "$address" "$service" &
  jobs+=($!)
done < <(fleet)
for job in "${jobs[@]}"; do wait "$job"; done
kill "$repo"; rm "$work/repo.log"
