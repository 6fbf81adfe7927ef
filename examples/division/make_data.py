"""Write train.jsonl and test.jsonl: 16 and 32 hard problems, none of them in both."""

from __future__ import annotations

import json
import random
from pathlib import Path

from division import HARD_DIGITS, Problem, draw_problem

SEED = 20260617
N_TRAIN, N_TEST = 16, 32
HERE = Path(__file__).parent


def split() -> dict[str, list[Problem]]:
    """Draw the problems of both splits, all different."""
    rng = random.Random(SEED)
    drawn: dict[Problem, None] = {}
    while len(drawn) < N_TRAIN + N_TEST:
        drawn[draw_problem(rng, HARD_DIGITS)] = None
    problems = list(drawn)
    return {"train": problems[:N_TRAIN], "test": problems[N_TRAIN:]}


def rows(name: str, problems: list[Problem]) -> list[dict[str, str]]:
    """Turn one split's problems into the rows of its file."""
    return [
        {
            "id": f"division-{name}-{index:02d}",
            "problem": problem.prompt,
            "reference": problem.reference,
            "answer": problem.answer,
            "domain": "division",
        }
        for index, problem in enumerate(problems)
    ]


def main() -> None:
    for name, problems in split().items():
        lines = (json.dumps(row) + "\n" for row in rows(name, problems))
        (HERE / f"{name}.jsonl").write_text("".join(lines))


if __name__ == "__main__":
    main()
