"""What counts as a right answer, and which gold answers cannot be read."""

import pytest
from case_files import Case, every_line

from exprl import config
from exprl.errors import DataError
from exprl.types import Problem, Prompt
from exprl.verify.verifiers import Verifiers, check_answers

KEYS = {"model": {"path": "m"}, "data": {"path": "d"}, "judge": {"kind": "rules"}}


@pytest.fixture(scope="module")
def verifiers():
    verifiers = Verifiers(config.build(KEYS).treatment)
    yield verifiers
    verifiers.close()


def verdict(verifiers: Verifiers, case: Case) -> bool | str:
    """Right, wrong, or `missing`: also where the row is refused before the run."""
    problem = Problem("p", Prompt("p", ()), case["gold"], case["domain"])
    try:
        check_answers(config.build(KEYS).treatment, [problem])
    except DataError:
        return "missing"
    correct = verifiers.is_correct(case["text"], problem)
    return "missing" if correct is None else correct


@every_line("answers.jsonl")
def test_only_a_marked_final_answer_counts(number, case, verifiers):
    assert verdict(verifiers, case) in [case["expected"], *case.get("also_ok", [])]
