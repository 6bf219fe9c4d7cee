#!/bin/sh
# rootfs.sh DEST_DIR: make the root file system of the checks image. Needs root and mmdebstrap; works on Debian.
#
# The image: Debian's ansible-core and openssh-client, the collection fettle.patching, fettle-check as entry program, and the user
# fettle (65532), without whom ssh stops with "No user exists for uid". Runs on a read-only root; writes below TMPDIR only.
# FETTLE_DEBIAN_SUITE (bookworm) and FETTLE_DEBIAN_MIRROR (mmdebstrap's default) say where the packages come from.
set -eu
here=$(CDPATH='' cd -- "$(dirname "$0")" && pwd)
root=${1:?usage: rootfs.sh DEST_DIR}
suite=${FETTLE_DEBIAN_SUITE:-bookworm}
if [ -e "$root" ] && [ -n "$(ls -A "$root")" ]; then
    echo "rootfs.sh: $root is not empty" >&2
    exit 1
fi
mkdir -p "$root"
begin=$(date +%s)
say() { echo "checks image: step $1 of 3, $2 ($(($(date +%s) - begin)) s)"; }

say 1 "packages from Debian $suite"
mmdebstrap --quiet --mode=root --variant=minbase \
    --aptopt='Apt::Install-Recommends "false"' \
    --dpkgopt='path-exclude=/usr/share/doc/*' \
    --dpkgopt='path-exclude=/usr/share/locale/*' \
    --dpkgopt='path-exclude=/usr/share/man/*' \
    --include=ansible-core,openssh-client,python3 \
    "$suite" "$root" ${FETTLE_DEBIAN_MIRROR:+"$FETTLE_DEBIAN_MIRROR"}

say 2 "collection fettle.patching"
work=$(mktemp -d "$root/tmp/collection.XXXXXX")
trap 'rm -rf "$work"' EXIT
tar -C "$here/.." --exclude=./tests --exclude=./.ansible -cf - . | tar -C "$work" -xf -
inside=${work#"$root"}
chroot "$root" env HOME=/tmp LC_ALL=C.UTF-8 sh -ec "
    cd '$inside'
    ansible-galaxy collection build --output-path /tmp/collection.out . >/dev/null
    ansible-galaxy collection install --offline -p /usr/share/ansible/collections /tmp/collection.out/*.tar.gz >/dev/null
    rm -rf /tmp/collection.out /tmp/.ansible"
rm -rf "$work"

say 3 "entry program and user"
install -m 0755 "$here/fettle-check" "$root/usr/local/bin/fettle-check"
chroot "$root" sh -ec '
    groupadd --gid 65532 fettle
    useradd -K UID_MAX=65532 --uid 65532 --gid 65532 --home-dir /tmp --no-create-home --shell /usr/sbin/nologin fettle'
rm -rf "$root"/var/lib/apt/lists/* "$root"/var/cache/apt/* "$root"/var/log/* "$root"/etc/ssh/ssh_host_*
echo "checks image: root file system of $(du -sm "$root" | cut -f1) MiB in $root after $(($(date +%s) - begin)) s"
