"""Which verifier a row gets, and what each calls right."""

import gzip
import json
from types import SimpleNamespace

import pytest

from exprl import config
from exprl.errors import ConfigError, DataError, SandboxError
from exprl.types import Problem, Prompt
from exprl.verify import choice, code, quantity, verifiers
from exprl.verify.answer import find_answer
from exprl.verify.verifiers import Verifiers

TESTS = "def check(candidate):\n    assert candidate(2) == 3\n\ncheck(inc)\n"
SETUP = 'import math\n\ndef inc(x):\n    """One more."""\n'


def problem(domain, answer, setup=""):
    return Problem("p", Prompt("p", ()), answer, domain, setup=setup)


def cfg(**sections):
    tree = {"model": {"path": "m"}, "data": {"path": "d"}, "judge": {"kind": "rules"}}
    return config.build(tree | sections)


@pytest.fixture(scope="module")
def sandbox(confined):
    return confined(timeout_s=10, cpu_s=2)


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        (r"So \boxed{C}", "C"),
        (r"\boxed{\text{(C)}}", "C"),
        (r"\boxed{C) 5 m/s}", "C"),
        (r"\boxed{A}, no: \boxed{B}", "B"),
        ("Answer: (C)", "C"),
        ("**Answer: B**", "B"),
        ("The correct option is **(D)**.", "D"),
        ("Option A is wrong. The answer is B because of friction.", "B"),
        ("The answer is A, since it fits", "A"),
        ("First A.\n\n(C)", "C"),
        ("C.", "C"),
        # Nothing is guessed:
        ("The answer is A or B.", None),
        ("Answer: (A) and (B)", None),
        (r"\boxed{A, C}", None),
        (r"\boxed{12}", None),
        ("The answer is A good idea", None),
        ("Answer: A\nAnswer: B", "B"),
        ("Answer: A.\n\nAnswer: (C).", "C"),
        ("The answer is not B", None),
        ("The answer is Boron", None),
        ("Both A and C hold, and so does B", None),
        ("", None),
    ],
)
def test_the_letter_of_a_choice_where_the_search_is_lenient(text, letter):
    assert choice.find_letter(text) == letter


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        (r"So \boxed{C}", "C"),
        (r"\boxed{\text{(C)}}", "C"),
        (r"\boxed{C) 5 m/s}", "C"),
        (r"\boxed{A}, no: \boxed{B}", "B"),
        ("Answer: (C)", "C"),
        ("**Answer: B**", "B"),
        ("Answer: B. It does not move", "B"),
        ("The correct option is **(D)**.", "D"),
        ("Option A is wrong.\nThe answer is B.", "B"),
        ("#### C", "C"),
        ("Answer: A.\n\nAnswer: (C).", "C"),
        # Nothing is guessed:
        ("C.", None),
        ("First A.\n\n(C)", None),
        (r"\boxed{C} no: \boxed{", None),
        ("The answer is B because of friction.", None),
        ("The answer is A or B.", None),
        ("Answer: (A) and (B)", None),
        ("Answer: B. No, C", None),
        ("Answer: B?", None),
        ("Answer: B is impossible", None),
        ("Option B is wrong.", None),
        ("The answer is not B", None),
        ("I doubt that the answer is B", None),
        ("Answer: I do not know", None),
        ("The answer is A good idea", None),
        ("<think>Answer: B</think>", None),
        (r"\boxed{A, C}", None),
        (r"\boxed{12}", None),
    ],
)
def test_the_letter_that_is_marked(text, letter):
    assert choice.find_marked_letter(text).answer == letter


@pytest.mark.parametrize(
    ("found", "gold", "same"),
    [
        ("4.52e33", "4.5e33", True),
        (r"4.5 \times 10^{33}\ \mathrm{erg/s}", "4.5e33", True),
        (r"1.6 \mathrm{~cm}", "1.6", True),
        (r"1.6 \mathrm{~cm}", r"1.6\ \text{cm}", True),
        (r"1.6 \mathrm{~m}", r"1.6\ \text{cm}", False),
        ("10^5", "100000", True),
        ("1,000 km", "1000", True),
        (r"4.5 \text{ m/s}", "4.5 m/s", True),
        ("2500 J", r"2.5 \times 10^3\ \text{J}", True),
        (r"4.5 \text{ m/s}", "4.5 m s", False),
        (r"4.5 \text{ m}", "4.5 x", False),
        ("12", "13", False),
        ("0", "0.0", True),
        ("-3.0", "3.0", False),
        ("-\n3.0", "-3", True),
        ("3x", "3", False),
        (r"2\pi", "2", False),
        ("3^2", "3", False),
        (r"\frac{1}{2}", "0.5", True),
        ("1e400", "1e400", True),
        ("nan", "1", False),
    ],
)
def test_quantities(found, gold, same):
    assert quantity.is_equal(found, gold) is same


