# Shared by the scripts of the cluster level. Sourced.

# shellcheck disable=SC2034  # used by those who source this
E2E=$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")
ROOT=$(readlink -f "$E2E/../..")
PROFILE=${FETTLE_PROFILE:-debug} # or release
TARGET=${CARGO_TARGET_DIR:-$ROOT/target}/$PROFILE
CACHE=${FETTLE_CACHE:-$HOME/.cache/fettle}
export FETTLE_BED=${FETTLE_BED:-/tmp/fettle-bed-default}
BED=$E2E/bed/bed
HOSTS=$E2E/hosts/hosts
NAMESPACE=patching

command -v bc >/dev/null || { apt-get update -qq && apt-get install -y -qq --no-install-recommends bc binutils; } >/dev/null

die() { echo "$*" >&2; exit 1; }

# step N OF WHAT COMMAND...: run it, say what and how long, and every 20 seconds how far it is (the last line it wrote); all of its output
# is shown only when it fails.
step() {
	local n=$1 of=$2 what=$3 begin=$EPOCHREALTIME log beat failed=
	shift 3
	printf '[%s/%s] %s …\n' "$n" "$of" "$what"
	log=$(mktemp)
	heartbeat "$begin" "$log" &
	beat=$!
	"$@" >"$log" 2>&1 || failed=1
	kill "$beat" 2>/dev/null
	wait "$beat" 2>/dev/null || :
	if [ -n "$failed" ]; then
		tail -n 60 "$log" >&2
		rm -f "$log"
		die "[$n/$of] $what: failed; the end of its output is above"
	fi
	rm -f "$log"
	printf '[%s/%s] %s: %.0f s\n' "$n" "$of" "$what" "$(seconds_since "$begin")"
}

heartbeat() {
	trap 'kill $! 2>/dev/null; exit' TERM
	while :; do
		sleep 20 &
		wait $!
		kill -0 $$ 2>/dev/null || exit
		printf '        %.0f s: %s\n' "$(seconds_since "$1")" "$(tail -n 1 "$2" | tr -d '\r' | cut -c1-110)"
	done
}

seconds_since() { bc -l <<<"$EPOCHREALTIME - $1"; }

in_bed() { "$BED" run "$@"; }
