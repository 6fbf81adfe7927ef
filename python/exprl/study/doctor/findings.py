"""What the doctor says of a row: the fault, how sure that is, and what to do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

Fault = Literal[
    "unusable",
    "gold_missing",
    "gold_unreadable",
    "gold_disagrees",
    "answer_absent",
    "reference_missing",
    "reference_bare",
    "reference_cut",
    "reference_repeated",
    "reference_foreign",
    "given_away",
    "duplicate",
    "conflict",
    "in_test",
]
Proposal = Literal["keep", "drop", "replace"]

MEANINGS: dict[Fault, str] = {
    "unusable": "training would stop at this row",
    "gold_missing": "no final answer",
    "gold_unreadable": "a final answer with which nothing can be compared",
    "gold_disagrees": "the reference ends with another answer than the row's",
    "answer_absent": "the reference never states the answer",
    "reference_missing": "no reference solution",
    "reference_bare": "the reference is the answer alone, without a step",
    "reference_cut": "the reference ends before its end",
    "reference_repeated": "other problems have the same reference",
    "reference_foreign": "the reference solves another problem",
    "given_away": "the problem shows the answer or the solution",
    "duplicate": "an earlier row asks the same",
    "conflict": "another row asks the same and has another answer",
    "in_test": "the problem is in the test file",
}
FAULTS: tuple[Fault, ...] = get_args(Fault)
PROPOSALS: tuple[Proposal, ...] = get_args(Proposal)


@dataclass(frozen=True, slots=True)
class Finding:
    """One fault of one row.

    row: its number, from 1.   id: of the problem.
    sure: whether the signs leave little doubt; only then is a row to be dropped or mended.
    value: what `replace` writes into the column of the final answer.
    """

    row: int
    id: str
    fault: Fault
    sure: bool
    reason: str
    proposal: Proposal = "keep"
    value: str | None = None


def suspect(row: int, problem_id: str, fault: Fault, reason: str, *, sure: bool) -> Finding:
    """A finding that proposes to drop the row where it is sure."""
    return Finding(row, problem_id, fault, sure, reason, "drop" if sure else "keep")


SHOWN = 60
"""Characters of a text that a reason shows."""


def shorten(text: str) -> str:
    """The text in quotes on one line, not longer than a reason can bear."""
    plain = " ".join(text.split())
    return repr(plain if len(plain) <= SHOWN else plain[:SHOWN] + "...")
