"""Gold answers that can be read, and those that nothing can be compared with."""

import pytest

from exprl.types import Problem, Prompt
from exprl.verify.gold import Gold, read_gold, read_golds


@pytest.mark.parametrize(
    ("gold", "answer"),
    [
        ("42", "42"),
        (r"\boxed{42}", "42"),
        ("The answer is 42.", "42"),
        ("So 6 * 7 is 42.\n#### 42", "42"),
        ("Answer: 42", "42"),
        ("$42$", "$42$"),
        (r"\[ 42 \]", r"\[ 42 \]"),
        ("**42**", "**42**"),
        ("42 apples per day", "42 apples per day"),
        (r"42\ \text{cm}^2", r"42\ \text{cm}^2"),
        ("3 or 4", "3 or 4"),
        (r"x = 1 \text{ and } y = 2", r"x = 1 \text{ and } y = 2"),
        ("Paris", "Paris"),
        (r"\text{proved}", r"\text{proved}"),
        ("None", "None"),
        (r"\frac{\sqrt{3}}{2} + \sin\theta", r"\frac{\sqrt{3}}{2} + \sin\theta"),
        (r"\operatorname{lcm}(a, b)", r"\operatorname{lcm}(a, b)"),
        (r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}", r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}"),
        (r"(-\infty, 2) \cup (3, \infty)", r"(-\infty, 2) \cup (3, \infty)"),
        (r"\varnothing", r"\varnothing"),
        ("\u221e", "\u221e"),
        ("AB \\parallel CD", "AB \\parallel CD"),
        ("xyz + abc", "xyz + abc"),
        ("0", "0"),
    ],
)
def test_an_answer_in_any_dress_is_read(gold, answer):
    assert read_gold(gold, "math") == answer


VOID = [
    "-",
    "--",
    "\u2014",
    "N/A",
    "n/a",
    "NA",
    "null",
    "nan",
    "...",
    "\u2026",
    "?",
    "$$",
    "\\[\\]",
    " ",
    "",
]
SENTENCES = [
    "see figure",
    "See solution.",
    "(see part 2)",
    "Figure 3",
    "(See Fig. 3)",
    "Show that x = 3",
    "the 3rd",
    r"\ldots",
    "Answers may vary",
    "7. Tom has to find the length of one side",
    "x = 3 (see the figure)",
    "2 hours 30 minutes",
    r"\frac{1}{2",
    r"\boxed{",
    "The answer is in the figure",
    "x" * 1200,
]


@pytest.mark.parametrize("gold", [*VOID, *SENTENCES])
def test_a_void_or_a_sentence_is_no_answer_to_mathematics(gold):
    assert read_gold(gold, "math") is None
    assert read_gold(gold, "science") is None


@pytest.mark.parametrize("gold", VOID)
@pytest.mark.parametrize("verifier", ["exact", "choice"])
def test_a_void_is_no_answer_to_anything(gold, verifier):
    assert read_gold(gold, verifier) is None


def test_each_verifier_reads_its_own():
    assert read_gold(" see figure ", "exact") == "see figure"
    assert read_gold("$5", "exact") == "$5"
    assert read_gold(r"1.6 \mathrm{~cm}", "science") == r"1.6 \mathrm{~cm}"
    assert read_gold("C. The answer is 4", "choice") == "C"
    assert read_gold("The answer is (C).", "choice") == "C"
    assert read_gold(r"\boxed{C}", "choice") == "C"
    for gold in ("E or F", "2", "A, C", "none of them"):
        assert read_gold(gold, "choice") is None
    assert read_gold("assert f(1) == 2", "code") == "assert f(1) == 2"


@pytest.mark.parametrize(
    ("found", "golds", "any_is_right", "all_are"),
    [
        ("33", ("33", "34"), True, False),
        ("34.0", ("33", "34"), True, False),
        ("35", ("33", "34"), False, False),
        ("33 or 34", ("33", "34"), False, True),
        ("33, 34", ("33", "34"), False, True),
        (r"\{34; 33\}", ("33", "34"), False, True),
        (r"34 \text{ and } 33", ("33", "34"), False, True),
        ("33, 34, 35", ("33", "34"), False, False),
        (r"x = \frac{1}{2} \text{ or } x = 3", ("3", "0.5"), False, True),
        ("(3,4), (1,2)", ("(1,2)", "(3,4)"), False, True),
        ("(2,1), (3,4)", ("(1,2)", "(3,4)"), False, False),
        ("Rome, PARIS", ("Paris", "Rome"), False, True),
    ],
)
def test_one_or_all_answers_of_a_list_are_right(found, golds, any_is_right, all_are):
    assert Gold(golds).equals(found, "math") is any_is_right
    assert Gold(golds, needs_all=True).equals(found, "math") is all_are


def test_what_cannot_be_read_of_a_list_is_left_out_where_any_answer_is_right():
    def row(*answers, **keys):
        first, *more = answers
        return Problem("p", Prompt("p", ()), first, "math", more_answers=tuple(more), **keys)

    assert read_golds(row("see figure", "3"), "math") == Gold(("3",))
    assert read_golds(row("see figure", "3", all_answers=True), "math") is None
    assert read_golds(row("see figure", "N/A"), "math") is None
    assert read_golds(row("3", all_answers=True), "math") == Gold(("3",))
    assert read_golds(row("A", "B", all_answers=True), "choice") is None
