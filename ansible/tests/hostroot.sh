#!/bin/sh
# hostroot.sh: make the root file system that the tests' hosts are copies of, unless it is in the cache; prints its directory.
# It has apt and dnf with their databases, Python, and the tools to build packages and repositories. Needs root and mmdebstrap.
set -eu
name=$(sha256sum "$0" | cut -c1-16)
root=${XDG_CACHE_HOME:-$HOME/.cache}/fettle/rootfs/$name
if [ ! -e "$root.complete" ]; then
    mkdir -p "$(dirname "$root")"
    exec 9>"$root.lock"
    flock 9
    if [ ! -e "$root.complete" ]; then
        begin=$(date +%s)
        echo "hosts: making a root file system with apt and dnf" >&2
        rm -rf "$root"
        mmdebstrap --quiet --mode=root --variant=minbase \
            --aptopt='Apt::Install-Recommends "false"' \
            --dpkgopt='path-exclude=/usr/share/doc/*' \
            --dpkgopt='path-exclude=/usr/share/locale/*' \
            --dpkgopt='path-exclude=/usr/share/man/*' \
            --dpkgopt=force-unsafe-io \
            --include=python3,dnf,rpm,createrepo-c \
            bookworm "$root" >&2
        # Debian keeps the rpm database in the home directory, which dnf does not look at.
        mkdir -p "$root/etc/rpm"
        echo '%_dbpath /var/lib/rpm' >"$root/etc/rpm/macros"
        # What packages with scripts require; Debian's shell is not known to rpm.
        cat >"$root/tmp/shell.spec" <<'SPEC'
Name: shell
Version: 1
Release: 1
Summary: stands for the shell that is there
License: none
Provides: /bin/sh
%description
shell
%files
SPEC
        chroot "$root" sh -ec '
            rpmbuild -bb --quiet --target x86_64 --define "_rpmdir /tmp" /tmp/shell.spec
            rpm --install --justdb /tmp/x86_64/shell-1-1.x86_64.rpm
            rm -rf /tmp/shell.spec /tmp/x86_64 /root/rpmbuild' >&2
        rm -rf "$root"/var/lib/apt/lists/* "$root"/var/cache/apt/*.bin
        touch "$root.complete"
        echo "hosts: $(du -sm "$root" | cut -f1) MiB after $(($(date +%s) - begin)) s" >&2
    fi
fi
echo "$root"
