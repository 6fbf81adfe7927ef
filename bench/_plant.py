"""Plant faults in clean rows, and remember where: what is true of each row afterwards."""

from __future__ import annotations

import copy
import random
import re
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

Row = dict[str, Any]

IMPLIED: dict[str, set[str]] = {
    "reference_cut": {"answer_absent", "unusable", "gold_disagrees", "reference_bare"},
    "answer_absent": {"reference_cut", "unusable"},
    "reference_foreign": {"gold_disagrees", "answer_absent"},
    "reference_repeated": {"gold_disagrees", "reference_foreign", "answer_absent"},
    "reference_missing": {"unusable"},
    "reference_bare": {"reference_repeated"},
    "gold_disagrees": {"answer_absent"},
    "gold_unreadable": {"unusable"},
    "conflict": {"gold_disagrees", "reference_repeated", "answer_absent"},
    "duplicate": {"reference_repeated"},
}
"""What may be said of a row with a fault beside the fault itself, and is then neither right nor
wrong: a reference of another problem also contradicts the answer."""


@dataclass(slots=True)
class Planted:
    """Rows with faults.

    truth: the faults of each row, by its number from 1.   test: rows of a test file.
    """

    rows: list[Row]
    columns: Mapping[str, str]
    truth: dict[int, set[str]] = field(default_factory=lambda: defaultdict(set))
    test: list[Row] = field(default_factory=list)

    def question(self, i: int) -> str:
        cell = self.rows[i][self.columns["problem"]]
        return str(cell if isinstance(cell, str) else cell[-1]["content"])

    def ask(self, row: Row, text: str) -> None:
        cell = row[self.columns["problem"]]
        name = self.columns["problem"]
        row[name] = text if isinstance(cell, str) else [*cell[:-1], {**cell[-1], "content": text}]

    def solution(self, i: int) -> str:
        return str(self.rows[i][self.columns["reference"]])

    def answer(self, i: int) -> str:
        return str(self.rows[i][self.columns["answer"]])

    def write(self, i: int, role: str, text: Any) -> None:
        self.rows[i][self.columns[role]] = text

    def mark(self, i: int, fault: str) -> None:
        self.truth[i + 1].add(fault)


def plant(
    rows: list[Row], columns: Mapping[str, str], plan: Mapping[str, int], seed: int
) -> Planted:
    """The rows with `plan[fault]` faults of each kind, each at a row of its own."""
    rng = random.Random(seed)
    planted = Planted(copy.deepcopy(rows), columns)
    free = list(range(len(rows)))
    rng.shuffle(free)
    # New rows at the end first: their numbers stay, and copies are of clean rows.
    for fault, count in plan.items():
        chosen, free = free[:count], free[count:]
        PLANTERS[fault](planted, chosen, rng)
    return planted


def _disagree(p: Planted, chosen: list[int], rng: random.Random) -> None:
    """Another answer of the same kind: one that is near, or that of another row."""
    for i in chosen:
        old = p.answer(i)
        others = [p.answer(j) for j in range(len(p.rows)) if p.answer(j) != old and j not in chosen]
        near = str(int(old) + rng.choice((-2, -1, 1, 2, 10))) if old.isdecimal() else None
        p.write(i, "answer", near or rng.choice(others))
        p.mark(i, "gold_disagrees")


def _unreadable(p: Planted, chosen: list[int], rng: random.Random) -> None:
    for i in chosen:
        p.write(i, "answer", rng.choice(["see figure 3", "N/A", "it depends on the case", "???"]))
        p.mark(i, "gold_unreadable")


def edit(text: str, rng: random.Random) -> str:
    """The same question in another dress."""
    words = text.split(" ")
    match rng.randrange(5):
        case 0:
            return text
        case 1:
            return text.upper() if "\\" not in text else "  " + text.replace(" ", "  ")
        case 2:
            return f"Question: {text}"
        case 3:
            return text.rstrip("?.") + " ?"
        case _:
            places = [k for k, word in enumerate(words) if word.isalpha() and word.islower()]
            if len(words) > 12 and places:
                words[rng.choice(places)] = "now"
            return " ".join(words)


