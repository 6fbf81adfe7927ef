"""`exprl prove`."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from exprl.cli.options import INTERRUPTED, Settings

if TYPE_CHECKING:
    from exprl.cli.guess import Asked
    from exprl.config import Config


def prove(
    data: Annotated[
        str,
        typer.Argument(
            help="jsonl, json, csv or parquet file, a folder, or a hub id", show_default=False
        ),
    ],
    config_file: Annotated[
        Path | None,
        typer.Option(
            "--config",
            help="config as `exprl init` writes it: model, judge, columns, lengths (default:"
            " guessed from the rows, as `exprl init` does)",
        ),
    ] = None,
    overrides: Settings = None,
    out: Annotated[
        Path, typer.Option(help="folder of the pilot: plan, runs and page; the same goes on")
    ] = Path("runs/prove"),
    steps: Annotated[
        int | None,
        typer.Option(min=1, help="training steps of each run (default: the config's, 40 at most)"),
    ] = None,
    seeds: Annotated[
        int, typer.Option(min=1, help="runs of each arm at most; a verdict needs two")
    ] = 3,
    held_out: Annotated[
        int | None,
        typer.Option(
            min=2, help="problems to measure on (default: a quarter of them, 128 at most)"
        ),
    ] = None,
    least_effect: Annotated[
        float,
        typer.Option(
            min=0.0, max=1.0, help="smallest gain in held-out pass@1 that would matter to you"
        ),
    ] = 0.05,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="print the plan and what it would cost, then end")
    ] = False,
    tries: Annotated[
        bool,
        typer.Option(
            "--try/--no-try",
            help="with --dry-run: train one step in a folder that is deleted, which tells what"
            " tokens and time the pilot takes",
        ),
    ] = True,
    model: Annotated[
        str, typer.Option(help="without --config: folder or hub id of the model to train")
    ] = "Qwen/Qwen3-0.6B",
    endpoint: Annotated[
        list[str] | None,
        typer.Option(
            help="without --config: base URL of a judge server; may repeat (default: a rule"
            " rehearses)"
        ),
    ] = None,
    judge: Annotated[
        str, typer.Option(help="without --config: model that the judge servers serve")
    ] = "",
    problem: Annotated[
        str | None, typer.Option(help="without --config: column of the problem")
    ] = None,
    reference: Annotated[
        str | None, typer.Option(help="without --config: column of the hidden solution")
    ] = None,
    answer: Annotated[
        str | None, typer.Option(help="without --config: column of the final answer")
    ] = None,
) -> None:
    """Find out whether hidden references will help on your data, by a small experiment.

    It holds out problems, writes a plan, and trains four arms through the real trainer: with the
    right references, with those of other problems, with grades dealt at random, and with the
    verifier alone. At the end one page says yes, no or cannot tell, with effects and price.

    Example: exprl prove train.parquet --config exprl.toml --dry-run

    then: exprl prove train.parquet --config exprl.toml

    The same command again goes on where it ended. Exit code: 0 for every verdict.
    """
    from exprl.cli.guess import Asked

    asked = Asked(problem, reference, answer)
    if config_file is None:
        cfg = _guess_config(data, out, model, endpoint or (), judge, asked, overrides or ())
    else:
        cfg = _load_config(config_file, data, overrides or ())
    from exprl.study.prove import command, output, page

    request = command.Request(cfg, out, steps, seeds, held_out, least_effect)
    if dry_run:
        command.forecast(request, tries=tries, tell=_tell)
        return
    result = command.command(request, _tell)
    if result is None:
        _tell("stopped; the step is saved, and the same command goes on")
        raise typer.Exit(INTERRUPTED)
    output.show_result(result, out / page.PAGE)


def _load_config(path: Path, data: str, overrides: Sequence[str]) -> Config:
    """The user's config, with the data set that is to be proven."""
    from exprl import config

    tree = config.override(config.read(path), [*overrides, f"data.path={json.dumps(data)}"])
    tree["data"].pop("sources", None)
    return config.build(tree, source=str(path))


def _guess_config(
    data: str,
    out: Path,
    model: str,
    endpoints: Sequence[str],
    judge: str,
    asked: Asked,
    overrides: Sequence[str],
) -> Config:
    """What `exprl init` would write for the file, which it tells, with the overrides."""
    from exprl import config
    from exprl.cli.init import look_at, report_guesses

    source = config.Source(path=data)
    looked = look_at(source, out / "exprl.toml", model, endpoints, judge, asked)
    report_guesses(source, looked)
    tree = tomllib.loads(config.to_toml(looked.config))
    return config.build(config.override(tree, overrides), source="--set")


def _tell(line: str) -> None:
    typer.echo(f"prove: {line}", err=True)
