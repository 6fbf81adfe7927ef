"""Rows without a fault, of five kinds, to plant faults in: each kind is written by templates."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

Rows = list[dict[str, Any]]

NAMES = """
    Ada Boris Chen Dana Emil Farah Goran Hana Ivo Jana Kofi Lena Marek Nadia Omar Petra Quentin Rosa
    Sami Tara Umar Vera Wanda Yusuf Zora
""".split()  # noqa: SIM905
THINGS = """
    apples marbles stickers pencils shells cards coins tickets books stamps cookies beads ribbons
    lemons candles buttons
""".split()  # noqa: SIM905
PLACES = "market school garden harbour library museum station bakery farm fair".split()  # noqa: SIM905


def make_words(rng: random.Random, rows: int) -> Rows:
    """Word problems of two steps with `#### n`, the answer in a column of its own."""
    return [_make_word(rng) for _ in range(rows)]


def _make_word(rng: random.Random) -> dict[str, Any]:
    name, other = rng.sample(NAMES, 2)
    thing, place = rng.choice(THINGS), rng.choice(PLACES)
    a, b, c = rng.randint(12, 90), rng.randint(3, 11), rng.randint(2, 9)
    match rng.randrange(5):
        case 0:
            question = (
                f"{name} takes {a} {thing} to the {place} and gives {b} of them to {other}."
                f" On the way home {name} finds {c} more. How many {thing} does {name} have then?"
            )
            steps = [
                f"After the gift {name} has {a} - {b} = {a - b} {thing}.",
                f"With those that were found it is {a - b} + {c} = {a - b + c} {thing}.",
            ]
            answer = a - b + c
        case 1:
            question = (
                f"At the {place} one box holds {b} {thing}. {name} buys {c} boxes, and {other} adds"
                f" {a} loose {thing}. How many {thing} do they have together?"
            )
            steps = [
                f"The boxes of {name} hold {b} * {c} = {b * c} {thing}.",
                f"Together with {other} that makes {b * c} + {a} = {b * c + a} {thing}.",
            ]
            answer = b * c + a
        case 2:
            question = (
                f"{name} collects {b} {thing} a day for {c} days. {other} has {a} {thing} already."
                f" How many {thing} are there in all if they meet at the {place}?"
            )
            steps = [
                f"In {c} days {name} collects {c} * {b} = {c * b} {thing}.",
                f"So at the {place} there are {c * b} + {a} = {c * b + a} {thing} in all.",
            ]
            answer = c * b + a
        case 3:
            question = (
                f"A shelf in the {place} carries {a * c} {thing} in {c} equal rows. {name} takes"
                f" {b} {thing} out of the first row. How many are left in that row?"
            )
            steps = [
                f"Each row of the shelf has {a * c} / {c} = {a} {thing}.",
                f"After {name} took some, {a} - {b} = {a - b} are left in the row.",
            ]
            answer = a - b
        case _:
            question = (
                f"{name} is {a} years old and works in the {place}. {other} is {b} years younger."
                f" How old will {other} be in {c} years?"
            )
            steps = [
                f"{other} is {a} - {b} = {a - b} years old today.",
                f"In {c} years {other} will be {a - b} + {c} = {a - b + c} years old.",
            ]
            answer = a - b + c
    return {
        "question": question,
        "solution": "\n".join([*steps, f"#### {answer}"]),
        "answer": str(answer),
    }


def make_algebra(rng: random.Random, rows: int) -> Rows:
    """Equations in LaTeX with a boxed answer."""
    return [_make_equation(rng) for _ in range(rows)]


def _make_equation(rng: random.Random) -> dict[str, Any]:
    x, a, b = rng.randint(2, 60), rng.randint(2, 19), rng.randint(1, 99)
    v = rng.choice("xyzntk")
    if rng.random() < 0.5:
        c = a * x + b
        problem = rf"Solve the equation ${a}{v} + {b} = {c}$ for ${v}$."
        solution = (
            rf"Subtract ${b}$ from both sides: ${a}{v} = {c} - {b} = {c - b}$."
            rf" Divide by ${a}$: ${v} = \frac{{{c - b}}}{{{a}}} = {x}$."
            "\n\n"
            rf"The solution is $\boxed{{{x}}}$."
        )
        answer = str(x)
    else:
        p, q = x, x + a
        problem = (
            rf"What is the larger root of ${v}^2 - {p + q}{v} + {p * q} = 0$? The equation"
            rf" has two positive roots."
        )
        solution = (
            rf"Two numbers with the sum ${p + q}$ and the product ${p * q}$ are ${p}$ and ${q}$, so"
            rf" $({v} - {p})({v} - {q}) = 0$."
            "\n\n"
            rf"The larger root is $\boxed{{{q}}}$."
        )
        answer = str(q)
    return {"problem": problem, "solution": solution, "answer": answer}


def make_division(rng: random.Random, rows: int) -> Rows:
    """The long divisions of examples/division."""
    made = []
    for _ in range(rows):
        d, n = rng.randint(3, 9), rng.randint(100_000, 999_999)
        q, r = divmod(n, d)
        answer = f"{q:06}r{r}"
        solution = rf"{d}*{q:06}+{r}={n}###\boxed{{{answer}}}"
        made.append({"problem": f"{d}){n}=", "solution": solution, "answer": answer})
    return made


def make_choice(rng: random.Random, rows: int) -> Rows:
    """Questions with four options and a letter as the answer."""
    return [_make_choice(rng) for _ in range(rows)]


def _make_choice(rng: random.Random) -> dict[str, Any]:
    mass, speed = rng.randint(2, 60), rng.randint(3, 40)
    body = rng.choice("ball cart sledge bird stone drone boat kite puck truck".split())  # noqa: SIM905
    place = rng.choice(PLACES)
    if rng.random() < 0.5:
        asked, formula, right = "momentum", "the product of mass and speed", mass * speed
        unit, steps = "kg m/s", f"{mass} * {speed} = {mass * speed}"
    else:
        right = mass * speed * speed // 2
        asked, formula, unit = "kinetic energy", "half the mass times the square of the speed", "J"
        steps = f"{mass} * {speed}^2 / 2 = {right}"
    wrong = [right + mass, right + 2 * speed, max(1, right - speed)]
    letter = rng.randrange(4)
    options = [*wrong[:letter], right, *wrong[letter:]]
    listed = "\n".join(f"({x}) {value} {unit}" for x, value in zip("ABCD", options, strict=True))
    return {
        "question": (
            f"Near the {place} a {body} of {mass} kg moves at {speed} m/s. What is its {asked}?"
            f"\n{listed}"
        ),
        "rationale": (
            f"The {asked} of the {body} is {formula}: {steps} {unit}."
            f"\nThis is option ({'ABCD'[letter]}).\nThe answer is {'ABCD'[letter]}."
        ),
        "answer": "ABCD"[letter],
    }


def make_prose(rng: random.Random, rows: int) -> Rows:
    """Chat messages whose solutions are paragraphs, with a fraction as the answer."""
    made = []
    for _ in range(rows):
        red, blue, name = rng.randint(2, 30), rng.randint(3, 31), rng.choice(NAMES)
        bag, both = rng.choice(["bag", "box", "jar", "basket", "hat"]), red + blue
        text = (
            f"In a {bag} of {name} there are {red} red balls and {blue} blue ones, and nothing"
            " else. One ball is drawn without looking. What is the probability that it is red?"
        )
        solution = (
            f"Altogether the {bag} holds {red} + {blue} = {both} balls, and each of them is drawn"
            f" with the same probability.\n\nOf these, {red} are red. So the probability is"
            f" {red} out of {both}.\n\nThe answer is {red}/{both}."
        )
        prompt = [{"role": "user", "content": text}]
        made.append({"prompt": prompt, "solution": solution, "final_answer": f"{red}/{both}"})
    return made


PLAIN = {"problem": "problem", "reference": "solution", "answer": "answer"}
KINDS: dict[str, tuple[Callable[[random.Random, int], Rows], dict[str, str], tuple[str, ...]]] = {
    "words": (make_words, PLAIN | {"problem": "question"}, ()),
    "algebra": (make_algebra, PLAIN, ()),
    "division": (
        make_division,
        PLAIN,
        ("--set", "data.domain=exact"),
    ),
    "choice": (
        make_choice,
        PLAIN | {"problem": "question", "reference": "rationale"},
        ("--set", "data.domain=choice"),
    ),
    "prose": (
        make_prose,
        PLAIN | {"problem": "prompt", "answer": "final_answer"},
        (),
    ),
}
"""By name: the rows, their columns, and options of the doctor."""
