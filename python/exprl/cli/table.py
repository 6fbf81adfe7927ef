"""The rows of a data file by column, to guess what each holds."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

from exprl.config.placeholders import find_names
from exprl.data.columns import Column, find_column, join_names, list_columns
from exprl.data.files import Row
from exprl.errors import DataError

# By role, the names that public datasets use; earlier ones win.
NAMES = {
    "problem": "problem question prompt query instruction task input messages conversation",
    "reference": "reference reference_solution gold_solution solution canonical_solution rationale"
    " explanation response output completion answer ground_truth",
    "answer": "final_answer gold_answer expected_answer ground_truth answer target label result"
    " test",
    "id": "id task_id problem_id unique_id uuid",
    "domain": "domain ability",
}
# Nested columns whose keys may have a role; others often hold what some model wrote.
NESTS = ("extra_info", "reward_model", "metadata", "meta", "info")


class Table:
    """The rows by column; nested ones by their dotted names."""

    def __init__(self, path: str, rows: Sequence[Row]) -> None:
        self.path = path
        self.rows = rows
        self.columns = list_columns(rows)

    def named(self, role: str) -> Iterator[str]:
        """The columns whose name says that they may have the role, best first, nested ones last."""
        plain = {make_plain(name): name for name in self.columns}
        nested = {
            make_plain(leaf): name
            for name in self.columns
            for nest, _, leaf in [name.rpartition(".")]
            if nest in NESTS
        }
        return (names[n] for names in (plain, nested) for n in NAMES[role].split() if n in names)

    def given(self, column: str, option: str) -> str | None:
        """A column that the user named, or several in braces."""
        if column == "none":
            return None
        names = [column] if find_column(self.rows, column) else find_names(column) or [column]
        for name in names:
            if find_column(self.rows, name) is None:
                raise DataError(
                    f"{self.path}: no column {name!r} ({option}); its columns are"
                    f" {join_names(self.columns)}"
                )
        return column

    def cells(self, column: str) -> list[Any]:
        """Its cells, one per row; None where a row has none."""
        found = find_column(self.rows, column) or Column(column, (column,))
        return [found.read(row, f"{self.path}: row {i}") for i, row in enumerate(self.rows, 1)]

    def texts(self, column: str) -> list[str]:
        """Its cells that are text, a number or a list of these, as text."""
        return [text for cell in self.cells(column) if (text := _as_text(cell))]

    def chat_row(self, column: str) -> int | None:
        """The number of the first row that holds a list of chat messages there."""
        for number, cell in enumerate(self.cells(column), 1):
            if isinstance(cell, list) and cell and isinstance(cell[0], dict) and "role" in cell[0]:
                return number
        return None

    def longest(self, column: str) -> int:
        """Characters of the longest cell, chats as they are printed; of several columns the sum."""
        names = [column] if find_column(self.rows, column) else find_names(column)
        return sum(max(len(str(cell or "")) for cell in self.cells(name)) for name in names)


def make_plain(name: str) -> str:
    """A column's name without case, blanks and signs."""
    return re.sub(r"\W+", "_", name.lower()).strip("_")


def _as_text(cell: Any) -> str:
    if isinstance(cell, list):
        return "\n".join(map(_as_text, cell))
    if isinstance(cell, int | float) and not isinstance(cell, bool):
        return str(cell)
    return cell if isinstance(cell, str) and cell.strip() else ""
