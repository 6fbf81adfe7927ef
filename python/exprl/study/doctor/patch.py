"""The patch: what to do with each faulty row, as lines to review, and the file after it.

The first line names the data. Each other line is one finding; its `proposal` may be changed by
hand. The data itself is never written to.
"""

from __future__ import annotations

import csv
import itertools
import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from exprl import config, files
from exprl.data.columns import find_column
from exprl.data.files import Row, read_rows
from exprl.errors import ConfigError, DataError
from exprl.study.doctor.cases import fingerprint
from exprl.study.doctor.examination import Examination
from exprl.study.doctor.findings import PROPOSALS

ENDINGS = (".jsonl", ".csv", ".parquet")
ROWS_AT_A_TIME = 1024


@dataclass(frozen=True, slots=True)
class Applied:
    """What became of the rows."""

    read: int
    dropped: int
    replaced: int


def write_patch(path: Path, examination: Examination) -> None:
    """Write the findings as JSON lines.

    Raises:
        ConfigError: the file is there; a patch may have been reviewed, so none is replaced.
    """
    if path.exists():
        raise ConfigError(f"{path} exists and is not replaced; name another file with --patch")
    source = examination.source
    answer = source.columns.answer if source.answer_pattern is None else None
    head = {
        "data": source.path,
        "split": source.split,
        "subset": source.subset,
        "rows": examination.rows,
        "answer_column": answer,
    }
    lines = [asdict(one) for one in examination.findings]
    for line in lines:
        line["fingerprint"] = examination.fingerprints[line["row"] - 1]
        if line["proposal"] == "replace" and answer is None:
            line["proposal"], line["value"] = "keep", None  # the answer is a part of its cell
    files.write_jsonl(path, [head, *lines])


def apply_patch(patch: Path, out: Path, data: str | None = None) -> Applied:
    """Write the patch's data to a new file: rows to be dropped are left out, answers replaced.

    Args:
        out: its ending says how it is written; parquet only from parquet, which keeps the types.
        data: the file, where it is not at the place that the patch names.

    Raises:
        ConfigError: `out` exists or has another ending.
        DataError: the patch is none, or the data is not what the doctor looked at.
    """
    head, changes = _read_patch(patch)
    source = config.Source(
        path=data or head["data"], split=head.get("split", "train"), subset=head.get("subset")
    )
    _check_out(out, source.path)
    rows = enumerate(read_rows(source), 1)
    counts: Counter[str] = Counter()
    with files.write_atomically(out) as partial:
        kept = _change(rows, changes, head, counts)
        match out.suffix:
            case ".csv":
                _write_csv(partial, kept)
            case ".parquet":
                _write_parquet(partial, kept, Path(source.path))
            case _:
                _write_jsonl(partial, kept, source.path)
        if counts["read"] != head["rows"]:
            raise DataError(
                f"{source.path}: has {counts['read']} rows, and {patch} was made for"
                f" {head['rows']}; run exprl doctor data again"
            )
    return Applied(counts["read"], counts["drop"], counts["replace"])


def _check_out(out: Path, data: str) -> None:
    if out.exists():
        raise ConfigError(f"{out} exists and is not replaced; name another file with --out")
    if out.suffix not in ENDINGS:
        raise ConfigError(f"--out {out}: write a file that ends with {', '.join(ENDINGS)}")
    if out.suffix == ".parquet" and not data.endswith(".parquet"):
        raise ConfigError(f"--out {out}: {data} is no parquet file; write .jsonl")


def _read_patch(path: Path) -> tuple[dict[str, Any], dict[int, list[dict[str, Any]]]]:
    """The first line, and the changes by row."""
    lines = [*_parse_lines(path)]
    head = lines[0] if lines else {}
    if not isinstance(head.get("data"), str) or not isinstance(head.get("rows"), int):
        raise DataError(f"{path}: its first line does not name the data: it is no patch")
    changes: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for number, line in enumerate(lines[1:], 2):
        if line.get("proposal") not in PROPOSALS or not isinstance(line.get("row"), int):
            raise DataError(
                f"{path}: line {number}: a finding has a row, and a proposal that is one of"
                f" {', '.join(PROPOSALS)}; found {line.get('proposal')!r}"
            )
        replaces = line["proposal"] == "replace"
        if replaces and not (head.get("answer_column") and isinstance(line.get("value"), str)):
            raise DataError(
                f"{path}: line {number}: to replace an answer needs its text as `value`, and the"
                " column of answers as `answer_column` in the first line"
            )
        changes[line["row"]].append(line)
    return head, changes


def _parse_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The JSON objects of the lines; an editor may have left the last one without its end."""
    for number, text in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if not text.strip():
            continue
        try:
            line = json.loads(text)
        except ValueError as error:
            raise DataError(f"{path}: line {number} is not JSON: {error}") from None
        if not isinstance(line, dict):
            raise DataError(f"{path}: line {number} is not a JSON object: {text[:80]!r}")
        yield line


def _change(
    rows: Iterator[tuple[int, Row]],
    changes: Mapping[int, list[dict[str, Any]]],
    head: Mapping[str, Any],
    counts: Counter[str],
) -> Iterator[Row]:
    """The rows that stay."""
    for number, row in rows:
        counts["read"] += 1
        lines = changes.get(number, ())
        for line in lines:
            if line.get("fingerprint") not in (None, fingerprint(row)):
                raise DataError(
                    f"{head['data']}: row {number} has changed since the doctor looked at it; run"
                    " exprl doctor data again"
                )
        proposals = {line["proposal"] for line in lines}
        values = {line["value"] for line in lines if line["proposal"] == "replace"}
        if "drop" in proposals:
            counts["drop"] += 1
        elif len(values) > 1:
            raise DataError(f"row {number}: the patch replaces its answer by {sorted(values)}")
        else:
            counts["replace"] += len(values)
            yield _replace(row, head["answer_column"], values.pop()) if values else row


def _replace(row: Row, name: str, value: str) -> Row:
    """The row with another text in a column, which may be a nested one."""
    column = find_column([row], name)
    keys = column.keys if column else (name,)
    new: dict[str, Any] = dict(row)
    below = new
    for key in keys[:-1]:
        below[key] = dict(below[key])
        below = below[key]
    below[keys[-1]] = value
    return new


def _write_jsonl(path: Path, rows: Iterator[Row], data: str) -> None:
    with path.open("w", encoding="utf-8") as file:
        for row in rows:
            try:
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
            except TypeError as error:
                raise DataError(f"{data}: {error}; write a parquet file with --out") from None


def _write_csv(path: Path, rows: Iterator[Row]) -> None:
    first = next(rows, None)
    with path.open("w", encoding="utf-8", newline="") as file:
        if first is not None:
            writer = csv.DictWriter(file, list(first))
            writer.writeheader()
            writer.writerow(first)
            writer.writerows(rows)


def _write_parquet(path: Path, rows: Iterator[Row], source: Path) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    schema = parquet.read_schema(source)
    with parquet.ParquetWriter(path, schema) as writer:
        while chunk := list(itertools.islice(rows, ROWS_AT_A_TIME)):
            writer.write_table(pa.Table.from_pylist(chunk, schema))
