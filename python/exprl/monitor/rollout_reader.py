"""The rollout files of a run, read lazily: a step's narrow table, a problem's group, one rollout.

Needs pyarrow and no torch. Files of older runs lack some columns: what is there is given, the rest
is None, and `lacks` names it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from exprl.errors import DataError
from exprl.monitor.rollout_file import METADATA
from exprl.types import Float32Array, Int32Array, Int64Array

if TYPE_CHECKING:
    import pyarrow as pa
    from pyarrow import parquet

NARROW = (
    "problem_id",
    "domain",
    "index",
    "finish_reason",
    "segment_end",
    "grades",
    "scores",
    "advantages",
    "correct",
    "missing",
    "statuses",
    "masked",
    "overlong",
    "blank",
    "injection",
    "length",
)
"""Columns without texts and tokens: a few hundred bytes a rollout."""

ADDED = (
    "question",
    "answer",
    "reference",
    "statuses",
    "ledger_keys",
    "reasons",
    "masked",
    "overlong",
    "blank",
    "injection",
    "opening",
    "length",
)
"""Columns that the files of older runs lack."""


ARRAYS: dict[str, type[np.generic]] = {
    "segment_end": np.int32,
    "token_ids": np.int32,
    "versions": np.int32,
    "generator_logp": np.float32,
}
"""Columns of numbers, which are given as arrays."""


@dataclass(frozen=True, slots=True)
class RecordedStep:
    """One step of a rollout, or the whole of it where one grade was given for the whole.

    start, end: tokens [start, end) of the rollout.
    grade: 1..5; None = missing, or nobody was asked.
    score: in [0, 1]; None = missing.
    advantage: of each of its tokens; None where the rollout was not trained on.
    status: the judge's (`exprl.judge.Status`); None where it was not asked.
    ledger_key: of the judge's reply, 64 hex digits; None where there is no reply.
    """

    text: str
    start: int
    end: int
    grade: int | None
    score: float | None
    advantage: float | None
    status: str | None
    ledger_key: str | None


@dataclass(frozen=True, slots=True, eq=False)
class RecordedRollout:
    """One row of a rollout file.

    row: its place in the step's file, from 0; `Rollouts.read` takes it.
    index: its place in the group of its problem.
    reference: what the judge was shown; None where it was shown none.
    steps: with a process reward one for each segment; else one for the whole rollout.
    segment_end: [S] int32, the token after each segment, also where the steps are not graded.
    reasons: why grades are missing.
    missing, masked, overlong, blank: as `exprl.types.Scored` has them.
    injection: whether the text speaks to the judge (exprl.monitor.text_signs).
    token_ids, versions: [n] int32.   generator_logp: [n] float32.
    trained_version: the policy's version when the step was trained on.
    lacks: columns that the file does not have, because an older exprl wrote it: what they would say
        is None here.
    """

    step: int
    row: int
    problem_id: str
    domain: str
    index: int
    question: str | None
    answer: str | None
    reference: str | None
    finish_reason: str
    steps: tuple[RecordedStep, ...]
    segment_end: Int32Array
    correct: bool | None
    reasons: tuple[str, ...]
    missing: bool
    masked: bool | None
    overlong: bool | None
    blank: bool | None
    injection: bool | None
    token_ids: Int32Array
    generator_logp: Float32Array
    versions: Int32Array
    trained_version: int | None
    lacks: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """What the policy wrote."""
        return "".join(step.text for step in self.steps)

    @property
    def length(self) -> int:
        """Tokens."""
        return len(self.token_ids)

    @property
    def lag(self) -> Int32Array | None:
        """Optimizer steps between each token's policy and the trained one, [n]; None if unknown."""
        if self.trained_version is None or len(self.versions) != len(self.token_ids):
            return None
        return self.trained_version - self.versions


