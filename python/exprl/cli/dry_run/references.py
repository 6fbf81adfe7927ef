"""The dry run's rehearsal of the judge: it grades references as it will grade rollouts."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from exprl import config
from exprl.data.references import choose_references
from exprl.errors import JudgeError
from exprl.functions.pool import Functions
from exprl.judge import Forecaster, Graded, JudgeItem, View
from exprl.reward import judges
from exprl.run.functions import cut_text, find_rule
from exprl.types import ReferenceProblem

REFERENCES_GRADED = 3
REPLY_SHOWN = 300


@dataclass(frozen=True, slots=True)
class ReferenceGrades:
    """Grades of the first references of a domain, each cut into steps as rollouts are.

    found: what was seen.
    prompt: the last request about the first reference, as the judge was sent it.
    about: which one that is, in words.
    warnings: where right solutions get low grades, other problems' solutions high ones, or grades
        have no reasoning behind them.
    """

    found: str
    prompt: str
    about: str
    warnings: tuple[str, ...]


def grade_references(
    cfg: config.Config,
    treatment: config.Treatment,
    problems: Sequence[ReferenceProblem],
    functions: Functions | None = None,
) -> ReferenceGrades:
    """Have the first references of a domain graded, each for its own problem and for another's.

    Args:
        problems: of the domain.
        functions: with the step rule, if it is the user's.

    Raises:
        JudgeError: no judge answered, or a reply holds no grade.
    """
    asked = [p for p in problems if p.reference][:REFERENCES_GRADED] or problems[:1]
    # A wrong reference needs a second problem; the dry run shows none instead.
    right = cfg.judge.condition == "right"
    rule = find_rule(cfg, functions or Functions(cfg.functions))
    references = choose_references("right" if right else "none", asked, cfg.seed)
    items = [
        JudgeItem(
            id=f"dry-run-{i}",
            problem=problem.question,
            reference=references[problem.id],
            segments=cut_text(cfg.reward, rule, problem.reference or problem.question),
            domain=problem.domain,
        )
        for i, problem in enumerate(asked)
    ]
    # A rule rehearses a judge, and may read no more of a program than its last number.
    strange = _exchange(items) if right and cfg.judge.kind == "server" else []
    with tempfile.TemporaryDirectory() as folder:
        grading = judges.grading_of(treatment)
        section = judges.settings_for(cfg.judge, grading, 1, Path(folder))
        with judges.open_judge(section, cfg.seed) as judge:
            replies = sorted(judge.submit(items + strange).result(), key=lambda one: one.index)
            prompts = Forecaster(judge.settings).prompts(items[0])
    graded, exchanged = replies[: len(items)], replies[len(items) :]
    for one in graded:
        _require_grades(cfg, one)
    low = [one for one in graded if _final(one, treatment.view) <= 3.0]
    first = ", ".join(str(verdict.grade) for verdict in graded[0].verdicts)
    latency = max(verdict.latency_s for one in graded for verdict in one.verdicts)
    found = (
        f"answers: the reference itself is graded {first}"
        f"{' (step by step)' if len(graded[0].verdicts) > 1 else ''};"
        f" {len(graded) - len(low)} of {len(graded)} references are graded above 3"
        f" ({latency:.2f} s)"
    )
    which = f", request {len(prompts)} of {len(prompts)}" if len(prompts) > 1 else ""
    return ReferenceGrades(
        found,
        prompts[-1],
        f"what the judge reads about the reference of problem {asked[0].id}{which}:",
        tuple(_warn(graded, low if right else [], exchanged)),
    )


def _exchange(items: Sequence[JudgeItem]) -> list[JudgeItem]:
    """Each item with the solution of another problem, in one step; none if all have the same."""
    pairs = zip(items, [*items[1:], *items[:1]], strict=True)
    return [
        item._replace(id=f"{item.id}-exchanged", segments=("".join(other.segments),))
        for item, other in pairs
        if item.segments != other.segments and item.problem != other.problem
    ]


def _require_grades(cfg: config.Config, graded: Graded) -> None:
    lost = next((verdict for verdict in graded.verdicts if verdict.grade is None), None)
    if lost is None:
        return
    where = ", ".join(cfg.judge.endpoints) or "the rule judge"
    reason = lost.error or f"its reply ends {lost.reply[-REPLY_SHOWN:]!r}"
    raise JudgeError(f"{where} gave no grade: {lost.status}: {reason}")


def _final(graded: Graded, view: View) -> float:
    """The grade of the whole solution: its last one, or the mean of steps that are seen alone."""
    grades = [verdict.grade for verdict in graded.verdicts if verdict.grade is not None]
    return sum(grades) / len(grades) if view == "step" else float(grades[-1])


def _warn(
    graded: Sequence[Graded], low: Sequence[Graded], exchanged: Sequence[Graded]
) -> Iterator[str]:
    """What speaks against the judge: each where more than half of the grades do."""
    if len(low) > len(graded) / 2:
        yield (
            f"{len(low)} of {len(graded)} references are graded 3 or less, as if the right solution"
            " were wrong: rollouts will be graded so, too. Do problem and reference belong together"
            " (data.columns), is the judge able to grade them, and does its rubric fit? A reply"
            f" ends: {_end(low[0])}"
        )
    finals = [one.verdicts[-1].grade for one in exchanged]
    known = [grade for grade in finals if grade is not None]
    high = [grade for grade in known if grade > 3]
    if len(high) > len(known) / 2:
        yield (
            f"{len(high)} of {len(known)} references are graded above 3 for a problem that is not"
            " theirs: the judge may call everything right. Calibrate it (`exprl calibrate`). A"
            f" reply ends: {_end(exchanged[finals.index(high[0])])}"
        )
    verdicts = [verdict for one in graded for verdict in one.verdicts]
    reasked = sum(verdict.status == "repaired" for verdict in verdicts)
    if reasked > len(verdicts) / 2:
        yield (
            f"{reasked} of {len(verdicts)} grades came from a re-ask for the grade alone, so that"
            " no reasoning stands behind them: the replies hold no line `Score: n`, or"
            " judge.max_tokens cuts them before it"
        )


def _end(graded: Graded) -> str:
    return repr(graded.verdicts[-1].reply[-REPLY_SHOWN:])
