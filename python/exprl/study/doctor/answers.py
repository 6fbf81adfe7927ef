"""Gold answers against the references of their rows."""

from __future__ import annotations

from collections.abc import Iterator

from exprl.study.doctor.cases import Case
from exprl.study.doctor.findings import Finding, Proposal
from exprl.types import ReferenceProblem
from exprl.verify.marked import find_marked
from exprl.verify.verifiers import Verifiers

SHOWN = 60
"""Characters of an answer that a reason shows."""


def check_gold(case: Case, problem: ReferenceProblem, verifiers: Verifiers) -> Iterator[Finding]:
    """Whether the row has a final answer, whether it can be read, and what the reference says.

    Every solution is verified as a rollout would be, by the verifier of the row's domain.
    """
    if problem.answer is None:
        return
    if verifiers.read_golds(problem) is None:
        marked = next(filter(None, map(_find_answer, case.solutions)), None)
        reason = f"{shorten(problem.answer)} is no answer that can be compared"
        if marked:
            reason += f"; the reference ends with {shorten(marked)}"
        proposal: Proposal = "replace" if marked else "keep"
        yield Finding(case.number, case.id, "gold_unreadable", True, reason, proposal, marked)
        return
    for number, solution in enumerate(case.solutions, 1):
        verdict = verifiers.examine(solution, problem)
        if verdict.correct is False and verdict.found is not None:
            which = f"solution {number}" if len(case.solutions) > 1 else "the reference"
            reason = f"{which} ends with {shorten(verdict.found)}, the row says"
            reason += f" {shorten(problem.answer)}"
            yield Finding(case.number, case.id, "gold_disagrees", True, reason, "drop")


def _find_answer(solution: str) -> str | None:
    return find_marked(solution).answer


def shorten(text: str) -> str:
    """The text in quotes on one line, not longer than a reason can bear."""
    plain = " ".join(text.split())
    return repr(plain if len(plain) <= SHOWN else plain[:SHOWN] + "...")
