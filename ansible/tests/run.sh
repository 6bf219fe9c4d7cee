#!/bin/bash
# run.sh [lint|test|fleet|all]: everything that proves the collection; `all` (the default) is lint and test.
#   lint   yamllint, ansible-lint (profile production), the build of the collection, shellcheck where it is installed
#   test   real ansible-playbook runs with the newest and the oldest supported ansible-core. FETTLE_PYTEST: options for pytest
#   fleet  the five phases on virtual hosts; needs the network of the test bed: tests/e2e/hosts/sandbox.sh ansible/tests/run.sh fleet
set -euo pipefail
here=$(cd -- "$(dirname "$0")" && pwd)
collection=$(dirname "$here")
what=${1:-all}
begin=$SECONDS
say() { echo "ansible: $* ($((SECONDS - begin)) s)"; }

say "Python environments"
current=$("$collection/venv.sh")
floor=$("$collection/venv.sh" "$collection/requirements-floor.txt")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export PYTHONDONTWRITEBYTECODE=1

lint() {
    # ansible-lint finds the collection's own roles and modules on a collections path only.
    mkdir -p "$work/ansible_collections/fettle"
    ln -s "$collection" "$work/ansible_collections/fettle/patching"
    say "yamllint"
    (cd "$collection" && "$current/bin/yamllint" --strict .)
    say "ansible-lint"
    (cd "$collection" && PATH=$current/bin:$PATH ANSIBLE_COLLECTIONS_PATH=$work "$current/bin/ansible-lint" --strict --nocolor)
    if command -v shellcheck >/dev/null; then
        say "shellcheck"
        shellcheck "$collection"/venv.sh "$collection"/image/rootfs.sh "$here"/*.sh
    fi
    say "build"
    "$current/bin/ansible-galaxy" collection build --output-path "$work" "$collection"
    say "documentation of the modules"
    local name names
    names=$(cd "$collection/plugins/modules" && ls -- *.py)
    for name in $names; do
        ANSIBLE_COLLECTIONS_PATH=$work "$current/bin/ansible-doc" --json "fettle.patching.${name%.py}" >/dev/null
    done
}

# a test waits for one process after the other, so that two beside each other use two cores
beside=(--numprocesses 2 --dist worksteal)
run_tests() {
    say "$1"
    shift
    # shellcheck disable=SC2086  # options
    FETTLE_VENVS="current=$current floor=$floor" "$current/bin/pytest" -p no:cacheprovider --basetemp "$work/pytest" \
        --durations=5 -v ${FETTLE_PYTEST:-} "$@"
}

case $what in
lint) lint ;;
test) run_tests "tests" "$here" ;;
fleet)
    export FETTLE_FLEET=1 FETTLE_BED=${FETTLE_BED:-$work/bed}
    run_tests "the five phases on virtual hosts" -s "$here/test_fleet.py" ;;
all)
    lint
    run_tests "tests" "${beside[@]}" "$here" ;;
*)
    sed -n '2,/^set /{/^#/s/^# \?//p}' "$0" >&2
    exit 2 ;;
esac
say "$what passed"
