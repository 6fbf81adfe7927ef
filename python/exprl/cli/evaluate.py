"""`exprl eval` and `exprl compare`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from exprl.cli.options import Ks, Settings


def evaluate(
    models: Annotated[
        list[str],
        typer.Argument(
            metavar="MODEL...",
            help="run folder, RUN@step-10, checkpoint, model folder or hub id; several are put"
            " side by side",
        ),
    ],
    data: Annotated[
        str | None, typer.Option(help="problems with answers (jsonl, parquet, csv)")
    ] = None,
    samples: Annotated[
        int | None, typer.Option("-n", "--samples", min=1, help="rollouts per problem")
    ] = None,
    k: Ks = None,
    config_file: Annotated[
        Path | None,
        typer.Option(
            "--config",
            help="config with columns, lengths, ...; a run folder brings its own",
        ),
    ] = None,
    overrides: Settings = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="JSON file for the results; models that are in it are not measured again"
        ),
    ] = None,
    plot: Annotated[Path | None, typer.Option(help="PNG file for the curves over k")] = None,
    rollouts: Annotated[
        Path | None,
        typer.Option(help="folder for the samples as JSONL, for `calibrate` and `behaviors`"),
    ] = None,
) -> None:
    """Measure pass@k (unbiased) and majority vote, with bootstrap intervals over problems.

    Example: exprl eval runs/demo -n 64 -k 1 -k 16 -k 64

    Example: exprl eval runs/demo@step-0 runs/demo --out eval.json --plot eval.png

    With several models, each later one is also compared with the first, problem by problem.
    """
    from exprl.study import evaluate_command

    evaluate_command.command(
        models,
        data_path=data,
        samples=samples,
        ks=k or (),
        config_file=config_file,
        overrides=overrides or (),
        out=out,
        plot=plot,
        rollouts=rollouts,
    )


def compare(
    a: Annotated[str, typer.Argument(help="run folder, or RUN@step-10", show_default=False)],
    b: Annotated[str, typer.Argument(help="run folder, or RUN@step-10", show_default=False)],
    k: Ks = None,
    out: Annotated[Path | None, typer.Option(help="JSON file for the results")] = None,
) -> None:
    """Compare two runs: settings that differ, pass@k, problems gained and lost.

    Reads the evaluations that the runs made while training (RUN/eval.jsonl) and samples nothing.
    `exprl eval A B` measures anew and takes any model.

    Example: exprl compare runs/division-sparse runs/division-process
    """
    from exprl.study import compare

    compare.command((a, b), k or (), out)
