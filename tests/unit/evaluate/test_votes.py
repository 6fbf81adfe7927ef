"""Which answers are one answer."""

import pytest

from exprl.evaluate import votes
from exprl.verify import answer


def test_equal_numbers_are_one_answer_however_they_are_written(monkeypatch):
    monkeypatch.setattr(answer, "is_equal", None)  # plain numbers do not ask it
    assert votes.count_votes(["0.5", "1/2", "$0.50$", "2", "+2.0", "-2", "2."], "math") == (3, 3, 1)


def test_other_answers_are_compared_by_the_verifier():
    answers = [r"\frac{\sqrt{2}}{2}", r"\frac{1}{\sqrt{2}}", r"\sqrt{2}", "x+1", "1+x"]
    assert votes.count_votes(answers, "math") == (2, 2, 1)


def test_codes_are_equal_as_text_only():
    assert votes.count_votes(["02", "2", " 02 "], "exact") == (2, 1)
    assert votes.count_votes([], "math") == ()


def test_one_problem_cannot_keep_the_verifier_busy_for_ever(monkeypatch):
    asked = []
    monkeypatch.setattr(answer, "is_equal", lambda a, b: asked.append(a))
    names = [f"x_{{{i}}}" for i in range(60)]
    assert votes.count_votes([*names, names[0]], "math") == (2, *[1] * 59)
    assert len(asked) == votes.MOST_COMPARISONS


@pytest.mark.parametrize("text", ["1/0", "٣", "1e5", "9" * 400, "1/", "∞", ""])
def test_what_is_no_plain_number_does_no_harm(text, monkeypatch):
    monkeypatch.setattr(answer, "is_equal", lambda a, b: a == b)
    assert sum(votes.count_votes([text, "1"], "math")) == 2


def test_each_verifier_has_its_own_equality():
    assert votes.count_votes(["B", "C", "B"], "choice") == (2, 1)
    assert votes.count_votes(["3.00", "3.01", "4"], "science") == (2, 1)
    assert votes.count_votes([], "code") is None
