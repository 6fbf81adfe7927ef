"""What a second run asks the judge again."""

import pytest
from case_files import every_line, read_cases
from judged import judge_cases, number_of


@pytest.fixture(scope="module")
def asked_again(exprl, tmp_path_factory):
    """The lines whose request a second run of the same command sends."""
    folder = tmp_path_factory.mktemp("ledger")
    cases, ledger = read_cases("ledger.jsonl"), ("--ledger", folder / "ledger")
    judge_cases(exprl, folder, cases, *ledger)
    _, bodies = judge_cases(exprl, folder, cases, *ledger)
    return {number_of(body) for body in bodies}


@every_line("ledger.jsonl")
def test_only_a_reply_with_a_grade_is_final(number, case, asked_again):
    assert (number in asked_again) == case["expected"]
