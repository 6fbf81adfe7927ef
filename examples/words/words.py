"""Word problems of two or three steps: stories, names, and human-like reference solutions.

A template tells a story with open places for a name, things and numbers. Its steps compute the
answer, one operation each; `first` and `second` are the results of earlier steps. The reference
tells the steps as GSM8K does: a sentence with `6 + 5 = <<6+5=11>>11` in it, and `#### 8` at the
end.
"""

from __future__ import annotations

import operator
import random
from collections.abc import Callable
from dataclasses import dataclass

OPERATIONS: dict[str, Callable[[int, int], int]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
}
RESULTS = ("first", "second", "third")
"""What later steps call the result of a step."""


@dataclass(frozen=True, slots=True)
class Step:
    """One operation and the sentence that tells it, in which `{calculation}` is its place.

    formula: two places and an operation, such as `a + b` or `first - c`.
    """

    formula: str
    sentence: str

    def operands(self) -> tuple[str, str, str]:
        """The left place, the sign and the right place."""
        left, sign, right = self.formula.split()
        return left, sign, right


@dataclass(frozen=True, slots=True)
class Template:
    """A story.

    story: the problem's text with the places {name}, {other}, {things} and {a}, {b}, ...
    things: what may stand for {things}.
    """

    story: str
    things: tuple[str, ...]
    steps: tuple[Step, ...]

    def givens(self) -> tuple[str, ...]:
        """The places of the story's numbers, in order."""
        return tuple(place for place in "abcd" if f"{{{place}}}" in self.story)


@dataclass(frozen=True, slots=True)
class Problem:
    """A story with everything filled in.

    numbers: the givens by place, then the results by name.
    """

    template: Template
    words: dict[str, str]
    numbers: dict[str, int]

    @property
    def text(self) -> str:
        """What the policy sees."""
        return self.template.story.format(**self.words, **self.numbers)

    @property
    def givens(self) -> tuple[int, ...]:
        """The story's numbers in ascending order: what no two splits have in common."""
        return tuple(sorted(self.numbers[place] for place in self.template.givens()))

    @property
    def results(self) -> tuple[int, ...]:
        """The result of each step; the last one is the answer."""
        return tuple(self.numbers[name] for name in RESULTS[: len(self.template.steps)])

    @property
    def answer(self) -> str:
        """The result of the last step."""
        return str(self.results[-1])

    @property
    def reference(self) -> str:
        """The hidden solution: a sentence per step, then the answer."""
        lines = []
        for step, result in zip(self.template.steps, self.results, strict=True):
            left, sign, right = step.operands()
            left, right = str(self.numbers[left]), str(self.numbers[right])
            calculation = f"{left} {sign} {right} = <<{left}{sign}{right}={result}>>{result}"
            lines.append(step.sentence.format(calculation=calculation, **self.words))
        return "\n".join([*lines, f"#### {self.answer}"])


def draw_problem(rng: random.Random, template: Template, names: tuple[str, ...]) -> Problem:
    """Fill a template in: numbers from 2 to 9, and up to 19 for the first of a sum.

    None of a problem's numbers occurs in it twice: so a number of a solution says which step it
    comes from. The answer has two digits: one of a single digit is too easily hit by chance.
    """
    highest = {"a": 9 if "*" in template.steps[0].formula else 19}
    name, other = rng.sample(names, 2)
    words = {"name": name, "other": other, "things": rng.choice(template.things)}
    while True:
        numbers = {place: rng.randint(2, highest.get(place, 9)) for place in template.givens()}
        for step, result in zip(template.steps, RESULTS, strict=False):
            left, sign, right = step.operands()
            numbers[result] = OPERATIONS[sign](numbers[left], numbers[right])
        problem = Problem(template, words, numbers)
        distinct = len(set(numbers.values())) == len(numbers)
        if distinct and min(numbers.values()) > 0 and problem.results[-1] >= 10:
            return problem
