"""A step's rollouts with their steps, grades and advantages, as a parquet file that others open.

The file stands alone: a row holds the question, the answer and what the judge was shown as
reference beside what the policy wrote. The judge's words are in its ledger, under `ledger_keys`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Self

import exprl
from exprl import files
from exprl.monitor.text_signs import find_signs
from exprl.types import Float64Array, Problem, Scored

if TYPE_CHECKING:
    import pyarrow as pa

METADATA = b"exprl"
"""Key of the file's metadata that holds a JSON object: step, trained_version, exprl_version."""


class RolloutWriter:
    """Writes the rollouts of a step while the next one goes on; one file at a time.

    Use it as a context manager: at its end everything is written.
    """

    def __init__(
        self,
        run_dir: Path,
        problems: Sequence[Problem] = (),
        references: Mapping[str, str | None] | None = None,
    ) -> None:
        """`problems`, `references`: of the run, as `write_rollouts` takes them."""
        self._run_dir = run_dir
        self._problems = {p.id: p for p in problems}
        self._references = references or {}
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="record")
        self._write: Future[Path] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with self._thread:
            self.join()

    def submit(
        self,
        step: int,
        scored: Sequence[Scored],
        advantages: Sequence[Float64Array],
        trained_version: int | None = None,
    ) -> None:
        """Have `write_rollouts` called on a thread, once the file before is written.

        Raises:
            OSError: the file before was not written.
        """
        self.join()
        self._write = self._thread.submit(
            write_rollouts,
            self._run_dir,
            step,
            scored,
            advantages,
            problems=self._problems,
            references=self._references,
            trained_version=trained_version,
        )

    def join(self) -> None:
        """Wait for the file in flight. A checkpoint does, so that no step before it lacks its file.

        Raises:
            OSError: it was not written, for example because the disk is full.
        """
        last, self._write = self._write, None
        if last is not None:
            last.result()


def write_rollouts(
    run_dir: Path,
    step: int,
    scored: Sequence[Scored],
    advantages: Sequence[Float64Array],
    *,
    problems: Mapping[str, Problem] | None = None,
    references: Mapping[str, str | None] | None = None,
    trained_version: int | None = None,
) -> Path:
    """Write RUN/rollouts/step-NNNNN.parquet, one row per rollout; a rerun of the step replaces it.

    Missing grades, scores and advantages are nulls. `versions` is the policy version that sampled
    each token, `policy_version` that of the first; files of older runs have only the latter. The
    rollouts of a problem are one row group, so that they are read without the others.

    Args:
        problems: by id, for question and answer; null where the id is not there.
        references: what the judge was shown, by problem id; likewise.
        trained_version: the policy's version when the step was trained on. A token's lag is this
            less its entry of `versions`.
    """
    from pyarrow import parquet

    path = run_dir / "rollouts" / f"step-{step:05d}.parquet"
    about = {
        "step": step,
        "trained_version": trained_version,
        "exprl_version": exprl.__version__,
    }
    table = _table(scored, advantages, problems or {}, references or {})
    table = table.replace_schema_metadata({METADATA: json.dumps(about).encode()})
    with (
        files.write_atomically(path) as partial,
        parquet.ParquetWriter(partial, table.schema, compression="zstd") as writer,
    ):
        for start, end in _groups(scored):
            writer.write_table(table.slice(start, end - start), row_group_size=end - start)
    return path


def _groups(scored: Sequence[Scored]) -> Iterator[tuple[int, int]]:
    """Where the rollouts of one problem stand: [start, end) of neighbours with the same id."""
    ids = [s.rollout.problem_id for s in scored]
    starts = [i for i, one in enumerate(ids) if i == 0 or one != ids[i - 1]]
    return zip(starts, [*starts[1:], len(ids)], strict=True)


def _table(
    scored: Sequence[Scored],
    advantages: Sequence[Float64Array],
    problems: Mapping[str, Problem],
    references: Mapping[str, str | None],
) -> pa.Table:
    """Built by column: Python objects of single tokens would cost seconds and the trainer's GIL."""
    import pyarrow as pa

    scored = list(scored)
    if len(scored) != len(advantages):
        raise ValueError(f"{len(scored)} rollouts, but advantages of {len(advantages)}")
    rollouts = [s.rollout for s in scored]
    ids = [r.problem_id for r in rollouts]
    known = [problems.get(one) for one in ids]
    texts = [[segment.text for segment in s.segments] for s in scored]
    ends = [[segment.end for segment in s.segments] for s in scored]
    signs = find_signs([s.text for s in scored], [None] * len(scored))
    lists = pa.list_(pa.string())
    return pa.table(
        {
            "problem_id": pa.array(ids, pa.string()),
            "domain": pa.array([s.domain for s in scored], pa.string()),
            "index": pa.array([r.index for r in rollouts], pa.int32()),
            "policy_version": pa.array([r.policy_version for r in rollouts], pa.int64()),
            "finish_reason": pa.array([r.finish_reason for r in rollouts], pa.string()),
            "segments": pa.array(texts, lists),
            "segment_end": pa.array(ends, pa.list_(pa.int32())),
            "grades": pa.array([s.grades for s in scored], pa.list_(pa.int8())),
            "scores": pa.array([s.scores for s in scored], pa.list_(pa.float64())),
            "advantages": files.list_column(advantages, pa.float64(), nan_is_null=True),
            "correct": pa.array([s.correct for s in scored], pa.bool_()),
            "missing": pa.array([s.missing for s in scored], pa.bool_()),
            "token_ids": files.list_column([r.token_ids for r in rollouts], pa.int32()),
            "versions": files.list_column([r.versions for r in rollouts], pa.int32()),
            "generator_logp": files.list_column([r.generator_logp for r in rollouts], pa.float32()),
            "question": pa.array([p and p.question for p in known], pa.string()),
            "answer": pa.array([p and _show_answer(p) for p in known], pa.string()),
            "reference": pa.array([references.get(one) for one in ids], pa.string()),
            "statuses": pa.array([_like_grades(s, s.statuses) for s in scored], lists),
            "ledger_keys": pa.array([_like_grades(s, s.ledger_keys) for s in scored], lists),
            "reasons": pa.array([s.reasons for s in scored], lists),
            "masked": pa.array([s.masked for s in scored], pa.bool_()),
            "overlong": pa.array([s.overlong for s in scored], pa.bool_()),
            "blank": pa.array([s.blank for s in scored], pa.bool_()),
            "injection": pa.array([bool(one.injections) for one in signs], pa.bool_()),
            "opening": pa.array([r.opening for r in rollouts], pa.string()),
            "length": pa.array([len(r.token_ids) for r in rollouts], pa.int32()),
        }
    )


def _show_answer(problem: Problem) -> str | None:
    """The gold answer; of several, all of them with the word that says how many are asked for."""
    if problem.answer is None or not problem.more_answers:
        return problem.answer
    word = " and " if problem.all_answers else " or "
    return word.join([problem.answer, *problem.more_answers])


def _like_grades(one: Scored, values: Sequence[str | None]) -> Sequence[str | None]:
    """As many values as grades; None where nobody was asked."""
    return values or (None,) * len(one.grades)
