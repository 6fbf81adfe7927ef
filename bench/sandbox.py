"""What confinement costs: a program, and a program with its unit tests, beside no confinement.

    python bench/sandbox.py [HUMANEVAL/HumanEval.jsonl.gz]

The rival runs program and tests in one bare interpreter, as most harnesses do; it holds nothing.
bubblewrap is timed where it is installed. With HumanEval, all canonical solutions are run, as many
at a time as there are cores, and must pass.
"""

from __future__ import annotations

import argparse
import gzip
import json
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from _row import Row, report, seconds

from exprl import config
from exprl.verify.sandbox.sandbox import Sandbox

PROGRAM = "def f(x):\n    return x + 1\n"
TESTS = "def check(candidate):\n    assert candidate(1) == 2\n\ncheck(f)\n"
BWRAP = "bwrap --ro-bind / / --tmpfs /tmp --unshare-all --die-with-parent".split()  # noqa: SIM905


def bare(command: list[str]) -> None:
    """Program and tests in one interpreter."""
    subprocess.run([*command, sys.executable, "-I", "-S", "-c", PROGRAM + TESTS], check=True)


def tested(sandbox: Sandbox) -> None:
    """Program and tests, each in a jail."""
    assert sandbox.test(PROGRAM, TESTS).verdict == "passed"


def humaneval(sandbox: Sandbox, path: Path) -> float:
    """Seconds for all canonical solutions."""
    with gzip.open(path, "rt", encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]

    def passes(row: dict[str, str]) -> bool:
        tests = f"{row['test']}\n\ncheck({row['entry_point']})\n"
        program = row["prompt"] + row["canonical_solution"]
        return sandbox.test(program, tests, row["prompt"]).verdict == "passed"

    start = time.perf_counter()
    with ThreadPoolExecutor(sandbox.workers) as pool:
        assert all(pool.map(passes, rows))
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("humaneval", type=Path, nargs="?")
    parser.add_argument("--repeats", type=int, default=20)
    arguments = parser.parse_args()
    n = arguments.repeats
    sandbox = Sandbox(config.Sandbox(require=()))
    held = [h.name for h in sandbox.held if h.holds]
    rows = [
        Row("bare interpreter", seconds(lambda: bare([]), n), note="holds nothing"),
        Row("exprl, a program", seconds(lambda: sandbox.run(PROGRAM), n), extra={"held": held}),
        Row("exprl, with tests", seconds(lambda: tested(sandbox), n), extra={"held": held}),
        Row("exprl, opening", seconds(lambda: Sandbox(config.Sandbox(require=())), 5)),
    ]
    if shutil.which("bwrap"):
        rows.append(Row("bubblewrap", seconds(lambda: bare(BWRAP), n), note="without limits"))
    if arguments.humaneval:
        taken = [humaneval(sandbox, arguments.humaneval) for _ in range(2)]
        rows.append(Row("HumanEval, 164", taken, extra={"workers": sandbox.workers}))
    report("sandbox", rows)


if __name__ == "__main__":
    main()
