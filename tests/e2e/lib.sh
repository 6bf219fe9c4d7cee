# Shared by the scripts of the cluster level. Sourced.

# shellcheck disable=SC2034  # used by those who source this
E2E=$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")
ROOT=$(readlink -f "$E2E/../..")
TARGET=${CARGO_TARGET_DIR:-$ROOT/target}/debug
CACHE=${FETTLE_CACHE:-$HOME/.cache/fettle}
export FETTLE_BED=${FETTLE_BED:-/tmp/fettle-bed-default}
BED=$E2E/bed/bed
HOSTS=$E2E/hosts/hosts
NAMESPACE=patching

die() { echo "$*" >&2; exit 1; }

# step N OF WHAT COMMAND...: run it, say what and how long; its output goes to a log that is shown when it fails.
step() {
	local n=$1 of=$2 what=$3 begin=$EPOCHREALTIME log
	shift 3
	log=$(mktemp)
	printf '[%s/%s] %s …\n' "$n" "$of" "$what"
	if [ -n "${FETTLE_VERBOSE:-}" ]; then
		"$@" || die "[$n/$of] $what: failed"
	elif ! "$@" >"$log" 2>&1; then
		tail -n 60 "$log" >&2
		rm -f "$log"
		die "[$n/$of] $what: failed; the end of its output is above, FETTLE_VERBOSE=1 shows all of it"
	fi
	rm -f "$log"
	printf '[%s/%s] %s: %.0f s\n' "$n" "$of" "$what" "$(bc -l <<<"$EPOCHREALTIME - $begin")"
}

in_bed() { "$BED" run "$@"; }
