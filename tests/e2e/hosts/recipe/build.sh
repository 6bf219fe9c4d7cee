#!/bin/bash
# build.sh CACHE KEY: make the artefacts of the hosts in CACHE/KEY: id, known_hosts,
# env (OLD_KERNEL, NEW_KERNEL), repo/, and per host NAME/{disk.raw,ram,state}.
set -euo pipefail
cache=$1 key=$2
recipe=$(dirname "$(readlink -f "$0")")
# shellcheck source-path=SCRIPTDIR source=../lib.sh
. "$recipe/../lib.sh"
begin=$EPOCHREALTIME
step() { echo "hosts: [$1/5] $2 ($(seconds_since "$begin") so far)"; }

mkdir -p "$cache"
find "$cache" -maxdepth 1 -name 'partial.*' -exec rm -rf {} +   # left by a killed build; the caller holds the lock
work=$cache/partial.$$
mkdir "$work"
trap 'rm -rf "$work"' EXIT

step 1 "kernels from the Debian archive"
"$recipe/kernels.sh" "$cache/downloads" >"$work/env"
# shellcheck source=/dev/null
. "$work/env"
echo "  installed $OLD_KERNEL, in the repository $NEW_KERNEL"
mkdir "$work/repo"
# Both are in the repository, as in Debian's: a host can also go back. The files
# in the packages are Debian's; they are only packed with zstd, because to unpack
# xz was the longest part of an upgrade under emulation.
for kernel in "$OLD_KERNEL" "$NEW_KERNEL"; do
  dpkg-deb -R "$(compgen -G "$cache/downloads/linux-image-${kernel}_*.deb")" "$work/unpacked"
  dpkg-deb -Zzstd -z9 -b "$work/unpacked" "$work/repo" >/dev/null
  rm -r "$work/unpacked"
done
# One checksum: apt verifies each that it is given.
index() { apt-ftparchive -o APT::FTPArchive::MD5=false -o APT::FTPArchive::SHA1=false -o APT::FTPArchive::SHA512=false "$@" .; }
(cd "$work/repo" && index packages >Packages && index release >../Release && mv ../Release .)

step 2 "root file systems"
ssh-keygen -q -t ed25519 -N '' -C fettle-test-bed -f "$work/id"
unshare --mount "$recipe/rootfs.sh" "$work" "$(compgen -G "$work/repo/linux-image-${OLD_KERNEL}_*.deb")" >"$work/rootfs.log" 2>&1 \
  || { tail -30 "$work/rootfs.log" >&2; exit 1; }

step 3 "disk images"
while read -r name address role _; do
  mkdir "$work/$name"
  install -D -m 600 "$work/id.pub" "$work/root-$role/root/.ssh/authorized_keys"
  "$recipe/image.sh" "$work/root-$role" "$name" "$address" "$work/$name"
  echo "$name,$name.bed.test,$address $(cut -d' ' -f1,2 "$work/$name/host_key.pub")" >>"$work/known_hosts"
done < <(fleet)
rm -rf --one-file-system "$work"/root "$work"/root-*

step 4 "first boot and snapshot of each host"
"$recipe/../sandbox.sh" "$recipe/freeze.sh" "$work"

step 5 "into the cache"
rm -rf "${cache:?}/$key"
mv "$work" "$cache/$key"
trap - EXIT
echo "hosts: built in $(seconds_since "$begin"), $(du -sm "$cache/$key" | cut -f1) MiB in $cache/$key"
