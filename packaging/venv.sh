#!/bin/sh
# Makes .venv with MortalGPU in it: `sh packaging/venv.sh` to run it, `sh packaging/venv.sh dev` with all that its tests need.
# Needs Python 3.11 or newer. Where Debian left out ensurepip, it takes pip from the system, or installs python3-venv (as root).
set -eu
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
extra=${1:+[$1]}

"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
    echo "MortalGPU needs Python 3.11 or newer, and $python is $("$python" -V); set PYTHON to another" >&2
    exit 69
}

has_pip() { .venv/bin/python -m pip --version >/dev/null 2>&1; }

as_root() { if [ "$(id -u)" = 0 ]; then "$@"; else sudo -n "$@"; fi; }

if ! has_pip; then
    "$python" -m venv .venv >/dev/null 2>&1 || {
        rm -rf .venv
        echo "this Python cannot make virtual environments; installing the Debian package python3-venv" >&2
        as_root apt-get update -qq && as_root apt-get install -y -qq python3-venv >/dev/null
        "$python" -m venv .venv
    }
fi

# Only when something changed: the second run of a command should not wait for the network.
stamp=.venv/.installed
key="$(cat pyproject.toml mortalgpu/__init__.py | cksum) $extra $(pwd)"
if [ "$(cat $stamp 2>/dev/null)" != "$key" ]; then
    .venv/bin/python -m pip install -q --disable-pip-version-check -e ".$extra"
    echo "$key" >$stamp
fi
