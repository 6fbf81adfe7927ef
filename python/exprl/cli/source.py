"""The data of a command that takes a file: its columns as a config has them, named, or guessed."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path

from exprl import config
from exprl.cli.guess import Asked, guess
from exprl.cli.init import LOOKED_AT, nest
from exprl.cli.table import Table
from exprl.config.placeholders import find_names
from exprl.data.columns import find_column, join_names, list_columns
from exprl.data.files import read_rows
from exprl.errors import ConfigError, DataError

KEYS = tuple(config.Columns.model_fields)


def find_config(
    data: config.Source,
    config_file: Path | None,
    named: Mapping[str, str],
    overrides: Sequence[str] = (),
) -> config.Config:
    """A config whose [data] is this file.

    Args:
        config_file: says columns, domains and verifiers; without it they are guessed as
            `exprl init` guesses them.
        named: columns that the user named, by role; "none" = there is no such column.

    Raises:
        ConfigError: the config cannot be used.
        DataError: the file cannot be read, or nothing says which column is the problem.
    """
    if config_file is not None:
        cfg = config.load(config_file, list(overrides))
        parts = cfg.data.parts
        same = (one for one in parts if Path(one.path) == Path(data.path))
        own = next(same, parts[0]).model_dump(exclude={"weight"})
        columns = config.Columns(**own["columns"] | _read_named(named))
        own |= {"path": data.path, "columns": columns}
        if (data.split, data.subset) != ("train", None):
            own |= {"split": data.split, "subset": data.subset}
        return cfg.model_copy(update={"data": config.Data(**own)})
    rows = list(itertools.islice(read_rows(data), LOOKED_AT))
    if not rows:
        raise DataError(f"{data.path}: holds no rows")
    asked = Asked(*(named.get(role) for role in ("problem", "reference", "answer")))
    guesses = {
        one.key: one for one in guess(data.path, rows, asked).settled if one.key.startswith("data.")
    }
    tree = nest([one for key, one in guesses.items() if key != "data.system"])
    columns = tree["data"].setdefault("columns", {})
    columns |= named
    tree["data"] |= {"path": data.path, "split": data.split, "subset": data.subset or "none"}
    tree |= {"model": {"path": "-"}, "judge": {"kind": "rules"}, "method": "sparse-grpo"}
    return config.build(config.override(tree, list(overrides)))


def find_tests(cfg: config.Config, paths: Sequence[str]) -> tuple[config.Source, ...]:
    """Test files with the columns of the config's evaluation or of its data, else guessed.

    Raises:
        DataError: a file cannot be read, or nothing says which column is the problem.
    """
    return tuple(_find_test(cfg, path) for path in paths)


def _find_test(cfg: config.Config, path: str) -> config.Source:
    like = cfg.eval.data.parts[0] if cfg.eval.data else cfg.data.parts[0]
    rows = list(itertools.islice(read_rows(config.Source(path=path)), LOOKED_AT))
    if not rows:
        raise DataError(f"{path}: holds no rows")
    there, columns = list_columns(rows), like.columns
    asked = find_names(columns.problem) or [columns.problem]
    if all(find_column(rows, name) for name in asked):
        has_answer = columns.answer is not None and find_column(rows, columns.answer)
        update = {"reference": None, "id": None, "domain": None}
        update |= {} if has_answer else {"answer": None}
        own = {"path": path, "columns": columns.model_copy(update=update)}
        return config.Source(**like.model_dump(exclude={"weight", "sources"}) | own)
    table = Table(path, rows)
    found = next(table.named("problem"), None)
    if found is None:
        raise DataError(
            f"{path}: no column {columns.problem!r}, and none is called like a problem; its columns"
            f" are {join_names(there)}"
        )
    return config.Source(
        path=path, columns=config.Columns(problem=found, reference=None, answer=None)
    )


def _read_named(named: Mapping[str, str]) -> dict[str, str | None]:
    return {role: None if column == "none" else column for role, column in named.items()}


def parse_columns(texts: Sequence[str]) -> dict[str, str]:
    """`problem=question` as a name by role.

    Raises:
        ConfigError: it has another form, or no such role.
    """
    named = {}
    for text in texts:
        role, sign, name = text.partition("=")
        if not (sign and name and role in KEYS):
            raise ConfigError(
                f"--column {text}: write KEY=NAME, where KEY is one of {', '.join(KEYS)}, such as"
                " problem=question"
            )
        named[role] = name
    return named
