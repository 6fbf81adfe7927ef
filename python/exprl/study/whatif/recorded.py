"""The rollouts of a finished run, with what its files know of them."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np

from exprl.errors import DataError
from exprl.judge import Status, Verdict, score_grade
from exprl.monitor.rollout_reader import Rollouts
from exprl.reward.known import Known, OwnScores
from exprl.study.whatif.changes import Changes
from exprl.types import Float64Array, Message, Problem, Prompt, Rollout, Scored, Segment
from exprl.verify.verifiers import Verdict as Verification

NEEDED = ("statuses", "reasons", "masked", "overlong", "blank", "question", "reference", "opening")
"""Columns without which nobody can tell how a rollout was scored; older runs lack them."""
NARROW = (
    *("problem_id", "domain", "index", "finish_reason", "segment_end", "grades", "scores"),
    *("advantages", "correct", "statuses", "reasons", "masked", "overlong", "blank", "length"),
)
TEXTS = ("segments", "question", "reference", "token_ids", "opening")
NO_TOKENS = np.empty(0, np.int32)
NO_LOGP = np.empty(0, np.float32)


@dataclass(frozen=True, slots=True)
class Recorded:
    """A rollout as the run has it.

    row: its place in the step's file.
    scored: as the run scored it; its texts are empty where they are not needed.
    advantages: that it was trained with, [T]; NaN throughout where it was not.
    known: what need not be found out again.
    reference: what the judge was shown.
    """

    row: int
    scored: Scored
    advantages: Float64Array
    known: Known
    length: int
    reference: str | None


@dataclass(frozen=True, slots=True)
class RecordedStep:
    """A step's rollouts, groups together, and the problems that they belong to."""

    step: int
    problems: tuple[Problem, ...]
    rollouts: tuple[Recorded, ...]


def parse_steps(text: str | None, rollouts: Rollouts) -> list[int]:
    """The steps of a run that `--steps` names, such as "12" or "1-10"; None takes all.

    Raises:
        DataError: the text is no step, the run has none of them, or an older exprl wrote one.
    """
    steps = rollouts.choose_steps(text)
    _refuse_older(rollouts, steps)
    return steps


def _refuse_older(rollouts: Rollouts, steps: Sequence[int]) -> None:
    lacking = {step: set(rollouts.lacks(step)) & set(NEEDED) for step in steps}
    older = [step for step in steps if lacking[step]]
    if not older:
        return
    newer = [step for step in steps if not lacking[step]]
    remedy = (
        f"take the later steps with --steps {newer[0]}-{newer[-1]}"
        if newer
        else "train a step or more with this version, into another run_dir"
    )
    raise DataError(
        f"{rollouts.path(older[0])} was written by an older exprl, and does not say how its"
        f" rollouts were scored (it lacks {', '.join(sorted(lacking[older[0]]))}); {remedy}"
    )


def read_step(
    rollouts: Rollouts, step: int, changes: Changes, chosen: Collection[str] | None
) -> RecordedStep:
    """The rollouts of a step, in the order of the scorer: by problem, then by index.

    Args:
        chosen: problems whose groups are read; None reads all.
    """
    columns = (*NARROW, *TEXTS) if changes.reads_texts else NARROW
    rows = rollouts.table(step, columns).to_pylist()
    places = [i for i, row in enumerate(rows) if chosen is None or row["problem_id"] in chosen]
    order = {name: i for i, name in enumerate(dict.fromkeys(row["problem_id"] for row in rows))}
    places.sort(key=lambda i: (order[rows[i]["problem_id"]], rows[i]["index"]))
    first = {rows[i]["problem_id"]: rows[i] for i in reversed(places)}
    problems = tuple(map(_problem, (first[name] for name in order if name in first)))
    return RecordedStep(step, problems, tuple(_recorded(i, rows[i], changes) for i in places))


def _problem(row: Mapping[str, Any]) -> Problem:
    """As far as the judge is shown it; the verifier's word on its rollouts is known."""
    question = (Message("user", row.get("question") or ""),)
    return Problem(row["problem_id"], Prompt(row["problem_id"], question), None, row["domain"])


def _recorded(place: int, row: Mapping[str, Any], changes: Changes) -> Recorded:
    run, _ = changes.treatments_of(row["domain"])
    segments = tuple(_segments(row))
    scored = Scored(
        rollout=Rollout(
            problem_id=row["problem_id"],
            index=row["index"],
            prompt_ids=NO_TOKENS,
            token_ids=np.array(row["token_ids"], np.int32) if "token_ids" in row else NO_TOKENS,
            generator_logp=NO_LOGP,
            finish_reason=row["finish_reason"],
            versions=NO_TOKENS,
            opening=row.get("opening") or "",
        ),
        segments=segments,
        grades=tuple(row["grades"]),
        scores=tuple(row["scores"]),
        correct=row["correct"],
        masked=row["masked"],
        domain=row["domain"],
        per_segment=run.per_segment,
        rewarded=run.source != "none",
        reasons=tuple(row["reasons"]),
        bridge=run.per_segment and changes.before.reward.missing == "bridge",
        overlong=row["overlong"],
        blank=row["blank"],
        statuses=tuple(row["statuses"]),
    )
    values = [np.nan if value is None else value for value in row["advantages"]]
    known = _known(scored, changes)
    return Recorded(place, scored, np.array(values), known, row["length"], row.get("reference"))


