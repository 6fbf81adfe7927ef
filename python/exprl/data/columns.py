"""Names of columns, to cells: a dot in a name leads to a key of a nested column.

A column that is called exactly like the name goes first; `extra_info.solution` is then no path.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from exprl.data.files import Row, describe_kind
from exprl.errors import DataError

LISTED = 20  # columns or keys that a message names


@dataclass(frozen=True, slots=True)
class Column:
    """A column of the rows, or a key inside one.

    name: as the settings have it.   keys: what leads from the row to the cell.

    >>> Column("a.b", ("a", "b")).read({"a": {"b": 3}}, "row 1")
    3
    """

    name: str
    keys: tuple[str, ...]

    def read(self, row: Row, row_place: str) -> Any:
        """The cell; None where the row lacks the column or a key on the way.

        Raises:
            DataError: something on the way is neither an object nor empty.
        """
        cell: Any = row
        for i, key in enumerate(self.keys):
            if cell is None:
                return None
            if not isinstance(cell, Mapping):
                above = ".".join(self.keys[:i])
                raise DataError(f"{row_place}: {describe_no_object(above, cell, key)}")
            cell = cell.get(key)
        return cell


def find_column(rows: Sequence[Row], name: str) -> Column | None:
    """The column or nested key that a name means, if any row has it."""
    if any(name in row for row in rows):
        return Column(name, (name,))
    for row in rows:
        keys = _find_keys(row, name)
        if keys:
            return Column(name, keys)
    return None


def _find_keys(cells: Mapping[str, Any], name: str) -> tuple[str, ...] | None:
    if name in cells:
        return (name,)
    for head, tail in _split_at_dots(name):
        below = cells.get(head)
        if isinstance(below, Mapping):
            keys = _find_keys(below, tail)
            if keys:
                return (head, *keys)
    return None


def _split_at_dots(name: str) -> Iterator[tuple[str, str]]:
    for i, character in enumerate(name):
        if character == ".":
            yield name[:i], name[i + 1 :]


def explain_missing(rows: Sequence[Row], name: str, remedy: str) -> str:
    """Why no row has a column of this name, with the names that there are and the remedy."""
    for head, tail in reversed(list(_split_at_dots(name))):
        column = find_column(rows, head)
        if column is None:
            continue
        for number, row in enumerate(rows, 1):
            cell = column.read(row, f"row {number}")
            if cell is not None and not isinstance(cell, Mapping):
                return f"row {number}: {describe_no_object(head, cell, tail)}"
        keys = list_columns([column.read(row, "") or {} for row in rows])
        has = join_names(keys) or "no keys in any row"
        return f"no column {name!r}; {head!r} has {has}; {remedy}"
    return f"no column {name!r}; its columns are {join_names(list_columns(rows))}; {remedy}"


def describe_no_object(column: str, cell: Any, key: str) -> str:
    """That a dotted name leads into something that has no keys."""
    text = isinstance(cell, str) and cell.lstrip().startswith("{")
    found = "JSON as text; write it as an object" if text else describe_kind(cell)
    return f"column {column!r}: expected an object with the key {key!r}, found {found}"


def list_columns(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The columns of all rows, nested ones by their dotted keys, in order of appearance."""
    return list(dict.fromkeys(name for row in rows for name in _list_keys(row)))


def _list_keys(cells: Mapping[str, Any]) -> Iterator[str]:
    for name, cell in cells.items():
        if isinstance(cell, Mapping) and cell:
            yield from (f"{name}.{below}" for below in _list_keys(cell))
        else:
            yield str(name)


def join_names(names: Sequence[str]) -> str:
    """Names for a message, which stays readable where there are hundreds."""
    shown = [name if name == name.strip() else repr(name) for name in names[:LISTED]]
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return ", ".join(shown) + more
