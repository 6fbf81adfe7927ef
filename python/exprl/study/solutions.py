"""Solutions that a model wrote, from a run's rollouts or from a file, with what is known of them.

docs/guides/judge.md ("The file of solutions") says what the rows of a file hold.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from exprl import config
from exprl.data.files import Row, describe_kind, read_rows
from exprl.data.problems import load_problems
from exprl.data.references import keep_all_rows
from exprl.errors import DataError
from exprl.judge import JudgeItem, split
from exprl.steps import StepRule
from exprl.study import targets
from exprl.types import Int32Array, Problem


@dataclass(frozen=True, slots=True, eq=False)
class Solution:
    """One solution.

    id: unique within its source.
    problem: as the judge is shown it.   segments: its steps; joined, they are the trace.
    correct: the verifier's word; None where it is not known.
    asked, token_ids, segment_end: of a run's rollout, to go on from one of its steps: the problem,
        the n tokens, and [T] how many of them each step ends at. None for a file's.
    """

    id: str
    problem_id: str
    problem: str
    reference: str | None
    segments: tuple[str, ...]
    domain: str
    correct: bool | None
    finish_reason: str
    asked: Problem | None = None
    token_ids: Int32Array | None = None
    segment_end: tuple[int, ...] = ()

    @property
    def trace(self) -> str:
        """The whole text."""
        return "".join(self.segments)

    @property
    def item(self) -> JudgeItem:
        """What a judge is asked to grade."""
        return JudgeItem(self.id, self.problem, self.reference, self.segments, self.domain)


def read(
    source: Path,
    *,
    step_rule: StepRule = "delimiter",
    delimiter: str = "###",
    label: str = "correct",
    steps: str | None = None,
) -> list[Solution]:
    """The solutions of a run folder or of a JSONL, JSON, CSV or parquet file, in order.

    Rollouts that the engine gave up on are left out.

    Args:
        step_rule, delimiter: cut a file's traces into steps; a run's are cut already.
        label: field of a file that holds the truth.
        steps: of a run, such as "12" or "1-10", as its files are called; None takes all.

    Raises:
        DataError: no solutions there, or a row that cannot be used, by its number.
    """
    if targets.is_run(source):
        found = _read_run(source, steps)
    elif steps is not None:
        raise DataError(f"{source} is a file: --steps goes with the folder of a run")
    elif not source.is_file():
        raise DataError(f"{source}: neither a file nor the folder of a run")
    else:
        rows = enumerate(read_rows(config.Data(path=str(source))), 1)
        # A step that is thinking only would show most judges nothing.
        cut = partial(split, rule=step_rule, delimiter=delimiter, cut_thinking=False)
        found = [_read_row(row, f"{source}: row {i}", i, cut, label) for i, row in rows]
    if not found:
        raise DataError(f"{source} holds no solution")
    return found


def draw(solutions: Sequence[Solution], limit: int | None, seed: int) -> list[Solution]:
    """At most `limit` of them at random without replacement, in their order."""
    if limit is None or limit >= len(solutions):
        return list(solutions)
    generator = np.random.Generator(np.random.Philox(key=seed))
    chosen = generator.choice(len(solutions), limit, replace=False)
    return [solutions[i] for i in sorted(chosen)]


def _read_run(run_dir: Path, steps: str | None) -> list[Solution]:
    from pyarrow import parquet

    cfg = targets.load_config(run_dir)
    problems = {p.id: p for p in load_problems(keep_all_rows(cfg.data))}
    first, last = _parse_steps(steps)
    paths = {int(p.stem[5:]): p for p in sorted((run_dir / "rollouts").glob("step-*.parquet"))}
    solutions = []
    for step, path in paths.items():
        if not first <= step <= last:
            continue
        for row in parquet.read_table(path).to_pylist():
            if row["finish_reason"] == "failed":
                continue
            problem = problems.get(row["problem_id"])
            if problem is None:
                raise DataError(
                    f"{path}: problem {row['problem_id']!r} is not in {cfg.data.path}: the data has"
                    " changed since the run"
                )
            solutions.append(
                Solution(
                    id=f"step-{step}/{problem.id}/{row['index']}",
                    problem_id=problem.id,
                    problem=problem.question,
                    reference=problem.judge_reference,
                    segments=tuple(row["segments"]),
                    domain=problem.domain,
                    correct=row["correct"],
                    finish_reason=row["finish_reason"],
                    asked=problem.without_reference(),
                    token_ids=np.array(row["token_ids"], dtype=np.int32),
                    segment_end=tuple(row["segment_end"]),
                )
            )
    if not solutions:
        if paths and steps:
            raise DataError(f"--steps {steps}: {run_dir} has steps {min(paths)}-{max(paths)}")
        raise DataError(
            f"{run_dir / 'rollouts'} holds no rollouts; logging.save_rollouts keeps them"
        )
    return solutions


def _read_row(
    row: Row, place: str, number: int, cut: Callable[[str], tuple[str, ...]], label: str
) -> Solution:
    def text(field: str, default: str | None = None) -> str:
        value = row.get(field)
        value = default if value is None else value
        if field in ("id", "problem_id") and type(value) is int:
            return str(value)
        if not isinstance(value, str):
            raise DataError(f"{place}: field {field!r} must be text, not {describe_kind(value)}")
        return value

    correct = row.get(label)
    if not isinstance(correct, bool | None):
        raise DataError(f"{place}: field {label!r} must be true, false or null, not {correct!r}")
    problem, reference = text("problem"), text("reference", "")
    return Solution(
        id=text("id", str(number)),
        problem_id=text("problem_id", problem),
        problem=problem,
        reference=reference if reference.strip() else None,
        segments=cut(text("trace")),
        domain=text("domain", "math"),
        correct=correct,
        finish_reason=text("finish_reason", "stop"),
    )


def _parse_steps(steps: str | None) -> tuple[int, float]:
    if steps is None:
        return 0, float("inf")
    first, dash, last = steps.partition("-")
    if not first.isdecimal() or (dash and not last.isdecimal()):
        raise DataError(f"--steps {steps!r}: give one step or a range, such as 12 or 1-10")
    return int(first), int(last) if dash else int(first)
