#!/bin/bash
# rootfs.sh WORK OLD_KERNEL_DEB: the root file systems. WORK/root is the common
# one (systemd, ssh, python3-apt, old kernel), WORK/root-ROLE has the role's
# service on top. Runs in a mount namespace of its own, so that nothing stays
# mounted, whatever happens.
set -euo pipefail
work=$1 kernel=$2
recipe=$(dirname "$(readlink -f "$0")")
# shellcheck source-path=SCRIPTDIR source=../lib.sh
. "$recipe/../lib.sh"
root=$work/root
mirror=${FETTLE_DEBIAN_MIRROR:-http://deb.debian.org/debian}

# in_root ROOT COMMAND...: run inside a root file system; no package may start its service.
in_root() {
  local root=$1; shift
  mount -t proc proc "$root/proc"
  cp -L /etc/resolv.conf /etc/hosts "$root/etc/"
  printf '#!/bin/sh\nexit 101\n' >"$root/usr/sbin/policy-rc.d"; chmod +x "$root/usr/sbin/policy-rc.d"
  env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C.UTF-8 DEBIAN_FRONTEND=noninteractive chroot "$root" "$@"
  rm "$root/usr/sbin/policy-rc.d" "$root/etc/resolv.conf" "$root/etc/hosts"
  umount "$root/proc"
}

# Everything that configures a package lies in the overlay before the package is set up.
mmdebstrap --mode=root --variant=minbase --quiet \
  --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/locale/*' \
  --dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='force-unsafe-io' --dpkgopt='force-confold' \
  --aptopt='APT::Install-Recommends "false"' --aptopt='Acquire::Languages "none"' \
  --include=systemd-sysv,dbus,openssh-server,python3,python3-apt,iproute2,kmod,linux-base,util-linux-extra,tiny-initramfs \
  --skip=cleanup/apt/lists \
  --essential-hook="cp -rT '$recipe/overlay' \"\$1\"" \
  bookworm "$root" "$mirror"

cp "$kernel" "$root/tmp/kernel.deb"
# What waits for devices, consoles or an administrator has no place in an
# emulated machine: every unit costs boot time. dbus and logind stay, because
# `shutdown -r` and Ansible's reboot module need them.
in_root "$root" sh -euc '
  dpkg -i /tmp/kernel.deb; rm /tmp/kernel.deb
  rm -f /etc/ssh/ssh_host_* /etc/machine-id /var/lib/dbus/machine-id
  systemctl enable network-static ssh
  systemctl set-default multi-user.target
  systemctl mask apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer e2scrub_reap fstrim.timer \
    systemd-networkd systemd-networkd.socket systemd-network-generator systemd-networkd-wait-online \
    systemd-udevd systemd-udevd-control.socket systemd-udevd-kernel.socket systemd-udev-trigger systemd-udev-settle \
    serial-getty@ttyS0 getty@tty1 getty.target dev-hugepages.mount dev-mqueue.mount sys-kernel-debug.mount \
    sys-kernel-tracing.mount sys-fs-fuse-connections.mount modprobe@configfs modprobe@dm_mod modprobe@drm \
    modprobe@efi_pstore modprobe@fuse modprobe@loop systemd-pstore systemd-random-seed systemd-update-utmp \
    systemd-update-utmp-runlevel systemd-binfmt systemd-journal-flush kmod-static-nodes systemd-modules-load \
    systemd-sysctl systemd-sysusers systemd-machine-id-commit systemd-ask-password-wall.path \
    systemd-ask-password-console.path cryptsetup.target remote-fs.target systemd-quotacheck
'

fleet | awk '{print $3, $4}' | sort -u | while read -r role service; do
  cp -a "$root" "$root-$role"
  in_root "$root-$role" sh -euc "apt-get -qq install $service; systemctl enable $service" </dev/null
  echo "deb [trusted=yes] http://$REPO_ADDRESS:$REPO_PORT ./" >"$root-$role/etc/apt/sources.list"
  rm -rf "$root-$role"/var/lib/apt/lists/* "$root-$role"/var/cache/apt/*.bin "$root-$role"/var/cache/apt/archives/*.deb
done
