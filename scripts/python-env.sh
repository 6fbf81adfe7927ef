#!/usr/bin/env bash
# Makes .venv hold exactly what requirements/cpu.txt pins, from the package registries that this
# machine is configured for. Needs Python and one of: uv, pip, the venv module. Never needs root.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# The interpreter must be one that outlives .venv, so .venv's own is not looked at.
PATH=${PATH#"$PWD/.venv/bin:"}
unset VIRTUAL_ENV
export UV_PYTHON_DOWNLOADS=never PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore

fail() {
    printf 'error: %s\n' "$@" >&2
    exit 1
}

# Prints the path of the first interpreter in the supported range; $PYTHON goes first.
find_python() {
    local candidate
    for candidate in ${PYTHON:+"$PYTHON"} python3 python3.13 python3.12 python3.11; do
        "$candidate" -c '
import sys
sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13) or print(sys.executable))' 2>/dev/null && return
    done
    fail "no Python 3.11, 3.12 or 3.13 found${PYTHON:+ (PYTHON=$PYTHON was tried first)}." \
        "Install one (Debian: apt install python3 python3-pip) or name it: make PYTHON=/path/to/python3 ..."
}

# Prints the path of uv; fetches the pinned one into .venv-tools when the machine has none that runs.
# `pip --target` is allowed where the distribution forbids pip to touch its own packages (PEP 668).
find_uv() {
    local python=$1 pin
    if uv --version >/dev/null 2>&1; then
        command -v uv
        return
    fi
    if ! .venv-tools/bin/uv --version >/dev/null 2>&1; then
        pin=$(grep '^uv==' requirements/cpu.txt)
        rm -rf .venv-tools
        if "$python" -m pip --version >/dev/null 2>&1; then
            "$python" -m pip install --quiet --target .venv-tools "$pin" >&2
        elif "$python" -c 'import ensurepip' 2>/dev/null; then
            "$python" -m venv .venv-tools
            .venv-tools/bin/python -m pip install --quiet "$pin" >&2
        else
            fail "uv is missing and $python has neither pip nor venv to fetch it with." \
                "Install one of them (Debian: apt install python3-pip)."
        fi
    fi
    echo "$PWD/.venv-tools/bin/uv"
}

# pip's configured index, for machines whose registry was configured for pip alone.
pip_index() {
    [[ -z ${UV_DEFAULT_INDEX:-}${UV_INDEX_URL:-}${UV_CONFIG_FILE:-} ]] || return 0
    [[ ! -e ${XDG_CONFIG_HOME:-$HOME/.config}/uv/uv.toml && ! -e /etc/uv/uv.toml ]] || return 0
    "$1" -m pip config get global.index-url 2>/dev/null || true
}

python=$(find_python)
uv=$(find_uv "$python")
index=$(pip_index "$python")
[[ -z $index ]] || export UV_DEFAULT_INDEX=$index

if ! .venv/bin/python -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null; then
    rm -rf .venv
    "$uv" venv --quiet --python "$python" .venv
fi
echo "Installing the pinned packages into .venv (about 6 GB, from a cold cache a few minutes)"
quiet=--quiet
[[ ! -t 2 ]] || quiet=
VIRTUAL_ENV=$PWD/.venv "$uv" pip sync $quiet --compile-bytecode requirements/cpu.txt
