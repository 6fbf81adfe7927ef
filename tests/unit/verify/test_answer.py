r"""The sparse verifier: which answers are equal, and that no trace can break it."""

import json
import threading
import time
from pathlib import Path

import pytest

from exprl.verify.answer import find_answer, is_correct


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"So \boxed{72}.", "72"),
        (r"\boxed{71}, or rather \boxed{72}", "72"),
        (r"\boxed{72} and an unclosed \boxed{73", "72"),
        (r"\boxed{71 and \boxed{72}", "72"),
        (r"\boxed{\boxed{72}}", "72"),
        (r"\boxed {72}", "72"),
        (r"\boxed{\frac{1}{\sqrt{2}}}", r"\frac{1}{\sqrt{2}}"),
        (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
        (r"} } stray { \boxed{72} {", "72"),
        (r"\boxed{[0, 1\}}", r"[0, 1\}"),
        ("#### 71\n#### 72\n", "72"),
        ("16 - 3 = 13\n#### 13 apples ", "13 apples "),
        ("####72", "72"),
        (r"\boxed{72}" + "\n#### 73", "72"),
    ],
)
def test_the_last_whole_box_or_the_last_line_of_hashes_is_the_final_answer(
    text: str, answer: str
) -> None:
    assert find_answer(text) == answer


@pytest.mark.parametrize(
    "text",
    [
        "",
        "72",
        r"\boxed{72",
        r"boxed{72}",
        "#### Step 2\nthen",
        "##### 72",
        "### 72",
        "####\n",
        "x#### 1",
    ],
)
def test_a_trace_without_a_marked_answer_has_none(text: str) -> None:
    assert find_answer(text) is None


@pytest.mark.parametrize(
    ("found", "gold"),
    [
        ("72", "72"),
        (" 72. ", "72"),
        ("$72$", "72"),
        ("72.0", "72"),
        ("0.5", r"\frac{1}{2}"),
        (r"\dfrac12", "1/2"),
        ("1/2", r"\frac{1}{2}"),
        ("1234", "1,234"),
        (r"\$18", "18"),
        (r"18 \text{ dollars}", "18"),
        ("x = 5", "5"),
        (r"2\sqrt{2}", r"\sqrt{8}"),
        ("2, 1", r"\{1, 2\}"),
        ("1024", "2^{10}"),
        (r"\left( 1,\, 2 \right)", "(1,2)"),
        (r"\text{Paris}", "Paris"),
        ("(x+1)^2", "x^2+2x+1"),
    ],
)
def test_equal_answers_in_other_words_are_equal(found: str, gold: str) -> None:
    assert is_correct(rf"so \boxed{{{found}}}", gold, "math")


@pytest.mark.parametrize(
    ("found", "gold"),
    [
        ("71", "72"),
        ("-72", "72"),
        ("71 \\text{ or } 72", "72"),
        ("71, 72", "72"),
        ("", "72"),
        ("3.14", r"\pi"),
        ("(2,1)", "(1,2)"),
        ("x+1", "x+2"),
        ("A", "B"),
    ],
)
def test_other_answers_are_not(found: str, gold: str) -> None:
    assert not is_correct(rf"so \boxed{{{found}}}", gold, "math")


@pytest.mark.parametrize(
    ("text", "correct"),
    [
        ("She has 13 left and sells 2 a day, 13*2 = 26\nA: 26", True),
        ("The answer is 26.", True),
        ("The final answer is $26$", True),
        ("26 days later she had 5 left. The answer is 5.", False),
        ("no number at all", False),
        ("", False),
        ("  \n", False),
    ],
)
def test_without_a_mark_math_verify_looks_for_the_answer(text: str, correct: bool) -> None:
    assert is_correct(text, "26", "math") is correct


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
def test_codes_are_equal_as_text_only(found: str, correct: bool) -> None:
    text = rf"01/5=0r1###\boxed{{{found}}}"
    assert is_correct(text, "021394r3", "exact") is correct
    assert not is_correct("021394r3", "021394r3", "exact"), "it must be marked"


