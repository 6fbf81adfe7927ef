"""Gold answers against the references of their rows."""

from __future__ import annotations

import re
from collections.abc import Iterator

from exprl.study.doctor.cases import Case
from exprl.study.doctor.findings import Finding, Proposal, shorten
from exprl.study.doctor.stated import read_value, states
from exprl.types import ReferenceProblem
from exprl.verify.marked import find_marked
from exprl.verify.verifiers import Verifiers

_COMPUTED = re.compile(  # the end of a line such as `48 + 16 = $<<48+16=64>>64 points.`
    r"=\s*[^\w\s=]{0,3}(?:<<[^<>]*>>)?\s*\$?(\d[\d,]*(?:\.\d+)?)(?![\d/*+^])[^=\n\\/*+^]*\Z"
)


def check_gold(case: Case, problem: ReferenceProblem, verifiers: Verifiers) -> Iterator[Finding]:
    """Whether the row's final answer can be read, and whether each solution ends with it.

    A solution is verified as a rollout would be, by the verifier of the row's domain.
    """
    if problem.answer is None:
        return
    if verifiers.read_golds(problem) is None:
        yield _describe_unreadable(case, problem.answer)
        return
    for number, solution in enumerate(case.solutions, 1):
        which = f"solution {number}" if len(case.solutions) > 1 else "the reference"
        reason = _compare(solution, problem, verifiers)
        if reason:
            yield Finding(case.number, case.id, "gold_disagrees", True, which + reason, "drop")


def _describe_unreadable(case: Case, answer: str) -> Finding:
    marked = next((a for a in (find_marked(s).answer for s in case.solutions) if a), None)
    reason = f"{shorten(answer)} is no answer that can be compared"
    if marked:
        reason += f"; the reference ends with {shorten(marked)}"
    proposal: Proposal = "replace" if marked else "keep"
    return Finding(case.number, case.id, "gold_unreadable", True, reason, proposal, marked)


def _compare(solution: str, problem: ReferenceProblem, verifiers: Verifiers) -> str | None:
    """What a solution says against the row's answer, None where it says nothing."""
    gold = shorten(str(problem.answer))
    verdict = verifiers.examine(solution, problem)
    if verdict.correct is None:
        return None
    if not verdict.correct:
        if verifiers.kind(problem.domain) == "code":
            return " fails the row's unit tests"
        if verdict.found is None:
            return None
        return f" ends with {shorten(verdict.found)}, the row says {gold}"
    last = _find_last_value(solution, str(problem.answer))
    return f" comes to {last} in its last step, the row says {gold}" if last else None


def _find_last_value(solution: str, answer: str) -> str | None:
    """The last number of the steps, where they compute and yet never reach the marked answer.

    In GSM8K the line `#### 66` may stand under steps that end with `48 + 16 = 64`.
    """
    steps, _, last = solution.rstrip().rpartition("\n")
    found = _COMPUTED.search(steps.rstrip())
    if found is None or "=" in last or find_marked(last).mark is None:
        return None
    if read_value(answer) is None or states(steps, answer):
        return None
    return found.group(1)