def _duplicate(p: Planted, chosen: list[int], rng: random.Random) -> None:
    for i in chosen:
        row = copy.deepcopy(p.rows[i])
        p.ask(row, edit(p.question(i), rng))
        p.rows.append(row)
        p.mark(len(p.rows) - 1, "duplicate")


def _conflict(p: Planted, chosen: list[int], rng: random.Random) -> None:
    for i in chosen:
        p.rows.append(copy.deepcopy(p.rows[i]))
        new = len(p.rows) - 1
        other = rng.choice([p.answer(j) for j in range(len(p.rows)) if p.answer(j) != p.answer(i)])
        p.write(new, "reference", p.solution(new).replace(p.answer(i), other))
        p.write(new, "answer", other)
        p.mark(i, "conflict")
        p.mark(new, "conflict")


def _give_away(p: Planted, chosen: list[int], rng: random.Random) -> None:
    for i in chosen:
        text = p.question(i)
        shown = [
            f"{text} (Answer: {p.answer(i)})",
            f"{text}\nThe answer is {p.answer(i)}.",
            f"{text}\n\nSolution: {p.solution(i)}",
            rf"{text} \boxed{{{p.answer(i)}}}",
        ]
        p.ask(p.rows[i], rng.choice(shown))
        p.mark(i, "given_away")


def _leak(p: Planted, chosen: list[int], rng: random.Random) -> None:
    for i in chosen:
        row = copy.deepcopy(p.rows[i])
        p.ask(row, edit(p.question(i), rng))
        p.test.append(row)
        p.mark(i, "in_test")


def _cut(p: Planted, chosen: list[int], rng: random.Random) -> None:
    for i in chosen:
        text = p.solution(i)
        p.write(i, "reference", text[: int(len(text) * rng.uniform(0.3, 0.8))].rstrip())
        p.mark(i, "reference_cut")


def _empty(p: Planted, chosen: list[int], rng: random.Random) -> None:
    for i in chosen:
        p.write(
            i, "reference", rng.choice(["", None, "See the solution manual.", "...", "Omitted."])
        )
        p.mark(i, "reference_missing")


def _bare(p: Planted, chosen: list[int], rng: random.Random) -> None:
    for i in chosen:
        answer = p.answer(i)
        p.write(
            i, "reference", rng.choice([answer, rf"\boxed{{{answer}}}", f"The answer is {answer}."])
        )
        p.mark(i, "reference_bare")


def _repeat(p: Planted, chosen: list[int], rng: random.Random) -> None:
    """Groups of up to three rows with the reference of the first, which keeps its own."""
    for start in range(0, len(chosen), 3):
        group = chosen[start : start + 3]
        for i in group:
            p.write(i, "reference", p.solution(group[0]))
            if len(group) > 1:
                p.mark(i, "reference_repeated")


def _swap(p: Planted, chosen: list[int], rng: random.Random) -> None:
    """References go round; in every second data set the answers go with them."""
    references, answers = [p.solution(i) for i in chosen], [p.answer(i) for i in chosen]
    with_answers = rng.random() < 0.5
    for k, i in enumerate(chosen):
        p.write(i, "reference", references[k - 1])
        if with_answers:
            p.write(i, "answer", answers[k - 1])
        if references[k - 1] != references[k]:
            p.mark(i, "reference_foreign")


def _lose_answer(p: Planted, chosen: list[int], rng: random.Random) -> None:
    """The reference without every sentence that holds the answer."""
    for i in chosen:
        parts = re.split(r"(?<=[.\n#])(?=\s|\n|\\)", p.solution(i))
        kept = [
            one for one in parts if not re.search(rf"(?<!\d){re.escape(p.answer(i))}(?!\d)", one)
        ]
        text = "".join(kept).strip().removesuffix("####").strip()
        if text:
            p.write(i, "reference", text)
            p.mark(i, "answer_absent")


PLANTERS: dict[str, Callable[[Planted, list[int], random.Random], None]] = {
    "gold_disagrees": _disagree,
    "gold_unreadable": _unreadable,
    "duplicate": _duplicate,
    "conflict": _conflict,
    "given_away": _give_away,
    "in_test": _leak,
    "reference_cut": _cut,
    "reference_missing": _empty,
    "reference_bare": _bare,
    "reference_repeated": _repeat,
    "reference_foreign": _swap,
    "answer_absent": _lose_answer,
}
