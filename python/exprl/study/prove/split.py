"""The rows of a data file, to two files that share no problem: one to train on, one held out."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from exprl import config, files
from exprl.data.files import Row, read_rows
from exprl.data.mixture import make_generator
from exprl.data.rows import drop_unnamed, open_rows
from exprl.errors import ConfigError, DataError
from exprl.types import ReferenceProblem
from exprl.verify.verifiers import Treatments, check_answers

ROW = "prove_row"
"""Column with the row's number in the data file, where the rows have no ids of their own."""
MOST_HELD_OUT = 128
SPLIT_STREAM = 3 << 32


@dataclass(frozen=True, slots=True)
class Split:
    """Which rows train and which measure.

    rows: of the data file.
    train, held_out: rows with what the settings name in them, and their ids.
    left_out: reason -> how many rows.
    digest: SHA-256 of what the settings name in all rows, in hexadecimal.
    """

    rows: int
    train: tuple[Row, ...]
    held_out: tuple[Row, ...]
    train_ids: tuple[str, ...]
    held_out_ids: tuple[str, ...]
    left_out: Mapping[str, int]
    digest: str

    def write(self, folder: Path) -> None:
        """Write train.jsonl and held_out.jsonl."""
        for name, rows in (("train", self.train), ("held_out", self.held_out)):
            files.write_text(folder / f"{name}.jsonl", "".join(map(_line, rows)))


def split_rows(
    source: config.Source, treatment: Treatments, held_out: int | None, seed: int
) -> Split:
    """Split a data file by problem.

    Rows whose problems have the same text, but for case and white space, are one problem: all of
    them are on one side. The held-out side has one row of each problem, so that no problem counts
    twice. Rows that an arm could not use are left out of all arms, which then see the same rows.

    Args:
        held_out: how many problems to hold out; None takes a quarter, MOST_HELD_OUT at most.
        seed: the same one makes the same split.

    Raises:
        ConfigError: too few problems are left for both sides.
        DataError: a row cannot be read; names file, row and column.
    """
    rows = drop_unnamed(itertools.islice(read_rows(source), source.limit), source)
    if not rows:
        raise DataError(f"{source.path}: holds no rows")
    reader = open_rows(rows, source)
    named = sorted({column.keys[0] for column in reader.columns.values()})
    problems = [reader.read(row, number)[0] for number, row in enumerate(rows, 1)]
    own_ids = source.columns.id is not None
    kept = [
        {name: row.get(name) for name in named} | ({} if own_ids else {ROW: number})
        for number, row in enumerate(rows, 1)
    ]
    usable, left_out = _find_usable(problems, treatment)
    groups: dict[str, list[int]] = {}
    for i in usable:
        groups.setdefault(" ".join(problems[i].question.split()).casefold(), []).append(i)
    wanted = held_out or min(MOST_HELD_OUT, len(groups) // 4)
    if wanted < 2 or len(groups) - wanted < 2:
        lost = "".join(f"; {count} {reason}" for reason, count in left_out.items())
        raise ConfigError(
            f"{source.path}: {len(groups)} usable problems in {len(rows)} rows, of which {wanted}"
            " would be held out; at least 2 are needed to train on and 2 to measure, so bring more"
            f" rows{', or hold out fewer (--held-out)' if held_out else ''}{lost}"
        )
    order = make_generator(seed, SPLIT_STREAM).permutation(len(groups))
    by_problem = list(groups.values())
    measured = sorted(by_problem[k][0] for k in order[:wanted])
    trained = sorted(i for k in order[wanted:] for i in by_problem[k])
    again = sum(len(by_problem[k]) - 1 for k in order[:wanted])
    if again:
        left_out["repeat a held-out problem"] = again
    return Split(
        len(rows),
        tuple(kept[i] for i in trained),
        tuple(kept[i] for i in measured),
        tuple(problems[i].id for i in trained),
        tuple(problems[i].id for i in measured),
        left_out,
        _digest(kept),
    )


def _find_usable(
    problems: Sequence[ReferenceProblem], treatment: Treatments
) -> tuple[list[int], dict[str, int]]:
    """The places of the problems that every arm can use, and how many cannot be used, by reason."""
    unreadable = {id(p) for p in check_answers(treatment, problems)}
    usable: list[int] = []
    left_out: dict[str, int] = {}
    for i, problem in enumerate(problems):
        if problem.reference is None:
            reason = "have no reference"
        elif problem.answer is None:
            reason = "have no final answer"
        elif id(problem) in unreadable:
            reason = "have a final answer that cannot be read"
        else:
            usable.append(i)
            continue
        left_out[reason] = left_out.get(reason, 0) + 1
    return usable, left_out


def _digest(rows: Iterable[Mapping[str, Any]]) -> str:
    digest = hashlib.sha256()
    for row in rows:
        digest.update(_line(row).encode())
    return digest.hexdigest()


def _line(row: Mapping[str, Any]) -> str:
    """A row as JSON; a cell that JSON does not have (a date, a decimal) as its text."""
    return json.dumps(row, default=str, ensure_ascii=False, sort_keys=True) + "\n"
