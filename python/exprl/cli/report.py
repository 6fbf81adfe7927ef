"""`exprl report`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def report(
    runs: Annotated[
        list[Path],
        typer.Argument(
            metavar="RUN...", help="run folder; several are put side by side", show_default=False
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--out",
            help="HTML file (default: RUN/report.html; report.html here for several runs)",
        ),
    ] = None,
    references: Annotated[
        bool,
        typer.Option(
            help="show the hidden references and the judge's words, which quote them;"
            " --no-references leaves them out, for a report that you give away"
        ),
    ] = True,
) -> None:
    """Write a report of runs: one HTML file with curves, alarms, rollouts and settings.

    The file needs no network and opens in any browser. A run that is still going on can be read,
    too; `exprl train` writes the report of its own run at the end and after Ctrl-C.

    Example: exprl report runs/demo

    Example: exprl report runs/process runs/outcome -o both.html
    """
    from exprl.monitor.report.page import write_report

    path = out or (runs[0] / "report.html" if len(runs) == 1 else Path("report.html"))
    write_report(runs, path, references=references)
    typer.echo(f"wrote {path}")