def test_every_solution_of_minerva_has_its_own_answer(shared_data):
    rows = [json.loads(x) for x in shared_data("minerva/test.jsonl").read_text().splitlines()]
    golds = [find_answer(row["solution"]) for row in rows]
    assert len(golds) == 272 and None not in golds
    science = Verifiers(cfg().treatment)
    assert all(
        science.is_correct(row["solution"], problem("science", gold))
        for row, gold in zip(rows, golds, strict=True)
    )


FENCED = "Think.\n\n```python\ndef inc(x):\n    return x + 1\n```\n"
RIGHT = {
    "a block": FENCED,
    "an unnamed block": FENCED.replace("python", ""),
    "a block cut short": FENCED.removesuffix("```\n"),
    "then an example": FENCED + "Try it:\n```python\nprint(inc(41))\n```\n",
    "then its output": FENCED + "```text\n42\n```\n",
    "a corrected one": "```python\ndef inc(x):\n    return x\n```\nNo:\n" + FENCED,
    "no fence": "def inc(x):\n    return x + 1\n",
    "a completion": "    return x + 1\n",
    "a completion in a block": "```python\n    return x + 1\n```",
    "a completion that runs on": "    return x + 1\n\nThat is it!\n",
    "a completion with another function": "    return one() + x\n\ndef one():\n    return 1\n",
    "from the future": "```py\nfrom __future__ import annotations\n"
    "def inc(x: Any):\n  return x + 1\n```",
    "uses an import of the setup": "    return x + math.ceil(0.5)\n",
}
WRONG = {
    "wrong": "```python\ndef inc(x):\n    return x\n```",
    "nothing": "",
    "prose": "I would add one to it.",
    "a wrong last word": FENCED + "Better:\n```python\ndef inc(x):\n    return 2 * x\n```",
    "not python": "```python\ndef inc(x) return x\n```",
}


@pytest.mark.parametrize("name", [*RIGHT, *WRONG])
def test_the_program_in_a_trace(sandbox, name):
    text = (RIGHT | WRONG)[name]
    assert code.passes(sandbox, text, TESTS, SETUP) is (name in RIGHT)


def test_tests_that_ask_nothing_leave_it_open(sandbox):
    assert code.passes(sandbox, FENCED, "def check(candidate): pass\n") is None


def test_tests_by_input_and_output(sandbox):
    tests = json.dumps({"inputs": ["2\n", ["3", ""]], "outputs": ["3", ["4 ", ""]]})
    right = "```python\nprint(int(input()) + 1)\n```"
    assert code.passes(sandbox, right, tests) is True
    assert code.passes(sandbox, right.replace("+ 1", "+ 2"), tests) is False
    assert code.passes(sandbox, right.replace("+ 1", "+ 1); exit(1"), tests) is False


@pytest.mark.parametrize(
    ("tests", "message"),
    [
        ('{"inputs": ["1"], "outputs": []}', "equally many"),
        ('{"inputs": [], "outputs": []}', "at least one"),
        ('{"inputs": [1], "outputs": ["1"]}', "texts"),
        ("{1: 2", "JSON"),
        ("assert f(1 == 2", "the tests are not Python"),
    ],
)
def test_tests_that_cannot_be_run_are_refused_before_the_run(tests, message):
    with pytest.raises(DataError, match=f"id 'p', domain 'code': .*{message}"):
        verifiers.check_answers(cfg().treatment, [problem("code", tests)])


def test_answers_that_cannot_be_read_are_given_back_and_are_missing():
    rows = [problem("choice", "2"), problem("math", "see figure"), problem("science", "N/A")]
    fine = [problem("choice", "(B)"), problem("math", "2"), problem("code", None)]
    assert verifiers.check_answers(cfg().treatment, [*rows, *fine]) == rows
    assert [Verifiers(cfg().treatment).is_correct(r"\boxed{B}", row) for row in rows] == [None] * 3
    said = verifiers.describe_unreadable(cfg().treatment, rows[0])
    assert said == "row with the id 'p': '2' names no letter A..J"


def test_a_reward_by_the_verifier_needs_one_answer_that_can_be_read():
    sparse = cfg(method="sparse-grpo").treatment
    lost = [problem("math", "see figure"), problem("math", "-")]
    with pytest.raises(DataError, match=r"'see figure' .* so it is with all 2 rows"):
        verifiers.check_answers(sparse, lost)
    assert verifiers.check_answers(cfg().treatment, lost) == lost
    assert verifiers.check_answers(sparse, [*lost, problem("math", "3")]) == lost


