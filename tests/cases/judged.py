"""`exprl judge score` over cases: what it writes for the replies that a case has."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

from canned_judge import Body, Reply, asked_text, canned_judge, completion, is_reask
from case_files import Case

Command = Callable[..., subprocess.CompletedProcess[str]]
MARK = re.compile(r"CASE\[(\d+)\]")


def number_of(body: Body) -> int:
    """The line of the case that a request belongs to."""
    found = MARK.search(asked_text(body))
    assert found is not None
    return int(found[1])


def judge_cases(
    exprl: Command, folder: Path, cases: Sequence[Case], *options: str | Path
) -> tuple[dict[int, Case], list[Body]]:
    """Rows that the command writes, by the number of their case, and the requests that it sent."""
    given, out = folder / "given.jsonl", folder / "out.jsonl"
    given.write_text("".join(f"{json.dumps(_row(i, case))}\n" for i, case in enumerate(cases, 1)))
    out.unlink(missing_ok=True)

    def reply(body: Body) -> Reply:
        case = cases[number_of(body) - 1]
        if is_reask(body):
            return completion("none")
        apart = {k: case[k] for k in ("reasoning_content", "reasoning") if k in case}
        return completion(case["reply"], case["finish_reason"], case.get("tokens"), **apart)

    with canned_judge(reply) as server:
        result = exprl(
            *("judge", "score", given, "-o", out, "--endpoint", server.url, "--model", "m"),
            *("--max-missing", "1", "--attempts", "1", "--hedge", "0", "--concurrency", "8"),
            *options,
        )
    assert out.exists(), result.stderr
    written = [json.loads(line) for line in out.read_text().splitlines()]
    return {int(row["id"]): row for row in written}, server.bodies


def _row(number: int, case: Case) -> Case:
    problem = f"What is 2 + 2? CASE[{number}]"
    trace = case.get("trace", "It is 4.")
    return {"id": str(number), "problem": problem, "reference": "2 + 2 = 4", "trace": trace}
