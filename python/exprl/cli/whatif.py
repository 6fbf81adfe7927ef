"""`exprl whatif`."""

from __future__ import annotations

import json
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from exprl.cli.options import Settings, Steps

if TYPE_CHECKING:
    from exprl.judge import Forecast

RUN = Annotated[Path, typer.Argument(help="run folder", show_default=False)]


def whatif(
    run: RUN,
    advantage: Annotated[
        str | None, typer.Option(help="advantage.kind, such as end or group")
    ] = None,
    score_map: Annotated[
        str | None,
        typer.Option(help="judge.score_map: linear, binary, extremes or extremes_soft"),
    ] = None,
    view: Annotated[
        str | None, typer.Option(help="judge.view: what the judge sees, outcome, prefix or step")
    ] = None,
    rubric: Annotated[
        Path | None, typer.Option(help="judge.rubric: file of another rubric")
    ] = None,
    judge: Annotated[
        list[str] | None,
        typer.Option(metavar="URL", help="base URL of another judge's server; may repeat"),
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="judge.model: model that the judge's servers serve")
    ] = None,
    api_key_env: Annotated[
        str | None, typer.Option(help="environment variable that holds the judge's key")
    ] = None,
    overrides: Settings = None,
    steps: Steps = None,
    sample: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="take about so many rollouts, as whole groups drawn at random (default: all)",
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="seed of the draw")] = 0,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="say what would be asked and what that costs, then end"),
    ] = False,
    yes: Annotated[
        bool, typer.Option("--yes", help="send the requests that are needed, without a question")
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            help="also write the numbers to FILE.json, or a row per rollout to FILE.parquet",
        ),
    ] = None,
) -> None:
    """Score the rollouts of a run again under other settings, and show what each token would learn.

    Grades that the run has are used again, and the ledger answers what was asked before: another
    advantage or score map costs nothing. What must be asked is counted first, and sent after --yes.

    Example: exprl whatif runs/demo --advantage end

    Example: exprl whatif runs/demo --rubric new.toml --sample 200 --dry-run

    Any other setting that decides a score: --set reward.overlong=mask --set reward.missing=drop
    """
    from rich.console import Console

    from exprl.monitor.progress import Progress
    from exprl.study.whatif import Request, what_if
    from exprl.study.whatif.output import check_output, show, show_forecast, write

    if out is not None:
        check_output(out)
    console = Console()
    named = {
        "advantage.kind": advantage,
        "judge.score_map": score_map,
        "judge.view": view,
        "judge.rubric": None if rubric is None else str(rubric),
        "judge.model": model,
        "judge.api_key_env": api_key_env,
    }
    settings = [f"{key}={json.dumps(value)}" for key, value in named.items() if value is not None]
    if judge:
        settings += [
            f"judge.endpoints={json.dumps(judge)}",
            "judge.kind=server",
            "judge.serve=none",
        ]

    def agree(forecast: Forecast) -> bool:
        show_forecast(console, forecast)
        agreed = not dry_run and (yes or _ask())
        if agreed:  # a bar would stand in the question's way
            stack.enter_context(progress)
        return agreed

    request = Request(run, [*settings, *(overrides or ())], steps, sample, seed)
    progress = Progress()
    with ExitStack() as stack:
        found = what_if(request, agree, lambda done, of: progress.phase("judge", done, of))
    if found is None:
        if not dry_run:
            typer.echo("exprl: nothing was asked; --yes agrees to the requests", err=True)
        raise typer.Exit(0 if dry_run else 1)
    if not found.forecast.requests:
        show_forecast(console, found.forecast)
    if dry_run:
        return
    show(console, found)
    if out is not None:
        write(out, found)
        typer.echo(f"wrote {out}")


def _ask() -> bool:
    """On a terminal, whether to send the requests; elsewhere nobody is there to say so."""
    return sys.stdin.isatty() and sys.stdout.isatty() and typer.confirm("Send them?")
