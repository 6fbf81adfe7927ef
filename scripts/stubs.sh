#!/usr/bin/env bash
# Generates python/exprl/_core.pyi from the built extension. With --check, changes nothing and fails
# when the committed stubs are not what the binding generates, or not what the module holds.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

stubs=python/exprl/_core.pyi
rm -rf target/stubs
generated=target/stubs/exprl/_core.pyi
maturin generate-stubs --quiet --profile release --out target/stubs
# PyO3 copies hand-written annotations as strings and imports nothing for them.
sed -i '0,/^from typing import /s//import numpy\nimport numpy.typing\nfrom typing import Any, /' "$generated"
ruff check --quiet --fix-only --select F401,I,PYI020 "$generated"
ruff format --quiet "$generated"
if [[ ${1:-} != --check ]]; then
    cp "$generated" "$stubs"
    exit
fi
diff -u "$stubs" "$generated" ||
    { echo "error: $stubs is out of date; run: make stubs" >&2; exit 1; }
python -m mypy.stubtest --concise --mypy-config-file pyproject.toml exprl._core
