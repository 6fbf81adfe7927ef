"""Parquet files, to plain rows."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from exprl.errors import DataError

ROWS_AT_A_TIME = 1024  # as Python objects; some files hold many long texts in a row


def read_parquet(file: IO[bytes], path: Path) -> Iterator[dict[str, Any]]:
    """The rows of a parquet file.

    Raises:
        DataError: it is none, or damaged.
    """
    import pyarrow as pa
    from pyarrow import parquet

    try:
        source = parquet.ParquetFile(file if path.suffix != ".gz" else io.BytesIO(file.read()))
        # A 32-bit 0.1 is 0.10000000149 as a 64-bit number; its text is 0.1.
        as_text = _replace_floats(source.schema_arrow, pa.string())
        as_double = _replace_floats(source.schema_arrow, pa.float64())
        for batch in source.iter_batches(ROWS_AT_A_TIME):
            if as_text != source.schema_arrow:
                batch = batch.cast(as_text).cast(as_double)  # noqa: PLW2901
            yield from batch.to_pylist()
    except pa.ArrowException as error:
        raise DataError(f"{path}: not a readable parquet file: {error}") from None


def _replace_floats(schema: Any, kind: Any) -> Any:
    """The schema with `kind` in place of 32-bit floats, inside objects and lists too."""
    import pyarrow as pa

    def replace(old: Any) -> Any:
        if pa.types.is_float32(old):
            return kind
        if pa.types.is_struct(old):
            return pa.struct([field.with_type(replace(field.type)) for field in old])
        if pa.types.is_list(old):
            return pa.list_(old.value_field.with_type(replace(old.value_type)))
        return old

    return pa.schema([field.with_type(replace(field.type)) for field in schema])
