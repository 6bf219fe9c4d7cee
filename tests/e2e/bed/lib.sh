# Shared by the scripts of this directory; to be sourced. Paths, progress, the cache.
# shellcheck shell=bash

BED_SOURCE=$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")
CACHE=${FETTLE_CACHE:-$HOME/.cache/fettle}

die() { echo "${0##*/}: $*" >&2; exit 1; }

# step_log FILE N: the steps' output goes to FILE, and there will be N steps.
step_log() { STEP_LOG=$1 STEPS=$2 STEP=0; mkdir -p "$(dirname "$1")"; : >"$1"; }

# step WHAT COMMAND...: run one step; say which of how many it is and how long it took; on failure show its output.
# The command is a job with a process group of its own, so that an interrupt ends all of it (end_step) and is handled
# at once; and not part of a condition, in which bash would ignore `set -e`. It must not inherit the bed's lock, 8.
step() {
	local what=$1 started=$EPOCHREALTIME from code=0
	shift
	STEP=$((STEP + 1))
	from=$(($(wc -c <"$STEP_LOG") + 1))
	printf '[%*d/%d] %-46s ' "${#STEPS}" "$STEP" "$STEPS" "$what"
	set -m
	"$@" >>"$STEP_LOG" 2>&1 </dev/null 8>&- &
	STEP_PID=$!
	set +m
	wait "$STEP_PID" || code=$?
	STEP_PID=
	if [ "$code" = 0 ]; then
		printf '%6.1f s\n' "$(seconds_since "$started")"
	else
		printf 'failed after %.1f s\n' "$(seconds_since "$started")"
		tail -c "+$from" "$STEP_LOG" | tail -n 25 | sed 's/^/    /' >&2
		die "\"$what\" failed"
	fi
}

# end_step: end the running step with all its processes. For exit traps.
end_step() { [ -z "${STEP_PID:-}" ] || kill -TERM -- "-$STEP_PID" 2>/dev/null || true; }
trap end_step EXIT
trap 'echo; exit 130' INT
trap 'echo; exit 143' TERM HUP

seconds_since() { awk -v from="$1" -v to="$EPOCHREALTIME" 'BEGIN { print to - from }'; }

# content_hash PATH...: one short hash over the names and the bytes of files and directories (relative to here).
content_hash() {
	(cd "$BED_SOURCE" && find "$@" -type f -print0 | LC_ALL=C sort -z | xargs -0 sha256sum) | sha256sum | cut -c1-16
}

# program_dir MODULE: where the programs of modules/MODULE are kept. Another pin or source is another directory.
program_dir() { echo "$CACHE/bin/$1-$(content_hash "modules/$1")"; }

# images_dir: where the image archives and Tekton's manifests are kept.
images_dir() { echo "$CACHE/images/$(content_hash modules image images)"; }

# module_version MODULE PATH: the version of Go module PATH that modules/MODULE pins.
module_version() { awk -v path="$2" '$1 == path && $2 ~ /^v/ { print $2; exit }' "$BED_SOURCE/modules/$1/go.mod"; }

# The toolchain to fetch where there is no Go, or an older one than the modules ask for; as the Go project publishes it.
GO=1.26.8
GO_SHA256=30c2b1bf7dcc88d3eb0a1364e47ddd9128edb3110a30e8a0ef61cd5856b31de7

# need_go: see that `go` is there and new enough.
need_go() {
	local found
	export GOTOOLCHAIN=local GOFLAGS=-buildvcs=false
	found=$(go env GOVERSION 2>/dev/null) || found=none
	if [ "$(printf '%s\n' go1.26.4 "$found" | sort -V | head -n 1)" != go1.26.4 ] || [ "$found" = none ]; then
		export PATH=$CACHE/go/$GO/bin:$PATH
		[ ! -x "$CACHE/go/$GO/bin/go" ] || return 0
		step_log "$CACHE/go/fetch.log" 1
		step "fetch Go $GO (found: $found)" fetch_go
	fi
}

fetch_go() {
	local archive=$CACHE/go/$GO.zip name=golang.org/toolchain@v0.0.1-go$GO.linux-amd64
	curl -fsSL --retry 3 -o "$archive" "https://proxy.golang.org/${name/@//@v/}.zip"
	sha256sum --check --status <<<"$GO_SHA256  $archive" || { echo "$archive is not what was published as Go $GO"; return 1; }
	rm -rf "$CACHE/go/.new"
	python3 -m zipfile -e "$archive" "$CACHE/go/.new"
	find "$CACHE/go/.new/$name"/{bin,pkg/tool} -type f -exec chmod +x {} +
	mv "$CACHE/go/.new/$name" "$CACHE/go/$GO"
	rm -r "$archive" "$CACHE/go/.new"
}