def _known(scored: Scored, changes: Changes) -> Known:
    """What the run found out, and what holds under the new settings too."""
    if scored.rollout.finish_reason == "failed":
        return Known(scored.segments, blank=False, verified=_verification(scored))
    if changes.cuts:
        return Known(verified=None if changes.verifies else _verification(scored))
    run, _ = changes.treatments_of(scored.domain)
    is_scored = run.own_reward or (run.judged and not scored.blank)
    lost = is_scored and not scored.scores and scored.reasons
    uncut = scored.reasons[0] if lost else ""
    return Known(
        scored.segments,
        blank=scored.blank,
        uncut=uncut,
        verified=None if changes.verifies else _verification(scored),
        verdicts=_verdicts(scored, changes),
        own=_own(scored, changes),
    )


def _verification(scored: Scored) -> Verification:
    """The verifier's word. Where it has none, the last of the run's reasons may be its own."""
    reason = scored.reasons[-1] if scored.reasons else "the verifier did not say so in the run"
    return Verification(scored.correct, reason)


def _own(scored: Scored, changes: Changes) -> OwnScores | None:
    """What a function of the user's said in the run; None where it must be asked."""
    counts_nothing = scored.masked or scored.overlong
    if counts_nothing or not scored.scores or changes.asks_function(scored.domain):
        return None
    return OwnScores(scored.scores, scored.reasons)


def _segments(row: Mapping[str, Any]) -> Iterator[Segment]:
    ends = row["segment_end"]
    texts = row.get("segments") or [""] * len(ends)
    for start, end, text in zip([0, *ends], ends, texts, strict=False):
        yield Segment(start, end, text)


def _verdicts(scored: Scored, changes: Changes) -> tuple[Verdict, ...] | None:
    """The judge's verdicts of the run, under the new score map; None where it must be asked."""
    statuses = scored.statuses
    if not statuses or None in statuses or changes.asks(scored.domain):
        return None
    reasons = list(scored.reasons)

    def verdict(status: str, grade: int | None, score: float | None) -> Verdict:
        if changes.after.judge.readout == "text":
            score = None if grade is None else score_grade(grade, changes.after.judge.score_map)
        error = reasons.pop(0) if grade is None and reasons else None
        return Verdict(
            cast("Status", status), grade, score, "", error, 0, 0, 0, 0, None, 0.0, True, None
        )

    return tuple(map(verdict, cast("tuple[str, ...]", statuses), scored.grades, scored.scores))


def with_answers(step: RecordedStep, problems: Mapping[str, Problem]) -> RecordedStep:
    """The step with the problems as the data has them, to compare answers again.

    Raises:
        DataError: the data no longer has one of them.
    """
    for one in step.problems:
        if one.id not in problems:
            raise DataError(
                f"problem {one.id!r} of step {step.step} is not in the run's data, whose answers"
                " are needed to verify again: the data has changed since; --set data.path names"
                " another file"
            )
    return replace(step, problems=tuple(problems[one.id] for one in step.problems))


def list_groups(rollouts: Rollouts, steps: Sequence[int]) -> list[tuple[int, str, str, int]]:
    """Step, problem, domain and size of each group of rollouts."""
    found: list[tuple[int, str, str, int]] = []
    for step in steps:
        table = rollouts.table(step, ("problem_id", "domain"))
        sizes: dict[tuple[str, str], int] = {}
        for key in zip(table["problem_id"].to_pylist(), table["domain"].to_pylist(), strict=True):
            sizes[key] = sizes.get(key, 0) + 1
        found += [(step, name, domain, size) for (name, domain), size in sizes.items()]
    return found


def draw_groups(
    groups: Sequence[tuple[int, str, str, int]], rollouts: int, seed: int
) -> dict[int, set[str]]:
    """By step, the problems of groups drawn at random, until there are enough rollouts."""
    drawn: dict[int, set[str]] = {}
    left = rollouts
    for i in np.random.Generator(np.random.Philox(key=seed)).permutation(len(groups)):
        step, name, _, size = groups[i]
        if left <= 0:
            break
        drawn.setdefault(step, set()).add(name)
        left -= size
    return drawn