class Rollouts:
    """The rollout files of a run folder; each call looks at what is there now."""

    def __init__(self, run_dir: Path) -> None:
        self.run_dir = Path(run_dir)

    def steps(self) -> list[int]:
        """The steps that have a file, in order; empty where none was written."""
        names = (path.name for path in (self.run_dir / "rollouts").glob("step-*.parquet"))
        found = (re.fullmatch(r"step-(\d+)\.parquet", name) for name in names)
        return sorted(int(match[1]) for match in found if match)

    def choose_steps(self, text: str | None) -> list[int]:
        """The recorded steps that an option names, such as "12" or "1-10"; None takes all.

        Raises:
            DataError: the text is no step, or no rollouts of such steps are there.
        """
        there = self.steps()
        first, dash, last = (text or "").partition("-")
        if text is not None and (not first.isdecimal() or (dash and not last.isdecimal())):
            raise DataError(f"--steps {text!r}: give one step or a range, such as 12 or 1-10")
        if not there:
            raise DataError(_no_file(self.run_dir, 0, there))
        low, high = (int(first), int(last or first)) if text else (there[0], there[-1])
        steps = [step for step in there if low <= step <= high]
        if not steps:
            raise DataError(
                f"--steps {text}: {self.run_dir} has rollouts of the steps {there[0]}-{there[-1]}"
            )
        return steps

    def path(self, step: int) -> Path:
        """The file of a step."""
        return self.run_dir / "rollouts" / f"step-{step:05d}.parquet"

    def lacks(self, step: int) -> tuple[str, ...]:
        """Columns that the file of a step does not have, because an older exprl wrote it.

        Raises:
            DataError: there is no such file, or it cannot be read.
        """
        with self._open(step) as file:
            return _lacks(file)

    def table(self, step: int, columns: Sequence[str] = NARROW) -> pa.Table:
        """Columns of a step, one row per rollout; those that the file lacks are nulls.

        `length` is there in any case: the segments of a rollout tell it too.

        Raises:
            DataError: there is no such file, or it cannot be read.
        """
        import pyarrow as pa

        with self._open(step) as file:
            names = set(file.schema_arrow.names)
            needed = [name for name in columns if name in names]
            if "length" in columns and "length" not in names and "segment_end" not in needed:
                needed.append("segment_end")
            read = file.read(needed)
        found: dict[str, Any] = {}
        for name in columns:
            if name in names:
                found[name] = read[name]
            elif name == "length":
                found[name] = pa.array(last_of(read["segment_end"], 0), pa.int32())
            else:
                found[name] = pa.nulls(len(read))
        return pa.table(found)

    def read(self, step: int, row: int) -> RecordedRollout:
        """One rollout; of the file, its problem's row group is read.

        Raises:
            DataError: there is no such file or row, or the file cannot be read.
        """
        with self._open(step) as file:
            start = 0
            for group in range(file.num_row_groups):
                end = start + file.metadata.row_group(group).num_rows
                if start <= row < end:
                    table = file.read_row_group(group)
                    return _read_row(file, table, row - start, step, row)
                start = end
        raise DataError(
            f"{self.path(step)} holds the rollouts 0 to {start - 1}, and no rollout {row}"
        )

    def group(self, step: int, problem_id: str) -> list[RecordedRollout]:
        """All rollouts of a problem, in the order of the file.

        Raises:
            DataError: the step has no file, or no rollout of this problem.
        """
        import pyarrow.compute as pc

        found: list[RecordedRollout] = []
        ids: set[str] = set()
        with self._open(step) as file:
            start = 0
            for group in range(file.num_row_groups):
                own = file.read_row_group(group, ["problem_id"])["problem_id"]
                rows = np.flatnonzero(pc.equal(own, problem_id).to_numpy())
                if len(rows):
                    table = file.read_row_group(group)
                    found += [_read_row(file, table, i, step, start + i) for i in rows.tolist()]
                ids.update(own.to_pylist())
                start += len(own)
        if not found:
            raise DataError(
                f"step {step} has no rollout of the problem {problem_id!r}; it has"
                f" {', '.join(sorted(ids)[:8])}{', ...' if len(ids) > 8 else ''}"
            )
        return found

    def _open(self, step: int) -> parquet.ParquetFile:
        import pyarrow as pa
        from pyarrow import parquet

        path = self.path(step)
        try:
            return parquet.ParquetFile(path)
        except FileNotFoundError:
            raise DataError(_no_file(self.run_dir, step, self.steps())) from None
        except (OSError, pa.ArrowException) as error:
            raise DataError(
                f"{path} cannot be read as a rollout file: {error}; restore it from a copy"
            ) from None


