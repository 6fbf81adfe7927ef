"""`exprl eval`, `exprl compare` and `exprl verify`."""

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


def verify(
    path: Annotated[
        Path,
        typer.Argument(
            metavar="FILE", help="jsonl, json, parquet or csv file of answers", show_default=False
        ),
    ],
    column: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY=NAME",
            help="column that holds the answer, trace, domain, id, setup or entry_point, such as"
            " answer=final_answer; may repeat",
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("-o", "--out", help="JSONL file (default: standard output)")
    ] = None,
    lenient: Annotated[
        bool | None,
        typer.Option(
            "--lenient/--strict",
            help="take unmarked answers near the end of a trace, too (default: the config's, else"
            " strict)",
        ),
    ] = None,
    verifier: Annotated[
        str | None,
        typer.Option(
            help="verifier of all rows: math, science, choice, exact, code, or a function of your"
            " own such as mypkg.rewards:check"
        ),
    ] = None,
    domain: Annotated[str | None, typer.Option(help="domain of rows that name none")] = None,
    config_file: Annotated[
        Path | None,
        typer.Option("--config", help="config with columns, domains and their verifiers"),
    ] = None,
    overrides: Settings = None,
    max_unreadable: Annotated[
        float,
        typer.Option(
            min=0.0,
            max=1.0,
            metavar="SHARE",
            help="exit with code 3 if a larger share of the gold answers cannot be read",
        ),
    ] = 0.05,
) -> None:
    """Show what the verifier makes of your gold answers and traces, before you train on them.

    Each row of FILE has a gold answer in the column `answer`. It may have a solution in the column
    `trace`. A JSON line comes out for each row: `read_as` is the gold answer as the verifier reads
    it, null if it cannot. For a trace, `correct` is true, false, or null if nobody knows; `found`
    is its final answer; `reason` says why, such as `no marked answer` or `differs: found '7'`. A
    summary goes to stderr.

    Example: exprl verify train.jsonl --column answer=final_answer -o golds.jsonl

    Example: exprl verify samples.jsonl --column trace=solution --strict | grep '"correct": false'

    Exit codes: 0, 2 for input or settings that cannot be used, 3 for --max-unreadable.
    """
    from exprl.config import read_verifier
    from exprl.study import verify_command

    request = verify_command.Request(
        path,
        columns=column or (),
        config_file=config_file,
        overrides=overrides or (),
        verifier=None if verifier is None else read_verifier("--verifier", verifier),
        verify=None if lenient is None else "lenient" if lenient else "strict",
        domain=domain,
        out=out,
    )
    if verify_command.command(request) > max_unreadable:
        typer.echo(
            f"exprl: a larger share of the gold answers cannot be read than --max-unreadable"
            f" {max_unreadable:g} allows",
            err=True,
        )
        raise typer.Exit(3)
