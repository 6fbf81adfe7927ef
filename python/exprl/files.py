"""Files that a kill or a full disk must not spoil: written whole or not at all, and JSONL.

A JSONL file holds one JSON object per line. Only its last line can be cut short, by a process that
died while it wrote: readers leave such a line out, and the next line to be written replaces it.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from exprl.errors import DataError

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa


@contextmanager
def write_atomically(path: Path) -> Iterator[Path]:
    """Give the name under which to write a new file or folder, then put it in the place of `path`.

    Whenever the process dies, `path` is the old one or the new one, whole. Its folder is made if it
    is missing. An old folder goes before the new one comes: between them there is none. A file
    never takes the place of a folder.

    Raises:
        OSError: nothing could be written, for example because the disk is full; `path` is the old
            one.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "notes.txt"
    >>> with write_atomically(path) as partial:
    ...     written = partial.write_text("all of it")
    >>> path.read_text()
    'all of it'
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    _delete(partial)
    try:
        yield partial
        for part in [*partial.rglob("*"), partial]:
            _sync(part)
        if path.is_dir():
            if not partial.is_dir():  # `-o FOLDER` where a file belongs: never delete what is in it
                raise IsADirectoryError(errno.EISDIR, "is a folder; name a file", str(path))
            shutil.rmtree(path)
        partial.replace(path)
        _sync(path.parent)
    except BaseException:
        _delete(partial)
        raise


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 file, as `write_atomically` does."""
    with write_atomically(path) as partial:
        partial.write_text(text, encoding="utf-8")


def write_json(path: Path, tree: Any) -> None:
    """Write a JSON file, as `write_atomically` does.

    Raises:
        ValueError: `tree` holds NaN or infinity, which JSON does not have.
    """
    write_text(path, json.dumps(tree, indent=2, allow_nan=False) + "\n")


def write_jsonl(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write a JSONL file, as `write_atomically` does.

    Raises:
        ValueError: a row holds NaN or infinity, which JSON does not have.
    """
    write_text(path, "".join(map(_line, rows)))


def append_jsonl(path: Path, row: Mapping[str, Any]) -> None:
    """Add a line to a JSONL file, in the place of a last line that was cut short.

    Raises:
        ValueError: the row holds NaN or infinity, which JSON does not have.
    """
    line = _line(row).encode()
    with path.open("a+b") as file:
        if file.tell():
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b"\n":
                file.seek(0)
                file.truncate(file.read().rfind(b"\n") + 1)
        file.write(line)


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """The rows of a JSONL file that we write; a last line that was cut short is left out.

    Raises:
        OSError: the file is missing or cannot be read.
        DataError: a whole line is not a JSON object; the message names the line.
    """
    rows: list[dict[str, Any]] = []
    for number, line in enumerate(path.read_bytes().split(b"\n")[:-1], 1):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):  # not UTF-8, not JSON, or nested without end
            row = None
        if not isinstance(row, dict):
            shown = line[:80].decode(errors="replace")
            raise DataError(
                f"{path}: line {number} is not a JSON object: {shown!r}; restore the file or delete"
                " this line"
            )
        rows.append(row)
    return rows


def _line(row: Mapping[str, Any]) -> str:
    return json.dumps(row, allow_nan=False) + "\n"


def _delete(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    """Wait until a file, or the list of a folder's files, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def list_column(
    rows: Sequence[np.ndarray], kind: pa.DataType, *, nan_is_null: bool = False
) -> pa.ListArray:
    """A column of lists of numbers, for a parquet file.

    It is built from arrays: Python objects of single tokens would cost seconds and the GIL.
    """
    import numpy as np
    import pyarrow as pa

    values = np.concatenate([np.empty(0, kind.to_pandas_dtype()), *rows])
    offsets = np.cumsum([0, *map(len, rows)], dtype=np.int32)
    return pa.ListArray.from_arrays(offsets, pa.array(values, kind, from_pandas=nan_is_null))
