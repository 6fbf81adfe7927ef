#!/usr/bin/env bash
# Generates python/exprl/_core.pyi from the built extension. With --check, changes nothing and fails
# when the committed stubs are not what the binding generates, or not what the module holds.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

stubs=python/exprl/_core.pyi
rm -rf target/stubs
maturin generate-stubs --quiet --profile release --out target/stubs
ruff format --quiet target/stubs
if [[ ${1:-} != --check ]]; then
    cp target/stubs/exprl/_core.pyi "$stubs"
    exit
fi
diff -u "$stubs" target/stubs/exprl/_core.pyi ||
    { echo "error: $stubs is out of date; run: make stubs" >&2; exit 1; }
python -m mypy.stubtest --concise --mypy-config-file pyproject.toml exprl._core
