# shellcheck shell=bash disable=SC2034
# The fleet and the machine it runs on. Sourced by lib.sh.

# One line per host: name, address, role, service. The service is a Debian
# package and a systemd unit of the same name.
fleet() {
  cat <<'END'
web-1 10.88.0.11 web nginx
web-2 10.88.0.12 web nginx
db-1 10.88.0.13 db redis-server
END
}

# fleet_line NAME: the line of one host; fails for a name that is not in the fleet.
fleet_line() { fleet | grep "^$1 "; }

readonly GATEWAY=10.88.0.1              # the node, default route of the hosts
readonly REPO_ADDRESS=10.88.0.2         # test services
readonly REPO_PORT=8081
readonly BRIDGE=fettle0
readonly MEMORY_MIB=384

# machine NAME RAM_FILE SHARE DISK FORMAT DIR [QEMU_OPTION...]: start one virtual
# machine in the background; its pid, console and QMP socket are in DIR.
# A RAM file restores only into the very machine that wrote it, so that freezing
# and thawing both come through here. SHARE=on writes guest memory to RAM_FILE,
# SHARE=off maps it copy-on-write: the file is never changed, and hosts
# restored from it share its pages in the page cache.
machine() {
  local name=$1 ram=$2 share=$3 disk=$4 format=$5 dir=$6; shift 6
  local mac; mac=$(printf '52:54:00:58:00:%02x' "$(fleet_line "$name" | awk '{split($2, a, "."); print a[4]}')")
  qemu-system-x86_64 -name "$name" -nodefaults -no-user-config -display none \
    -machine pc,hpet=off,memory-backend=ram -cpu max -smp 1 -m "$MEMORY_MIB" \
    -accel tcg,thread=multi,tb-size=128 -rtc base=utc,clock=host \
    -object "memory-backend-file,id=ram,size=${MEMORY_MIB}M,mem-path=$ram,share=$share" \
    -drive "if=none,id=disk,file=$disk,format=$format,cache=unsafe,discard=unmap" \
    -device virtio-blk-pci,drive=disk \
    -netdev "tap,id=net,ifname=tap-$name,script=no,downscript=no" \
    -device "virtio-net-pci,netdev=net,mac=$mac,romfile=" \
    -device virtio-rng-pci -serial "file:$dir/console.log" \
    -qmp "unix:$dir/qmp,server=on,wait=off" -pidfile "$dir/pid" -daemonize "$@"
  # QEMU made the tap device and takes it away when it ends.
  ip link set "tap-$name" master "$BRIDGE" up
}
