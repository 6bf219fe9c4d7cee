#!/bin/bash
# kernels.sh DOWNLOADS: fetch the two newest cloud kernels that the Debian archive
# really has into DOWNLOADS and print `OLD_KERNEL=… NEW_KERNEL=…`, one per line.
# The index may name versions whose files are gone, hence the download decides.
set -euo pipefail
downloads=$1
mkdir -p "$downloads"; cd "$downloads"

versions() {
  apt-cache search '^linux-image-6.1.0-.*-cloud-amd64$' | sed -n 's/^linux-image-\([^ ]*\) .*/\1/p' | sort -rV
}
# Indexes a day old may be older than the files they name.
if [[ -z $(find /var/lib/apt/lists -maxdepth 1 -name '*Packages*' -mtime -1 -print -quit) || $(versions | wc -l) -lt 2 ]]; then
  apt-get -q -o DPkg::Lock::Timeout=300 update >&2
fi

found=()
for version in $(versions); do
  if ! compgen -G "linux-image-${version}_*.deb" >/dev/null; then
    apt-get -q -o APT::Sandbox::User=root download "linux-image-$version" >&2 || continue
  fi
  found+=("$version")
  ((${#found[@]} < 2)) || break
done
((${#found[@]} == 2)) || { echo "hosts: the archive offers ${#found[@]} cloud kernels, two are needed" >&2; exit 1; }
printf 'OLD_KERNEL=%s\nNEW_KERNEL=%s\n' "${found[1]}" "${found[0]}"
