"""The judge dispatcher against other clients and on bad days. `python bench/judge PART [options]`.

Each part is a file beside this one with a `main(arguments)`; `--help` after a part explains it.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

HERE = Path(__file__).parent
# Parts import each other and the benchmarks' shared `_row` by plain names.
sys.path[:0] = [str(HERE), str(HERE.parent)]


def main() -> None:
    parts = sorted(path.stem for path in HERE.glob("[a-z]*.py"))
    parts = [part for part in parts if "\ndef main(" in (HERE / f"{part}.py").read_text()]
    part, *arguments = sys.argv[1:] or [""]
    if part not in parts:
        raise SystemExit(f"{__doc__}\nParts: {', '.join(parts)}")
    sys.argv[0] = f"bench/judge {part}"
    importlib.import_module(part).main(arguments)


if __name__ == "__main__":
    main()
