"""`exprl doctor`: what is wrong with this machine, or with a data file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from exprl.cli.options import Settings

commands = typer.Typer(invoke_without_command=True)

FAULTY = 3
"""Exit code where more rows are faulty than --max-faulty allows."""
Column = Annotated[
    list[str] | None,
    typer.Option(
        metavar="KEY=NAME",
        help="column that holds the problem, reference, answer, domain, id, setup or entry_point,"
        " such as problem=question; may repeat; reference=none: there is none (default: the"
        " config's, else guessed as `exprl init` does)",
    ),
]


@commands.callback()
def doctor(ctx: typer.Context) -> None:
    """Show what is installed, what is missing, and what would run here.

    With `data`: find the faulty rows of a data file. With `apply`: write the file without them.
    """
    if ctx.invoked_subcommand is None:
        from exprl.cli import installed

        installed.report()


@commands.command()
def data(
    path: Annotated[
        str,
        typer.Argument(
            metavar="FILE",
            help="jsonl, json, csv or parquet file, a folder, or a hub id",
            show_default=False,
        ),
    ],
    column: Column = None,
    config_file: Annotated[
        Path | None,
        typer.Option("--config", help="config with columns, domains and their verifiers"),
    ] = None,
    test: Annotated[
        list[str] | None,
        typer.Option(metavar="FILE", help="problems that must not be in the data; may repeat"),
    ] = None,
    patch: Annotated[
        Path | None,
        typer.Option("-o", "--patch", help="JSONL file for the findings, to review and to `apply`"),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="print one JSON object instead of the table")
    ] = False,
    split: Annotated[str, typer.Option(help="split of a hub dataset")] = "train",
    subset: Annotated[str | None, typer.Option(help="subset of a hub dataset")] = None,
    max_faulty: Annotated[
        float,
        typer.Option(
            min=0.0,
            max=1.0,
            metavar="SHARE",
            help="exit with code 3 if a larger share of the rows should be dropped or mended",
        ),
    ] = 0.0,
    overrides: Settings = None,
) -> None:
    """Find rows of a data file that would teach the wrong thing, before you train on them.

    It looks for references that contradict the answer, belong to another problem, or are cut, empty
    or repeated; for answers that nothing can read; for problems that stand there twice, give away
    their solution, or are in the test file. It changes nothing.

    Example: exprl doctor data train.jsonl --test test.jsonl --patch train.patch.jsonl

    Exit codes: 0, 2 for input or settings that cannot be used, 3 for --max-faulty.
    """
    from exprl import config
    from exprl.cli.source import find_config, find_tests, parse_columns
    from exprl.study.doctor import command

    named = parse_columns(column or ())
    source = config.Source(path=path, split=split, subset=subset)
    cfg = find_config(source, config_file, named, overrides or ())
    request = command.Request(cfg, find_tests(cfg, test or ()), patch, as_json)
    if command.examine(request) > max_faulty:
        raise typer.Exit(FAULTY)


@commands.command()
def apply(
    patch: Annotated[
        Path, typer.Argument(help="what `exprl doctor data --patch` wrote", show_default=False)
    ],
    out: Annotated[
        Path,
        typer.Option(
            "-o", "--out", help="the new file: .jsonl, .csv, or .parquet if the data is parquet"
        ),
    ],
    data: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="the data, if it is not where the patch says"),
    ] = None,
) -> None:
    """Write a data file anew without the rows that a patch drops, and with the answers it replaces.

    Review the patch first: each line is one finding, and its `proposal` is keep, drop or replace.
    The old file stays as it is. A row that has changed since is an error.

    Example: exprl doctor apply train.patch.jsonl --out train.clean.jsonl
    """
    from exprl.study.doctor import command

    typer.echo(command.apply(patch, out, data))
