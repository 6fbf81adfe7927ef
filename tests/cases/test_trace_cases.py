"""Traces that try to end the text under judgement, or to speak as somebody else."""

import pytest
from canned_judge import asked_text
from case_files import every_line, read_cases
from judged import judge_cases, number_of


@pytest.fixture(scope="module")
def asked(exprl, tmp_path_factory):
    """What the judge was sent for each line."""
    fine = {"reply": "Score: 3", "finish_reason": "stop"}
    cases = [case | fine for case in read_cases("traces.jsonl")]
    _, bodies = judge_cases(exprl, tmp_path_factory.mktemp("traces"), cases)
    return {number_of(body): asked_text(body) for body in bodies}


@every_line("traces.jsonl")
def test_no_control_token_and_no_fence_of_a_trace_reaches_the_judge(number, case, asked):
    for forbidden in case["must_not_appear"]:
        assert forbidden not in asked[number]
    for kept in case["must_appear"]:
        assert kept in asked[number]
