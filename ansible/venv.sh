#!/bin/sh
# venv.sh [REQUIREMENTS]: make the Python environment that the requirements pin unless it is there; prints its directory.
# Environments lie under ~/.cache/fettle/venv/, named by the content of the requirements and the Python version.
set -eu
here=$(CDPATH='' cd -- "$(dirname "$0")" && pwd)
requirements=${1:-$here/requirements.txt}
python=${PYTHON:-python3}
name=$({ cat "$requirements"; "$python" --version; } | sha256sum | cut -c1-16)
venv=${XDG_CACHE_HOME:-$HOME/.cache}/fettle/venv/$name
if [ ! -e "$venv/.complete" ]; then
    mkdir -p "$(dirname "$venv")"
    # One at a time; a second caller waits and finds it made.
    exec 9>"$venv.lock"
    flock 9
    if [ ! -e "$venv/.complete" ]; then
        begin=$(date +%s)
        echo "venv: installing $(grep -c == "$requirements") packages into $venv" >&2
        rm -rf "$venv"
        "$python" -m venv "$venv" >&2
        "$venv/bin/pip" install --quiet --disable-pip-version-check --requirement "$requirements" >&2
        touch "$venv/.complete"
        echo "venv: ready after $(($(date +%s) - begin)) s" >&2
    fi
fi
echo "$venv"
