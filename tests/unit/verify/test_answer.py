r"""Which answers are equal, and that no trace can break the verifier."""

import json
import threading
import time
from pathlib import Path

import pytest

from exprl import config
from exprl.types import Problem, Prompt
from exprl.verify.answer import find_answer, is_equal
from exprl.verify.verifiers import Verifiers


def correct(text: str, gold: str, verify: str = "strict", domain: str = "math") -> bool | None:
    keys = {"model": {"path": "m"}, "data": {"path": "d"}, "judge": {"kind": "rules"}}
    cfg = config.build(keys | {"reward": {"verify": verify}})
    problem = Problem("p", Prompt("p", ()), gold, domain)
    return Verifiers(cfg.treatment).is_correct(text, problem)


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
        ("1 234", "1234"),
        (r"\$18", "18"),
        (r"18 \text{ dollars}", "18"),
        ("18 dollars a week", "18"),
        ("18", r"18\ \text{square feet}"),
        ("$18$ dollars", "18"),
        (r"\text{Area} = 18", "18"),
        (r"\text{The answer is } 18", "18"),
        ("x = 5", "5"),
        (r"2\sqrt{2}", r"\sqrt{8}"),
        ("2, 1", r"\{1, 2\}"),
        ("1 and 2", "1, 2"),
        ("x = 1 \\text{ or } x = 2", "2 or 1"),
        ("1024", "2^{10}"),
        (r"x = 1 \text{ or } x = 2", "1, 2"),
        ("yx", "xy"),
        (r"5\ \text{m/s}", "5"),
        (r"5x \text{ dollars}", "5x"),
        (r"\begin{pmatrix}1\\2\end{pmatrix}", r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}"),
        (r"\left( 1,\, 2 \right)", "(1,2)"),
        (r"\text{Paris}", "Paris"),
        ("PARIS.", "paris"),
        (r"\text{not prime}", "not prime"),
        ("x \\neq 3", "x \\neq 3"),
        ("(x+1)^2", "x^2+2x+1"),
    ],
)
def test_equal_answers_in_other_words_are_equal(found: str, gold: str) -> None:
    assert is_equal(found, gold)


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
        # Nothing but a denial, a bound or a doubt:
        (r"\neq 72", "72"),
        (r"\text{not } 72", "72"),
        ("72 is wrong", "72"),
        ("72 if it rains", "72"),
        ("perhaps 72", "72"),
        ("it isn't 72", "72"),
        (r"\geq 72", "72"),
        ("< 72", "72"),
        (r"\neg 72", "72"),
        ("x \\neq 4", "x \\neq 3"),
        # A word is no product of its letters, and no word is left out that matters:
        ("listen", "silent"),
        ("on", "No"),
        ("twice 72", "72"),
        ("72 minus 2", "72"),
        ("72 squared", "72"),
        ("72 million", "72"),
        (r"72 \text{ million}", "72"),
        ("1 or 2", "1, 2, 3"),
        ("7 2", "72"),
        (r"71 \to 72", "72"),
        ("2 hours 30 minutes", "2"),
        ("2 pi", "2"),
    ],
)
def test_other_answers_are_not(found: str, gold: str) -> None:
    assert not is_equal(found, gold)


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"\boxed{71}, or rather \boxed{72}", "72"),
        (r"\boxed{72} and an unclosed \boxed{73", "72"),
        (r"\boxed{71 and \boxed{72}", "72"),
        ("16 - 3 = 13\n#### 13 apples ", "13 apples "),
        (r"\boxed{72", None),
        ("The answer is 72.", None),
    ],
)
def test_a_reference_is_searched_for_its_last_whole_box_or_its_line_of_hashes(
    text: str, answer: str | None
) -> None:
    assert find_answer(text) == answer


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
    assert is_equal("1/2", "0.5")  # its process stands
    start = time.monotonic()
    assert not correct(HOSTILE[name], "72")
    assert not correct(HOSTILE[name], "72", "lenient")
    # CPU_LIMIT_S plus a new process on a machine that may be busy.
    assert time.monotonic() - start < 20


def test_hostile_traces_are_wrong_on_other_threads_too_and_leave_the_verifier_usable() -> None:
    verdicts: dict[str, bool] = {}

    def work(name: str, text: str, gold: str) -> None:
        verdicts[name] = correct(text, gold)

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
            assert correct(answer["solution"], gold) is answer["is_correct"]
