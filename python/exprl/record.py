"""A step's rollouts with their steps, grades and advantages, as a parquet file that others open."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from exprl.types import Float64Array, Scored


def write(
    run_dir: Path, step: int, scored: Sequence[Scored], advantages: Sequence[Float64Array]
) -> Path:
    """Write RUN/rollouts/step-NNNNN.parquet, one row per rollout; a rerun of the step replaces it.

    Missing grades, scores and advantages are nulls. `versions` is the policy version that sampled
    each token, `policy_version` that of the first; files of older runs have only the latter.
    """
    import pyarrow as pa
    from pyarrow import parquet

    rows = [
        {
            "problem_id": s.rollout.problem_id,
            "domain": s.domain,
            "index": s.rollout.index,
            "policy_version": s.rollout.policy_version,
            "finish_reason": s.rollout.finish_reason,
            "segments": [segment.text for segment in s.segments],
            "segment_end": [segment.end for segment in s.segments],
            "grades": list(s.grades),
            "scores": list(s.scores),
            "advantages": [None if np.isnan(a) else float(a) for a in values],
            "correct": s.correct,
            "missing": s.missing,
            "token_ids": s.rollout.token_ids,
            "versions": s.rollout.versions,
            "generator_logp": s.rollout.generator_logp,
        }
        for s, values in zip(scored, advantages, strict=True)
    ]
    schema = pa.schema(
        {
            "problem_id": pa.string(),
            "domain": pa.string(),
            "index": pa.int32(),
            "policy_version": pa.int64(),
            "finish_reason": pa.string(),
            "segments": pa.list_(pa.string()),
            "segment_end": pa.list_(pa.int32()),
            "grades": pa.list_(pa.int8()),
            "scores": pa.list_(pa.float64()),
            "advantages": pa.list_(pa.float64()),
            "correct": pa.bool_(),
            "missing": pa.bool_(),
            "token_ids": pa.list_(pa.int32()),
            "versions": pa.list_(pa.int32()),
            "generator_logp": pa.list_(pa.float32()),
        }
    )
    path = run_dir / "rollouts" / f"step-{step:05d}.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    parquet.write_table(pa.Table.from_pylist(rows, schema=schema), partial)
    partial.rename(path)
    return path
