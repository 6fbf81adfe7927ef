"""`exprl init`: a commented config for a data file, after looking at it."""

from __future__ import annotations

import itertools
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tomli_w
import typer
from rich.console import Console

from exprl import config
from exprl.cli.guess import Asked, Guess, Guesses, guess
from exprl.config.keys import describe
from exprl.data.files import FILE_ENDINGS, read_rows
from exprl.data.problems import load_problems
from exprl.errors import ConfigError, DataError

LOOKED_AT = 1000  # rows
# Beside what was guessed, the settings that are changed first.
SHOWN = (
    "rollout.problems_per_step",
    "rollout.group_size",
    "rollout.max_response_tokens",
    "optim.lr",
    "optim.micro_batch_tokens",
    "train.steps",
    "train.checkpoint_every",
)


def write_config(
    source: config.Source, out: Path, model: str, endpoints: Sequence[str], judge: str, asked: Asked
) -> None:
    """Look at the data, write the config, and say what was guessed and what was not.

    Raises:
        ConfigError: `out` exists. DataError: the data cannot be read, or has no problems.
    """
    if out.exists():
        raise ConfigError(f"{out} exists and is not replaced; choose another file with --out")
    looked = look_at(source, out, model, endpoints, judge, asked)
    text = _render(looked.config, looked.settled, source, looked.rows)
    out.write_text(text, encoding="utf-8")
    report_guesses(source, looked)
    typer.echo(f"wrote {out}; next: exprl train {out} --dry-run")
    typer.echo(f"faulty rows, if there are any: exprl doctor data {source.path} --config {out}")


@dataclass(frozen=True, slots=True)
class Looked:
    """A config for a data file, with what it was guessed from.

    settled: the settings that were chosen.   rows: how many were looked at.
    """

    config: config.Config
    found: Guesses
    settled: list[Guess]
    rows: int


def look_at(
    source: config.Source, out: Path, model: str, endpoints: Sequence[str], judge: str, asked: Asked
) -> Looked:
    """Look at the first rows, and choose the settings.

    Args:
        out: the config's file, after which the run is named.

    Raises:
        DataError: the data cannot be read, or has no problems.
    """
    rows = list(itertools.islice(read_rows(source), LOOKED_AT))
    if not rows:
        raise DataError(f"{source.path}: holds no rows")
    found = guess(source.path, rows, asked)
    settled = [*_take_over(source, out, model), *found.settled]
    settled += _choose_judge(found, endpoints, judge)
    cfg = config.build(nest(settled), source=str(out))
    found.open += _try_rows(cfg)
    return Looked(cfg, found, settled, len(rows))


def _take_over(source: config.Source, out: Path, model: str) -> Iterator[Guess]:
    yield Guess("run_dir", f"runs/{out.stem}", "")
    yield Guess("model.path", model, "")
    yield Guess("data.path", source.path, "")
    if not source.path.endswith((*FILE_ENDINGS, ".gz")):
        yield Guess("data.split", source.split, "")
        if source.subset is not None:
            yield Guess("data.subset", source.subset, "")


def _choose_judge(found: Guesses, endpoints: Sequence[str], judge: str) -> Iterator[Guess]:
    if all(one.value != "sparse-grpo" for one in found.settled):
        if endpoints:
            yield Guess("judge.endpoints", list(endpoints), "")
            yield Guess("judge.model", judge, "")
            return
        yield Guess("judge.kind", "rules", "a rehearsal that needs no judge server")
        yield Guess("judge.rules", "numbers", "it looks for the numbers of the reference")
        found.open.append(
            "no judge server was named, so a rule plays the judge, which only rehearses; for a real"
            " run set judge.kind, endpoints and model, or use --endpoint and --judge"
        )


def nest(settled: Sequence[Guess]) -> dict[str, Any]:
    """The nested values of a TOML file."""
    tree: dict[str, Any] = {}
    for one in settled:
        *sections, leaf = one.key.split(".")
        below = tree
        for section in sections:
            below = below.setdefault(section, {})
        below[leaf] = "none" if one.value is None else one.value
    return tree


def _try_rows(cfg: config.Config) -> Iterator[str]:
    """The first row that does not fit the guesses, or what else is to be known of the rows."""
    remarks: list[str] = []
    try:
        load_problems(cfg.data.model_copy(update={"limit": LOOKED_AT}), remarks.append)
    except DataError as error:
        yield f"training will stop at this row: {error}"
    yield from remarks


def _render(cfg: config.Config, settled: Sequence[Guess], source: config.Source, rows: int) -> str:
    """The config, each key with its meaning from the config's own descriptions."""
    resolved = config.flatten(cfg)
    known = {one.key for one in settled}
    shown = [Guess(key, resolved[key], "") for key in SHOWN if key not in known]
    order = list(type(cfg).model_fields)
    groups: dict[str, list[Guess]] = {}
    for one in sorted([*settled, *shown], key=lambda one: order.index(one.key.split(".")[0])):
        groups.setdefault(one.key.rpartition(".")[0], []).append(one)
    lines = list(
        _wrap_comment(
            f"Written by `exprl init` from the first {rows} rows of {source.path}. Check what was"
            " guessed, then: exprl train THIS_FILE --dry-run. All keys: exprl config schema"
        )
    )
    for section, group in groups.items():
        lines += ["", f"[{section}]"] if section else [""]
        for one in group:
            lines += _wrap_comment(describe(one.key) + (f". Guessed: {one.why}" if one.why else ""))
            lines.append(_format_setting(one))
    return "\n".join(lines) + "\n"


def _format_setting(one: Guess) -> str:
    """The line of a TOML file."""
    value = "none" if one.value is None else one.value
    return tomli_w.dumps({one.key.rpartition(".")[2]: value}).rstrip()


def _wrap_comment(text: str) -> list[str]:
    plain = " ".join(text.split())
    return textwrap.wrap(
        plain, 100, initial_indent="# ", subsequent_indent="# ", break_long_words=False
    )


def report_guesses(source: config.Source, looked: Looked) -> None:
    """Print what was guessed and why, and what is to be checked."""
    console = Console(highlight=False, soft_wrap=True, markup=False)
    console.print(f"{source.path}: looked at {looked.rows} rows")
    for one in looked.found.settled:
        section = one.key.rpartition(".")[0]
        console.print(f"  {section + '.' if section else ''}{_format_setting(one)}    ({one.why})")
    for text in looked.found.open:
        console.print(f"to check: {text}")
