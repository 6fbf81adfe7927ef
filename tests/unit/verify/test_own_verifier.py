"""A verifier may be a function of the user's; what it does not say is missing, not wrong."""

import json
from pathlib import Path

import pytest

from exprl import config
from exprl.errors import ConfigError
from exprl.evaluate.votes import count_votes
from exprl.functions.pool import Functions
from exprl.run.functions import try_verifiers
from exprl.study import verify_command
from exprl.types import Message, Problem, Prompt
from exprl.verify.verifiers import Verifiers, check_answers

RULES = """
import time
def check(text, answer):
    if text == "raise":
        raise ValueError("no verdict")
    if text == "hang":
        time.sleep(600)
    return {"yes": True, "no": 0, "unsure": None, "half": 0.5}.get(text, text == answer)

def check_all(text, answer, more_answers, question):
    return [text] == [answer] or text in more_answers or question == text
"""


def problem(answer="42", **values):
    return Problem("p", Prompt("p", (Message("user", "6*7="),)), answer, "own", **values)


@pytest.fixture
def verifiers(tmp_path, monkeypatch):
    """Opens the verifiers of a config whose domain `own` is verified by a function of RULES."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rules_of_a_user.py").write_text(RULES)
    opened = []

    def open_verifiers(name="check", **limits):
        tree = {
            "model": {"path": "m"},
            "data": {"path": "d", "domain": "own"},
            "judge": {"kind": "rules"},
            "domains": {"own": {"verifier": f"rules_of_a_user:{name}"}},
            "functions": limits,
        }
        cfg = config.build(tree)
        opened.append(Verifiers(cfg.treatment, None, Functions(cfg.functions)))
        return opened[-1]

    yield open_verifiers
    for one in opened:
        one.close()


@pytest.mark.parametrize(
    ("text", "correct", "reason"),
    [
        ("42", True, "the verifier says right"),
        ("41", False, "the verifier says wrong"),
        ("yes", True, "the verifier says right"),
        ("no", False, "the verifier says wrong"),
        ("unsure", None, "the verifier does not know"),
        ("raise", None, "ValueError: no verdict"),
        ("half", None, "it returned 0.5; a verifier returns True or False"),
    ],
)
def test_a_trace_is_right_wrong_or_not_known_as_the_function_says(verifiers, text, correct, reason):
    verdict = verifiers().examine(text, problem())
    assert verdict.correct is correct
    assert reason in verdict.reason


def test_a_verifier_that_hangs_leaves_the_verdict_out(verifiers):
    verdict = verifiers(timeout_s=1.0).examine("hang", problem())
    assert verdict.correct is None
    assert "took longer than functions.timeout_s = 1 s" in verdict.reason


def test_a_row_of_several_answers_needs_a_function_that_asks_for_all(verifiers):
    several = problem(more_answers=("forty-two",))
    assert "parameter `more_answers`" in verifiers().examine("42", several).reason
    every = verifiers("check_all")
    assert [every.is_correct(x, several) for x in ("42", "forty-two", "6*7=", "x")] == [
        True,
        True,
        True,
        False,
    ]


def test_rows_of_several_answers_are_refused_before_the_first_step(verifiers):
    rows = [problem(), problem(more_answers=("forty-two",))]
    with pytest.raises(ConfigError, match="give the function a parameter `more_answers`"):
        list(try_verifiers(verifiers(), rows))
    assert len(list(try_verifiers(verifiers("check_all"), rows))) == 1


def test_gold_answers_are_the_functions_to_read(verifiers):
    own = verifiers()
    row = problem(answer="see the figure")
    assert own.read_golds(row).answers == ("see the figure",)
    assert check_answers(own._treatment, [row]) == []
    assert own.is_correct("see the figure", row) is True


def test_answers_of_own_functions_cannot_vote(verifiers):
    own = verifiers()
    assert own.find_answer(r"\boxed{42}", "own") is None
    assert count_votes(["42"], own.kind("own")) is None
    assert own.describe_search([problem()]) == "rules_of_a_user:check"


def test_a_verifier_that_fails_on_a_real_row_is_refused_before_the_first_step(verifiers):
    own = verifiers()
    assert list(try_verifiers(own, [problem("7")])) == [
        "rules_of_a_user:check calls '\\boxed{7}' of 'p' wrong"
    ]
    Path("rules_of_a_user.py").write_text("def check(text, answer): return 'yes'")
    with pytest.raises(ConfigError, match="it returned 'yes'; a verifier returns True or False"):
        list(try_verifiers(verifiers(), [problem()]))


def test_exprl_verify_takes_a_function(verifiers, tmp_path):
    verifiers()
    rows = [{"id": str(i), "answer": "42", "trace": t} for i, t in enumerate(("42", "41", "raise"))]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    name = config.FunctionName("rules_of_a_user:check")
    request = verify_command.Request(
        tmp_path / "rows.jsonl", verifier=name, out=tmp_path / "out.jsonl"
    )
    assert verify_command.command(request) == 0.0
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [line["correct"] for line in lines] == [True, False, None]
    assert "ValueError" in lines[2]["reason"]
