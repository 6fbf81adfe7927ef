#!/usr/bin/env bash
# Sees to a Chromium for the tests of the report and the viewer: installs Debian's where none is on
# PATH and this user may (root, apt-get). Elsewhere it says what to do, and those tests skip.
set -euo pipefail

for name in chromium chromium-browser google-chrome; do
    if command -v "$name" >/dev/null; then
        exit 0
    fi
done

skipped() {
    printf 'no Chromium: %s.\nThe tests in tests/browser skip. Install one (Debian: apt install chromium).\n' "$1" >&2
    exit 0
}

[[ $(id -u) == 0 ]] || skipped 'this user may not install one'
command -v apt-get >/dev/null || skipped 'this machine has no apt-get to install one with'
echo 'Installing Chromium with apt-get'
export DEBIAN_FRONTEND=noninteractive
install=(timeout 600 apt-get -qq -y install --no-install-recommends chromium)
# The lists of packages may be missing, as in a fresh container, or too old.
"${install[@]}" >/dev/null 2>&1 || { timeout 300 apt-get -qq update && "${install[@]}" >/dev/null; } ||
    skipped 'apt-get could not install it'
