"""The rows of a source one after another, also those at which training would stop."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterator
from dataclasses import dataclass

from exprl import config
from exprl.data.files import Row, read_rows
from exprl.data.rows import RowReader, drop_unnamed, open_rows
from exprl.errors import DataError
from exprl.types import ReferenceProblem

ROWS_AT_A_TIME = 1024
"""As Python objects; a file of any length needs no more of them at once."""


@dataclass(frozen=True, slots=True)
class Case:
    """A row as the doctor sees it.

    problem: None where nothing of the row can be read.
    error: why training would stop at it, None where it would not.
    fingerprint: of the whole row, by which a patch knows it again.
    """

    number: int
    fingerprint: str
    problem: ReferenceProblem | None
    error: str | None = None

    @property
    def id(self) -> str:
        """Of the problem, else the row's number."""
        return str(self.number) if self.problem is None else self.problem.id

    @property
    def solutions(self) -> tuple[str, ...]:
        """The reference and its alternatives."""
        if self.problem is None or self.problem.reference is None:
            return ()
        return (self.problem.reference, *self.problem.alternatives)


def fingerprint(row: Row) -> str:
    """What stays the same as long as no cell of the row changes: 16 hexadecimal digits."""
    text = json.dumps(row, sort_keys=True, default=str, ensure_ascii=False)
    return hashlib.blake2b(text.encode("utf-8", "replace"), digest_size=8).hexdigest()


def read_cases(source: config.Source) -> Iterator[Case]:
    """The rows of a source in their order; at most ROWS_AT_A_TIME of them are in memory.

    Raises:
        DataError: the file cannot be read, or has not a column that the settings name.
    """
    # The problem as the data has it: what the template adds is the same in every row.
    plain = source.model_copy(update={"template": "{problem}", "system": None})
    rows = itertools.islice(read_rows(plain), plain.limit)
    head, readers = _open(rows, plain)
    numbered = enumerate(itertools.chain(head, rows), 1)
    while chunk := list(itertools.islice(numbered, ROWS_AT_A_TIME)):
        kept = drop_unnamed((row for _, row in chunk), plain)
        for (number, row), named in zip(chunk, kept, strict=True):
            yield _read(readers, named, number, fingerprint(row))


def _open(rows: Iterator[Row], source: config.Source) -> tuple[list[Row], list[RowReader]]:
    """The first rows, as many as show every column, and the readers: with and without answers."""
    head: list[Row] = []
    while True:
        more = list(itertools.islice(rows, ROWS_AT_A_TIME))
        head += more
        try:
            reader = open_rows(head, source)
        except DataError:
            if more:
                continue  # a column may begin later
            if not head:
                raise DataError(f"{source.path}: holds no rows") from None
            raise
        if not head:
            raise DataError(f"{source.path}: holds no rows")
        bare = source.columns.model_copy(update={"answer": None, "entry_point": None})
        lenient = source.model_copy(
            update={"columns": bare, "answer_pattern": None, "reference_list": "alternatives"}
        )
        return head, [reader, open_rows(head, lenient)]


def _read(readers: list[RowReader], row: Row, number: int, mark: str) -> Case:
    """The row by the first reader that can read it; the error is that of the first."""
    error = None
    for reader in readers:
        try:
            problem, _ = reader.read(row, number)
        except DataError as refused:
            error = error or str(refused).removeprefix(f"{reader.settings.path}: row {number}: ")
        else:
            return Case(number, mark, problem, error)
    return Case(number, mark, None, error)
