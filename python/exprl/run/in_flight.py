"""The rollouts of steps that were in flight when a checkpoint was written (rollout.ahead).

RUN/checkpoints/step-00016/trainer/ahead.parquet holds one row for each. A run that goes on takes
them in place of sampling, and their grades come from the judge's ledger, so that nothing is
sampled or paid for twice. A checkpoint with nothing in flight has no such file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from exprl.errors import DataError
from exprl.files import list_column
from exprl.types import Rollout

if TYPE_CHECKING:
    import pyarrow as pa

FILE = "ahead.parquet"


def write_in_flight(folder: Path, rollouts: Mapping[int, Sequence[Rollout]]) -> None:
    """Write the rollouts of each step, counted from 0, into a checkpoint's folder."""
    if not rollouts:
        return
    import pyarrow as pa
    from pyarrow import parquet

    steps = [step for step in sorted(rollouts) for _ in rollouts[step]]
    own = [rollout for step in sorted(rollouts) for rollout in rollouts[step]]
    kinds = {"prompt_ids": pa.int32(), "token_ids": pa.int32(), "versions": pa.int32()}
    kinds |= {"generator_logp": pa.float32()}
    columns = {field.name: [getattr(r, field.name) for r in own] for field in fields(Rollout)}
    table = pa.table(
        {"step": pa.array(steps, pa.int32())}
        | {
            name: list_column(values, kinds[name]) if name in kinds else pa.array(values)
            for name, values in columns.items()
        }
    )
    parquet.write_table(table, folder / FILE, compression="zstd")


def read_in_flight(folder: Path) -> dict[int, list[Rollout]]:
    """The rollouts that `write_in_flight` left in a folder, by step; empty without a file.

    Raises:
        DataError: the file cannot be read.
    """
    path = folder / FILE
    if not path.exists():
        return {}
    import pyarrow as pa
    from pyarrow import parquet

    try:
        table = parquet.read_table(path)
        columns = [_values(table[field.name]) for field in fields(Rollout)]
        steps = table["step"].to_pylist()
    except (OSError, KeyError, pa.ArrowException) as error:
        raise DataError(
            f"{path} does not hold the rollouts of a checkpoint: {error}; delete it to have them"
            " sampled again"
        ) from error
    found: dict[int, list[Rollout]] = {}
    for step, *row in zip(steps, *columns, strict=True):
        found.setdefault(step, []).append(Rollout(*row))
    return found


def _values(column: pa.ChunkedArray) -> list[Any]:
    """A column's values; lists of numbers come as arrays."""
    whole = column.combine_chunks()
    if hasattr(whole, "offsets"):
        return np.split(whole.values.to_numpy(), whole.offsets.to_numpy()[1:-1])
    values: list[Any] = whole.to_pylist()
    return values
