"""Files, folders and hub datasets, to plain rows; problems.py makes Problems of them.

Files are read here without type guessing, because an answer is text: `datasets` would read the CSV
cell `007` as 7.0 and the JSON string `2020-01-01` as a timestamp. It finds the files of a folder's
splits, and reads what it saved itself and hub datasets, which carry their own types.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import tempfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import IO, Any, cast

from exprl import config
from exprl.data.parquet import read_parquet
from exprl.errors import DataError

Row = Mapping[str, Any]

FILE_ENDINGS = (".jsonl", ".json", ".csv", ".parquet")
OTHER_ENDINGS = (".ndjson", ".tsv", ".arrow", ".feather", ".xlsx", ".zip", ".zst", ".bz2", ".xz")
"""Of files that hold rows, too, and that are not read here."""
SAVED = ("dataset_dict.json", "state.json")
"""What `save_to_disk` of `datasets` leaves in the folder of several splits, and of one dataset."""
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
        return _read_folder(path, settings)
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
                    yield from read_parquet(file, path)
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
        if first == "{" and _find_ending(path) == ".json":
            _refuse_one_object(text, path)
        values = (
            (f"line {i}", _parse_json(line, path, f"line {i}: "))
            for i, line in enumerate(text, 1)
            if line.strip()
        )
    for place, value in values:
        if not isinstance(value, dict):
            raise DataError(f"{path}: {place}: expected an object, found {describe_kind(value)}")
        yield value


def _refuse_one_object(text: IO[str], path: Path) -> None:
    """Refuse a .json file that is one object around the rows, or one of columns."""
    content = text.read().strip()
    text.seek(0)
    try:
        whole = json.loads(content)
    except (ValueError, RecursionError):
        return  # several lines, or broken: its line is named when it is read
    columns = all(isinstance(v, dict) and all(map(str.isdecimal, v)) for v in whole.values())
    if whole and ("\n" in content or columns):
        raise DataError(
            f"{path}: holds one object with {', '.join(whole)}; write the rows themselves: a list"
            " of objects, or one object on each line (pandas: orient='records')"
        )


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
        other = next((mark for mark in ";\t|" if len(names) == 1 and mark in names[0]), None)
        if other is not None:
            raise DataError(f"{path}: its cells are separated by {other!r}; write commas")
        for number, row in enumerate(reader, 1):
            cells = len(names) + len(row.get(None, ())) - sum(v is None for v in row.values())
            if cells != len(names):
                raise DataError(f"{path}: row {number}: {cells} cells for {len(names)} columns")
            yield row
    except csv.Error as error:
        raise DataError(f"{path}: line {reader.line_num}: not valid CSV: {error}") from None


def _read_folder(folder: Path, settings: config.Source) -> Iterator[Row]:
    import datasets

    split = settings.split
    saved = next((name for name in SAVED if (folder / name).exists()), None)
    if saved is None:
        for path in _find_files(folder, settings):
            yield from _read_file(path)
        return
    try:
        part = folder / split if saved == SAVED[0] else folder
        rows = _keep_encoded(datasets.load_from_disk(str(part), keep_in_memory=True))
    except Exception as error:  # `datasets` documents no root error
        raise DataError(f"{folder}: split {split!r}: {_find_reason(error)}") from error
    yield from rows


def _find_files(folder: Path, settings: config.Source) -> list[Path]:
    """The files of the split, by the rules of `datasets`: names, subfolders, or a card's configs.

    Raises:
        DataError: the split is not there, or rows would be left out in silence: the folder holds
            files of several kinds, or one that is of no split.
    """
    import datasets

    there = _list_data_files(folder)
    kinds = {ending: path for path, ending in there.items()}
    if len(kinds) > 1:
        names = " and ".join(str(path.relative_to(folder)) for path in kinds.values())
        raise DataError(
            f"{folder}: holds data files of several kinds, such as {names}, and one may be a copy"
            " of the other; name one file in data.path, or several as [[data.sources]]"
        )
    # A cache of its own leaves nothing behind.
    with tempfile.TemporaryDirectory(prefix="exprl-data-") as cache:
        try:
            builder = datasets.load_dataset_builder(str(folder), settings.subset, cache_dir=cache)
        except Exception as error:
            raise DataError(f"{folder}: {_find_reason(error)}") from error
    splits = {
        str(split): list(map(Path, files)) for split, files in builder.config.data_files.items()
    }
    if settings.split not in splits:
        raise DataError(
            f"{folder}: no split {settings.split!r}; its splits are {', '.join(splits)}; set"
            " data.split to one of them, and data.limit to read the first rows only"
        )
    read = {path.resolve() for files in splits.values() for path in files}
    left = next((path for path in there if path.resolve() not in read), None)
    if left is not None and not _has_card(folder):
        raise DataError(
            f"{folder}: {left.relative_to(folder)} belongs to no split, while others are named"
            f" after {', '.join(splits)}; rename it, or name one file in data.path"
        )
    return splits[settings.split]


def _list_data_files(folder: Path) -> dict[Path, str]:
    """The files that hold rows, with their endings; not what describes a dataset, nor hidden."""
    from datasets.data_files import FILES_TO_IGNORE

    return {
        path: "".join(path.suffixes[-2:] if path.suffix == ".gz" else path.suffixes[-1:])
        for path in sorted(folder.rglob("*"))
        if path.is_file()
        and _find_ending(path) in (*FILE_ENDINGS, *OTHER_ENDINGS)
        and path.name not in FILES_TO_IGNORE
        and not any(part.startswith((".", "__")) for part in path.relative_to(folder).parts)
    }


def _has_card(folder: Path) -> bool:
    """Whether a dataset card names the files of each split, and so leaves out others on purpose."""
    card = folder / "README.md"
    return card.is_file() and "data_files:" in card.read_text(encoding="utf-8", errors="replace")


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
    yield from _keep_encoded(dataset)


def _keep_encoded(dataset: Any) -> Any:
    """The dataset without decoding images and sounds, which nothing reads."""
    for name, feature in dataset.features.items():
        if getattr(feature, "decode", False) and type(feature).__name__ != "Json":
            dataset = dataset.cast_column(name, replace(feature, decode=False))
    return dataset


def _find_reason(error: BaseException) -> str:
    """The first lines of the innermost cause: `datasets` wraps it in one that says nothing."""
    while error.__cause__ is not None:
        error = error.__cause__
    return " ".join((str(error) or type(error).__name__).splitlines()[:2])


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
        case bytes():
            return "bytes"
        case dict():
            return f"an object with {', '.join(map(str, value)) or 'no keys'}"
        case _:
            return f"a {type(value).__name__}"