def lists_of(column: pa.ChunkedArray | pa.Array) -> tuple[Int64Array, np.ndarray]:
    """A column of R lists as offsets [R+1] and the values of all; nulls are NaN, or None."""
    import pyarrow as pa

    whole = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    if not pa.types.is_list(whole.type):  # a column that the file lacks
        return np.zeros(len(whole) + 1, np.int64), np.empty(0)
    offsets = whole.offsets.to_numpy().astype(np.int64)
    return offsets, whole.values.to_numpy(zero_copy_only=False)


def last_of(column: pa.ChunkedArray | pa.Array, default: float = np.nan) -> np.ndarray:
    """The last entry of each list, [R]; `default` where there is none, NaN where it is null."""
    offsets, values = lists_of(column)
    return np.where(np.diff(offsets) > 0, np.append(values, default)[offsets[1:] - 1], default)


def _no_file(run_dir: Path, step: int, steps: Sequence[int]) -> str:
    if steps:
        return f"{run_dir} has no rollouts of step {step}; it has steps {steps[0]} to {steps[-1]}"
    return (
        f"{run_dir} has no rollouts: name the folder of a run whose first step is done, and which"
        " was not started with logging.save_rollouts=false"
    )


def _lacks(file: parquet.ParquetFile) -> tuple[str, ...]:
    names = set(file.schema_arrow.names)
    return tuple(name for name in ("versions", *ADDED) if name not in names)


def _read_row(
    file: parquet.ParquetFile, table: pa.Table, i: int, step: int, row: int
) -> RecordedRollout:
    """Row i of a table, which is `row` of the file."""
    metadata = file.schema_arrow.metadata or {}
    about = json.loads(metadata.get(METADATA, b"{}"))
    arrays = [name for name in ARRAYS if name in table.column_names]
    [one] = table.slice(i, 1).drop_columns(arrays).to_pylist()
    ends = _array(table, "segment_end", i)
    return RecordedRollout(
        step=step,
        row=row,
        problem_id=one["problem_id"],
        domain=one["domain"],
        index=one["index"],
        question=one.get("question"),
        answer=one.get("answer"),
        reference=one.get("reference"),
        finish_reason=one["finish_reason"],
        steps=_steps(one, ends),
        segment_end=ends,
        correct=one["correct"],
        reasons=tuple(one.get("reasons") or ()),
        missing=one["missing"],
        masked=one.get("masked"),
        overlong=one.get("overlong"),
        blank=one.get("blank"),
        injection=one.get("injection"),
        token_ids=_array(table, "token_ids", i),
        generator_logp=_array(table, "generator_logp", i),
        versions=_array(table, "versions", i),
        trained_version=about.get("trained_version"),
        lacks=_lacks(file),
    )


def _array(table: pa.Table, name: str, i: int) -> Any:
    """The numbers of a list; none where the file lacks the column."""
    kind = ARRAYS[name]
    if name not in table.column_names:
        return np.empty(0, kind)
    return table[name][i].values.to_numpy(zero_copy_only=False).astype(kind, copy=False)


def _steps(row: dict[str, Any], ends: Int32Array) -> tuple[RecordedStep, ...]:
    """A grade for each segment, or one for all: as many as there are scores decide."""
    texts = row["segments"]
    if len(row["scores"]) == 1 and len(texts) > 1:
        texts, ends = ["".join(texts)], ends[-1:]

    def at(name: str, i: int) -> Any:
        values = row.get(name) or ()
        return values[i] if i < len(values) else None

    starts = [0, *ends.tolist()][: len(texts)]
    return tuple(
        RecordedStep(
            text=text,
            start=start,
            end=end,
            grade=at("grades", i),
            score=at("scores", i),
            advantage=at("advantages", i),
            status=at("statuses", i),
            ledger_key=at("ledger_keys", i),
        )
        for i, (text, start, end) in enumerate(zip(texts, starts, ends.tolist(), strict=True))
    )
