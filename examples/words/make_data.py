"""Write train.jsonl, test_numbers.jsonl and test_stories.jsonl.

    python examples/words/make_data.py

The first test set tells the stories of training with numbers that no problem of training has. The
second one tells other stories, with such numbers too. A problem is a short chat: one example of
what is wanted, then the story.
"""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from stories import NAMES, TEST, TRAIN
from words import Problem, Template, draw_problem

SEED = 20260617
N_TRAIN, N_TEST = 120, 32
HERE = Path(__file__).parent

SYSTEM = "Do sums."
EXAMPLE = (
    "Kim has 13 nuts, finds 4 and eats 2. How many are left?",
    "13 + 4 = 17 nuts\n17 - 2 = 15 nuts\n#### 15",
)
"""Without it the model writes prose and hardly ever marks an answer (README.md, difficulty)."""


def draw(
    rng: random.Random, templates: Sequence[Template], count: int, taken: set[tuple[int, ...]]
) -> list[Problem]:
    """Draw problems of all templates in turn, all different, without the numbers in `taken`.

    No answer is that of more than a twentieth of them: guessing the commonest must not pay.
    """
    drawn: dict[str, Problem] = {}
    answers: Counter[str] = Counter()
    while len(drawn) < count:
        template = templates[len(drawn) % len(templates)]
        problem = draw_problem(rng, template, NAMES)
        if problem.givens not in taken and answers[problem.answer] < -(-count // 20):
            answers[problem.answer] += problem.text not in drawn
            drawn[problem.text] = problem
    return list(drawn.values())


def split() -> dict[str, list[Problem]]:
    """The problems of each file."""
    rng = random.Random(SEED)
    train = draw(rng, TRAIN, N_TRAIN, set())
    taken = {problem.givens for problem in train}
    return {
        "train": train,
        "test_numbers": draw(rng, TRAIN, N_TEST, taken),
        "test_stories": draw(rng, TEST, N_TEST, taken),
    }


def messages(problem: Problem) -> list[dict[str, str]]:
    """What the policy sees."""
    asked, answered = EXAMPLE
    return [
        {"role": "system", "content": SYSTEM},
        {"role": "user", "content": asked},
        {"role": "assistant", "content": answered},
        {"role": "user", "content": problem.text},
    ]


def row(name: str, index: int, problem: Problem) -> dict[str, Any]:
    return {
        "id": f"words-{name}-{index:03d}",
        "problem": messages(problem),
        "reference": problem.reference,
        "answer": problem.answer,
    }


def main() -> None:
    for name, problems in split().items():
        rows = (row(name, index, problem) for index, problem in enumerate(problems))
        lines = (json.dumps(one, ensure_ascii=False) + "\n" for one in rows)
        (HERE / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")


if __name__ == "__main__":
    main()
