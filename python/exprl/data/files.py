"""Files, folders and hub datasets, to plain rows; problems.py makes Problems of them.

Single files are read here without type guessing, because an answer is text: `datasets` would read
the CSV cell `007` as 7.0 and the JSON string `2020-01-01` as a timestamp. Folders and hub datasets
carry their own types and go through `datasets`.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import tempfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any, cast

from exprl import config
from exprl.errors import DataError

Row = Mapping[str, Any]

FILE_ENDINGS = (".jsonl", ".json", ".csv", ".parquet")
_LONGEST_CSV_CELL = 1 << 30  # bytes; the csv module's own limit of 128 kB cuts long solutions


def read_rows(settings: config.Source) -> Iterator[Row]:
    """The rows of data.path, in their order.

    Raises:
        DataError: no such file, folder or dataset, or a row that cannot be read, by its number.
    """
    path = Path(settings.path).expanduser()
    looks_like_file = _find_ending(path) in FILE_ENDINGS or settings.path.startswith(
        ("/", "./", "../")
    )
    if path.is_file():
        return _read_file(path)
    if path.is_dir():
        return _read_folder(path, settings.split)
    if looks_like_file:
        raise DataError(f"{settings.path}: no such file (data.path)")
    return _read_hub(settings)


def _find_ending(path: Path) -> str:
    return Path(path.name.lower().removesuffix(".gz")).suffix


def _read_file(path: Path) -> Iterator[Row]:
    try:
        with cast(IO[bytes], gzip.open(path) if path.suffix == ".gz" else path.open("rb")) as file:
            match _find_ending(path):
                case ".jsonl" | ".json":
                    yield from _read_json(io.TextIOWrapper(file, encoding="utf-8-sig"), path)
                case ".csv":
                    text = io.TextIOWrapper(file, encoding="utf-8-sig", newline="")
                    yield from _read_csv(text, path)
                case ".parquet":
                    yield from _read_parquet(file, path)
                case ending:
                    raise DataError(
                        f"{path}: cannot read {ending or 'a file without an ending'}; data.path"
                        f" takes {', '.join(FILE_ENDINGS)}, each also with .gz"
                    )
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 text: {error}") from None
    except (gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise DataError(f"{path}: not a whole gzip file: {error}") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error}") from None


def _read_json(text: IO[str], path: Path) -> Iterator[Row]:
    """One object per line, or one array of objects."""
    first = text.read(1)
    while first.isspace():
        first = text.read(1)
    text.seek(0)
    values: Iterator[tuple[str, Any]]
    if first == "[":
        values = ((f"row {i}", value) for i, value in enumerate(_parse_json(text.read(), path), 1))
    else:
        values = (
            (f"line {i}", _parse_json(line, path, f"line {i}: "))
            for i, line in enumerate(text, 1)
            if line.strip()
        )
    for place, value in values:
        if not isinstance(value, dict):
            raise DataError(f"{path}: {place}: expected an object, found {describe_kind(value)}")
        yield value


def _parse_json(text: str, path: Path, place: str = "") -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:  # a number of more than 4,300 digits is the first
        raise DataError(f"{path}: {place}not valid JSON: {error}") from None


def _read_csv(text: IO[str], path: Path) -> Iterator[Row]:
    csv.field_size_limit(_LONGEST_CSV_CELL)
    reader = csv.DictReader(text, strict=True)
    try:
        names = reader.fieldnames or ()
        twice = next((name for name in names if list(names).count(name) > 1), None)
        if twice is not None:
            raise DataError(f"{path}: two columns are called {twice!r}; rename one of them")
        for number, row in enumerate(reader, 1):
            if None in row:
                cells = len(names) + len(row[None])
                raise DataError(f"{path}: row {number}: {cells} cells for {len(names)} columns")
            yield row
    except csv.Error as error:
        raise DataError(f"{path}: line {reader.line_num}: not valid CSV: {error}") from None


def _read_parquet(file: IO[bytes], path: Path) -> Iterator[Row]:
    import pyarrow as pa
    from pyarrow import parquet

    try:
        source = parquet.ParquetFile(file if path.suffix != ".gz" else io.BytesIO(file.read()))
        for batch in source.iter_batches():
            yield from batch.to_pylist()
    except pa.ArrowException as error:
        raise DataError(f"{path}: not a readable parquet file: {error}") from None


def _read_folder(folder: Path, split: str) -> Iterator[Row]:
    import datasets

    # A cache of its own: a changed folder is never served stale, and nothing is left behind.
    with tempfile.TemporaryDirectory(prefix="exprl-data-") as cache:
        try:
            if (folder / "dataset_dict.json").exists():
                saved = datasets.load_from_disk(str(folder / split), keep_in_memory=True)
            elif (folder / "state.json").exists():
                saved = datasets.load_from_disk(str(folder), keep_in_memory=True)
            else:
                saved = datasets.load_dataset(
                    str(folder), split=split, cache_dir=cache, keep_in_memory=True
                )
        except Exception as error:  # `datasets` documents no root error
            raise DataError(f"{folder}: split {split!r}: {_find_reason(error)}") from error
        yield from saved


def _read_hub(settings: config.Source) -> Iterator[Row]:
    import datasets

    try:
        dataset = datasets.load_dataset(settings.path, settings.subset, split=settings.split)
    except Exception as error:
        raise DataError(
            f"data.path = {settings.path!r} is neither a file or folder here nor a hub dataset that"
            f" can be loaded (data.subset = {settings.subset!r}, data.split = {settings.split!r}):"
            f" {_find_reason(error)}"
        ) from error
    yield from dataset


def _find_reason(error: BaseException) -> str:
    """The first line of the innermost cause: `datasets` wraps it in one that says nothing."""
    while error.__cause__ is not None:
        error = error.__cause__
    return (str(error) or type(error).__name__).splitlines()[0]


def describe_kind(value: Any) -> str:  # noqa: PLR0911 (one return per kind reads best)
    """What a value is, in the words of an error message."""
    match value:
        case None:
            return "null"
        case bool():
            return "a boolean"
        case int() | float():
            return "a number"
        case str():
            return "text"
        case list():
            return "a list"
        case dict():
            return f"an object with {', '.join(map(str, value)) or 'no keys'}"
        case _:
            return f"a {type(value).__name__}"
