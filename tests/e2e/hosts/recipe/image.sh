#!/bin/bash
# image.sh ROOT NAME ADDRESS OUT: give the root file system ROOT the identity of
# the host NAME, and write OUT/disk.raw (MBR, GRUB, one ext4 partition; made
# without loop devices) and OUT/host_key.pub.
set -euo pipefail
root=$1 name=$2 address=$3 out=$4
recipe=$(dirname "$(readlink -f "$0")")
# shellcheck source-path=SCRIPTDIR source=../lib.sh
. "$recipe/../lib.sh"
readonly SIZE_MIB=3072
grub=/usr/lib/grub/i386-pc

echo "$name" >"$root/etc/hostname"
printf '127.0.0.1 localhost\n%s %s.bed.test %s\n' "$address" "$name" "$name" >"$root/etc/hosts"
printf 'ADDRESS=%s/16\nGATEWAY=%s\n' "$address" "$GATEWAY" >"$root/etc/network-static"
tr -d - </proc/sys/kernel/random/uuid >"$root/etc/machine-id"
rm -f "$root"/etc/ssh/ssh_host_*
ssh-keygen -q -t ed25519 -N '' -C "root@$name" -f "$root/etc/ssh/ssh_host_ed25519_key"
cp "$root/etc/ssh/ssh_host_ed25519_key.pub" "$out/host_key.pub"

disk=$out/disk.raw
truncate -s "${SIZE_MIB}M" "$disk"
echo 'start=2048, type=83, bootable' | sfdisk -q "$disk"
mke2fs -q -F -t ext4 -O '^metadata_csum,^64bit' -i 65536 -m 1 -E offset=1048576,lazy_itable_init=0,nodiscard \
  -d "$root" "$disk" $(((SIZE_MIB - 1) * 1024))k
grub-mkimage -d "$grub" -O i386-pc -p '(hd0,msdos1)/boot/grub' -o "$out/core.img" \
  biosdisk part_msdos ext2 linux normal boot configfile
dd if="$grub/boot.img" of="$disk" bs=440 count=1 conv=notrunc status=none
dd if="$out/core.img" of="$disk" bs=512 seek=1 conv=notrunc status=none
rm "$out/core.img"
