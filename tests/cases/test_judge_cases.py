"""Replies of judges: which grade they give, if any."""

import pytest
from case_files import every_line, read_cases
from judged import judge_cases


@pytest.fixture(scope="module")
def graded(exprl, tmp_path_factory):
    folder = tmp_path_factory.mktemp("replies")
    return judge_cases(exprl, folder, read_cases("judge_replies.jsonl"), "--no-reask")[0]


@pytest.fixture(scope="module")
def expected_scores(exprl, tmp_path_factory):
    folder = tmp_path_factory.mktemp("readout")
    options = ("--no-reask", "--readout", "expected")
    return judge_cases(exprl, folder, read_cases("readout.jsonl"), *options)[0]


@every_line("judge_replies.jsonl")
def test_a_reply_gives_the_grade_that_it_says_or_none(number, case, graded):
    row = graded[number]
    status = "reask" if row["status"] == "unparseable" else row["status"]
    seen = status if row["grade"] is None else row["grade"]
    assert seen in [case["expected"], *case.get("also_ok", [])]


@every_line("readout.jsonl")
def test_the_expected_score_is_that_of_the_verdicts_digit(number, case, expected_scores):
    assert expected_scores[number]["score"] == pytest.approx(case["expected"], abs=1e-6)