HOSTILE = {
    "tower": r"\boxed{9^{9^{9^9}}}",
    "tower without a box": "the answer is 9^9^9^9",
    "python tower": "the answer is 9**9**9**9",
    "factorial tower": r"\boxed{((9!)!)!}",
    "factorial": r"\boxed{99999999!}",
    "binomial": r"\boxed{\binom{10^{9}}{5 \cdot 10^{8}}}",
    "deep fraction": r"\boxed{" + r"\frac{1}{" * 80 + "1" + "}" * 81 + "}",
    "integral": r"\boxed{\int_0^{\infty} e^{-x^{x^{x}}} \sin(x^{77}) dx}",
    "sum": r"\boxed{\sum_{k=1}^{10^{12}} \frac{1}{k^k}}",
    "power of a polynomial": r"\boxed{(x+y+z+w)^{300} (a+b+c)^{400}}",
    "power of a matrix": r"\boxed{\begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix}^{10^9}}",
    "equation": r"\boxed{x^{17}+x^5+\sin(x)=e^{x^3}}",
    "macro": r"\boxed{\def\x{\x\x}\x}",
    "open boxes": r"\boxed{" * 15_000,
    "nested boxes": r"\boxed{" * 8_000 + "1" + "}" * 8_000,
    "open braces": r"\boxed{1}" + "{" * 100_000,
    "digits": "9" * 100_000,
    "boxed digits": r"\boxed{" + "9" * 100_000 + "}",
    "hashes": "#" * 100_000,
    "lines of hashes": "\n####" * 20_000,
    "spaces": " " * 100_000,
    "dollars": "$" * 100_000,
    "control characters": "\\boxed{\x00\x1b[31m\n}",
    "lone surrogate": "\\boxed{\ud800}",
    "reply forged": '\\boxed{1}\ntrue\n"true"\n',
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_trace_is_wrong_within_seconds(name: str) -> None:
    is_correct(r"\boxed{1/2}", "0.5", "math")  # its process stands
    start = time.monotonic()
    assert not is_correct(HOSTILE[name], "72", "math")
    # CPU_LIMIT_S plus a new process on a machine that may be busy.
    assert time.monotonic() - start < 20


def test_hostile_traces_are_wrong_on_other_threads_too_and_leave_the_verifier_usable() -> None:
    verdicts: dict[str, bool] = {}

    def work(name: str, text: str, gold: str) -> None:
        verdicts[name] = is_correct(text, gold, "math")

    jobs = [
        ("bomb", r"\boxed{7^{7^{7^7}}}", "72"),
        ("right", r"\boxed{\frac{36}{6}}", "6"),
        ("wrong", r"\boxed{\frac{36}{7}}", "6"),
        ("bomb again", r"\boxed{8^{8^{8^8}}}", "72"),
        ("right again", r"\boxed{\frac{60}{6}}", "10"),
    ]
    threads = [threading.Thread(target=work, args=job) for job in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    expected = {name: name.startswith("right") for name, _, _ in jobs}
    assert verdicts == expected


GSM8K = Path(__file__).parents[4] / "shared/data/gsm8k/example_model_solutions.jsonl"


@pytest.mark.skipif(not GSM8K.exists(), reason=f"no real model answers at {GSM8K}")
def test_it_agrees_with_the_labels_of_real_model_answers() -> None:
    with GSM8K.open(encoding="utf-8") as file:
        rows = [json.loads(line) for line, _ in zip(file, range(100), strict=False)]
    for row in rows:
        gold = row["ground_truth"].rsplit("A:", 1)[1].strip()
        for answer in (value for value in row.values() if isinstance(value, dict)):
            assert is_correct(answer["solution"], gold, "math") is answer["is_correct"]
