#!/usr/bin/env bash
# Gathers in .whl what bench/gpu/run.sh needs on a machine without network: the wheels of requirements.txt for CPython 3.12
# on x86-64, and exprl's Rust extension as it is built here. Then says what the whole weighs; more than LIMIT_MB is an error.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cd "$here/../.."
LIMIT_MB=60
extension=python/exprl/_core.abi3.so

[[ -e $extension ]] || { echo "error: $extension is missing; build it first: make setup" >&2; exit 1; }
newer=$(find rust Cargo.toml Cargo.lock -newer "$extension" -name '*.[rt][so]*' -print -quit)
[[ -z $newer ]] || { echo "error: $extension is older than $newer; build it again: make setup" >&2; exit 1; }
# maturin leaves the interpreter's library out; a plain `cargo build` links this machine's, which no other has.
if grep -aq 'libpython3\.[0-9]*\.so' "$extension"; then
    echo "error: $extension needs this machine's libpython; build it with: make setup" >&2
    exit 1
fi
# The pinned .venv has no pip.
for python in "${PYTHON:-python3}" /usr/bin/python3 /usr/local/bin/python3 ''; do
    [[ -n $python ]] || { echo 'error: no Python with pip; name one: PYTHON=/path/to/python3' >&2; exit 1; }
    "$python" -m pip --version >/dev/null 2>&1 && break
done
rm -rf .whl
mkdir .whl
platforms=()
for name in 2_28 2_27 2_24 2_17 2014 1; do
    case $name in 2014 | 1) name=manylinux$name ;; *) name=manylinux_$name ;; esac
    platforms+=(--platform "${name}_x86_64")
done
"$python" -m pip download --quiet --no-deps --only-binary=:all: --python-version 3.12 --implementation cp \
    --abi cp312 --abi abi3 --abi none "${platforms[@]}" --dest .whl --requirement "$here/requirements.txt"
cp "$extension" .whl/

# abi3: any Python from 3.11 on loads it; the C library there must be at least as new as the newest symbol it asks for.
newest=$(grep -ao 'GLIBC_2\.[0-9]*' "$extension" | sort -uV | tail -n 1)
tree=$(git ls-files -z --cached --others --exclude-standard | xargs -0 du -cb --apparent-size | awk '$2 == "total" { sum += $1 } END { print sum }')
wheels=$(du -cb .whl/* | awk '$2 == "total" { sum += $1 } END { print sum }')
ls -l .whl | awk 'NR > 1 { printf "%9.2f MB  %s\n", $5 / 1e6, $9 }'
echo "$tree $wheels $LIMIT_MB" | awk -v glibc="$newest" '{
    printf "checkout %.1f MB + .whl %.1f MB = %.1f MB of %d; the extension needs %s\n", $1/1e6, $2/1e6, ($1+$2)/1e6, $3, glibc
    if ($1 + $2 > $3 * 1e6) { print "error: too much to bring along" > "/dev/stderr"; exit 1 }
}'