def test_the_domain_chooses_and_the_config_may_choose_otherwise():
    plain = Verifiers(cfg().treatment)
    assert plain.is_correct(r"\boxed{(B)}", problem("choice", "B")) is True
    assert plain.is_correct(r"\boxed{1.002}", problem("science", "1")) is True
    assert plain.is_correct(r"\boxed{1.002}", problem("math", "1")) is False
    assert plain.is_correct(r"\boxed{02r1}", problem("exact", "2r1")) is False
    assert plain.is_correct(r"\boxed{1}", problem("math", None)) is None
    other = Verifiers(cfg(domains={"gpqa": {"verifier": "choice"}}).treatment)
    assert other.is_correct("Answer: C", problem("gpqa", "C")) is True
    assert plain.is_correct("Answer: C", problem("gpqa", "D")) is False


def test_a_domain_may_be_searched_leniently():
    text = "She sells 42 of them."
    strict = cfg(domains={"gsm": {"verify": "lenient"}}).treatment
    assert Verifiers(strict).is_correct(text, problem("gsm", "42")) is True
    assert Verifiers(strict).is_correct(text, problem("math", "42")) is False
    lenient = cfg(reward={"verify": "lenient"}, domains={"gsm": {"verify": "strict"}}).treatment
    assert Verifiers(lenient).is_correct(text, problem("gsm", "42")) is False
    assert Verifiers(lenient).is_correct(text, problem("math", "42")) is True


@pytest.mark.parametrize(
    ("text", "row", "correct", "reason"),
    [
        (r"\boxed{5.0}", problem("math", "5"), True, "equals the gold answer"),
        (r"\boxed{6}", problem("math", "5"), False, "differs: found '6'"),
        ("It is 5", problem("math", "5"), False, "no marked answer"),
        ("<think>5", problem("math", "5"), False, "thinking never closes"),
        (r"\boxed{5", problem("science", "5"), False, "the last box is not closed"),
        (r"\boxed{A or B}", problem("choice", "A"), False, "no one letter: 'A or B'"),
        (r"\boxed{5}", problem("math", "see figure"), None, "the gold answer cannot be read"),
        (r"\boxed{5}", problem("math", None), None, "no gold answer"),
    ],
)
def test_a_verdict_says_why(text, row, correct, reason):
    verdict = Verifiers(cfg().treatment).examine(text, row)
    assert (verdict.correct, verdict.reason) == (correct, reason)


@pytest.mark.parametrize("domain", ["math", "science", "exact"])
def test_each_verifier_wants_a_mark(domain):
    plain = Verifiers(cfg().treatment)
    for text in (
        "42",
        "42 is wrong",
        "It is 42.",
        "<think>Answer: 42</think>",
        "The answer isn't 42",
    ):
        assert plain.is_correct(text, problem(domain, "42")) is False, text
    for text in (r"\boxed{42}", "so\n#### 42", "**Answer:** 42", "The answer is 42."):
        assert plain.is_correct(text, problem(domain, "42")) is True, text


@pytest.mark.parametrize(
    ("found", "correct"),
    [
        ("021394r3", True),
        (" 021394r3\n", True),
        ("21394r3", False),
        ("0213943r", False),
        ("021394r03", False),
        ("021394 r3", False),
        ("021394*r*3", False),
        ("$021394r3$", False),
        ("", False),
    ],
)
def test_codes_are_equal_as_text_only(found, correct):
    text = rf"01/5=0r1###\boxed{{{found}}}"
    assert Verifiers(cfg().treatment).is_correct(text, problem("exact", "021394r3")) is correct


def test_code_is_never_verified_unconfined():
    row = problem("code", TESTS, SETUP)
    assert verifiers.needs_sandbox(cfg().treatment, [problem("math", "1"), row])
    assert not verifiers.needs_sandbox(cfg().treatment, [problem("code", None)])
    with pytest.raises(ConfigError, match="unconfined"):
        Verifiers(cfg().treatment).is_correct(FENCED, row)


def test_what_the_sandbox_could_not_run_is_missing_and_not_wrong():
    def fails(*_):
        raise SandboxError("no processes left")

    broken = Verifiers(cfg().treatment, SimpleNamespace(test=fails))
    assert broken.is_correct(FENCED, problem("code", TESTS, SETUP)) is None


def test_humaneval_as_models_answer_it(sandbox, shared_data):
    """Completions, and whole functions in a fence, of every eighth task."""
    with gzip.open(shared_data("humaneval/HumanEval.jsonl.gz"), "rt") as file:
        rows = [json.loads(line) for line in file][::8]
    for row in rows:
        tests = f"{row['test']}\n\ncheck({row['entry_point']})\n"
        whole = f"Here:\n```python\n{row['prompt']}{row['canonical_solution']}\n```\nDone."
        for text in (row["canonical_solution"], whole):
            assert code.passes(sandbox, text, tests, row["prompt"]) is True, row["task_id"]
