#!/usr/bin/env bash
# Says what to install when cargo is missing or too old, or when there is no linker.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

fail() {
    printf 'error: %s\n' "$@" >&2
    exit 1
}

wanted=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml)
remedy="Install Rust with rustup (see rust-lang.org/tools/install), or bring yours up to date: rustup update stable"
command -v cargo >/dev/null || fail "cargo is missing: the core of exprl is written in Rust $wanted." "$remedy"
have=$(cargo --version | cut -d' ' -f2)
[[ $(printf '%s\n' "$wanted" "$have" | sort -V | head -n 1) == "$wanted" ]] ||
    fail "cargo $have is too old: exprl needs Rust $wanted." "$remedy"
command -v cc >/dev/null || fail "no C compiler (cc): Rust links with it." "Install one (Debian: apt install build-essential)."
