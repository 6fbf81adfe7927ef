"""kill -9 at random points of a run, then the same command again: nothing acknowledged is lost.

    python bench/judge kill [--kills N] [--binary PATH]

Acknowledged is what stands as a whole line in the output. After each kill the same command runs on
the same ledger. Bars: every acknowledged grade comes from the ledger, unchanged, and of
what was sent before only what was in flight at the kill is sent again.
docs/project/benchmarks.md has what was seen.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from _row import Row, report
from questions import items

from exprl.judge import RuleJudge

ROOT = Path(__file__).parents[2]
IN_FLIGHT = 32


def acknowledged(output: Path) -> dict[str, dict[str, Any]]:
    """The whole lines of an output, by id."""
    text = output.read_text() if output.exists() else ""
    lines = text[: text.rfind("\n") + 1].splitlines()
    return {row["id"]: row for row in map(json.loads, lines)}


def counts(server: RuleJudge) -> tuple[int, int]:
    """Requests that came, and distinct contents among them."""
    stats = server.stats()
    return stats["requests"], stats["distinct"]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser("kill", description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--binary", type=Path, default=ROOT / "target/release/exprl-judge")
    options = parser.parse_args(arguments)
    chance = random.Random(options.seed)
    known: dict[str, int | None] = {}
    lost = changed = 0
    again: list[float] = []
    with (
        tempfile.TemporaryDirectory() as folder,
        RuleJudge("numbers", latency_ms=20, jitter_ms=40) as server,
    ):
        source, output = Path(folder) / "in.jsonl", Path(folder) / "out.jsonl"
        lines = [
            {
                "id": item.id,
                "problem": item.problem,
                "reference": item.reference,
                "trace": "".join(item.segments),
            }
            for item in items(250 * options.kills)
        ]
        source.write_text("".join(json.dumps(line) + "\n" for line in lines))
        command = [str(options.binary), "score", "--endpoint", server.url, "--model", server.model]
        command += ["--ledger", f"{folder}/ledger", "--concurrency", str(IN_FLIGHT)]
        for kill in range(options.kills + 1):
            requests, distinct = counts(server)
            with source.open() as stdin, output.open("w") as stdout:
                process = subprocess.Popen(
                    command, stdin=stdin, stdout=stdout, stderr=subprocess.DEVNULL
                )
                if kill < options.kills:
                    time.sleep(chance.uniform(0.05, 0.6))
                    process.kill()
                process.wait()
            rows = acknowledged(output)
            for name, row in rows.items():
                if name in known:
                    lost += not row["from_cache"]
                    changed += row["grade"] != known[name]
                known[name] = row["grade"]
            sent, met = counts(server)
            again.append((sent - requests) - (met - distinct))
        complete = len(rows)
    ended = process.returncode
    note = f"{options.kills} kills, {complete} of {len(lines)} lines at the end (exit {ended}), "
    note += f"{lost} acknowledged grades lost, {changed} changed; sent again at most "
    note += f"{max(again):.0f} of {IN_FLIGHT} in flight"
    extra = {
        "kills": options.kills,
        "lost": lost,
        "changed": changed,
        "sent_again": again,
        "in_flight": IN_FLIGHT,
        "complete": complete,
    }
    report("judge_kill", [Row("requests sent again after a kill", again, "", note, extra)])


if __name__ == "__main__":
    main()
