"""A step's rollouts with their steps, grades and advantages, as a parquet file that others open."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Self

from exprl import files
from exprl.types import Float64Array, Scored

if TYPE_CHECKING:
    import pyarrow as pa


class RolloutWriter:
    """Writes the rollouts of a step while the next one goes on; one file at a time.

    Use it as a context manager: at its end everything is written.
    """

    def __init__(self, run_dir: Path) -> None:
        self._run_dir = run_dir
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="record")
        self._write: Future[Path] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with self._thread:
            self.join()

    def submit(
        self, step: int, scored: Sequence[Scored], advantages: Sequence[Float64Array]
    ) -> None:
        """Have `write_rollouts` called on a thread, once the file before is written.

        Raises:
            OSError: the file before was not written.
        """
        self.join()
        self._write = self._thread.submit(write_rollouts, self._run_dir, step, scored, advantages)

    def join(self) -> None:
        """Wait for the file in flight. A checkpoint does, so that no step before it lacks its file.

        Raises:
            OSError: it was not written, for example because the disk is full.
        """
        last, self._write = self._write, None
        if last is not None:
            last.result()


def write_rollouts(
    run_dir: Path, step: int, scored: Sequence[Scored], advantages: Sequence[Float64Array]
) -> Path:
    """Write RUN/rollouts/step-NNNNN.parquet, one row per rollout; a rerun of the step replaces it.

    Missing grades, scores and advantages are nulls. `versions` is the policy version that sampled
    each token, `policy_version` that of the first; files of older runs have only the latter.
    """
    from pyarrow import parquet

    path = run_dir / "rollouts" / f"step-{step:05d}.parquet"
    with files.write_atomically(path) as partial:
        parquet.write_table(_table(scored, advantages), partial, compression="zstd")
    return path


def _table(scored: Sequence[Scored], advantages: Sequence[Float64Array]) -> pa.Table:
    """Built by column: Python objects of single tokens would cost seconds and the trainer's GIL."""
    import pyarrow as pa

    if len(scored) != len(advantages):
        raise ValueError(f"{len(scored)} rollouts, but advantages of {len(advantages)}")
    rollouts = [s.rollout for s in scored]
    texts = [[segment.text for segment in s.segments] for s in scored]
    ends = [[segment.end for segment in s.segments] for s in scored]
    return pa.table(
        {
            "problem_id": pa.array([r.problem_id for r in rollouts], pa.string()),
            "domain": pa.array([s.domain for s in scored], pa.string()),
            "index": pa.array([r.index for r in rollouts], pa.int32()),
            "policy_version": pa.array([r.policy_version for r in rollouts], pa.int64()),
            "finish_reason": pa.array([r.finish_reason for r in rollouts], pa.string()),
            "segments": pa.array(texts, pa.list_(pa.string())),
            "segment_end": pa.array(ends, pa.list_(pa.int32())),
            "grades": pa.array([s.grades for s in scored], pa.list_(pa.int8())),
            "scores": pa.array([s.scores for s in scored], pa.list_(pa.float64())),
            "advantages": files.list_column(advantages, pa.float64(), nan_is_null=True),
            "correct": pa.array([s.correct for s in scored], pa.bool_()),
            "missing": pa.array([s.missing for s in scored], pa.bool_()),
            "token_ids": files.list_column([r.token_ids for r in rollouts], pa.int32()),
            "versions": files.list_column([r.versions for r in rollouts], pa.int32()),
            "generator_logp": files.list_column([r.generator_logp for r in rollouts], pa.float32()),
        }
    )
