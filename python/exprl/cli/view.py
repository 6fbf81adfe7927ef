"""`exprl view`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def view(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="run folder", show_default=False)],
    host: Annotated[
        str,
        typer.Option(
            help="address to listen on; 0.0.0.0 for all of this machine's, which needs EXPRL_TOKEN"
        ),
    ] = "127.0.0.1",
    port: Annotated[
        int | None,
        typer.Option(
            min=0,
            max=65535,
            help="port to listen on; 0 = a free one (default: 8321, or the next one that is free)",
            show_default=False,
        ),
    ] = None,
    open_browser: Annotated[
        bool, typer.Option("--open", help="open the pages in this machine's browser")
    ] = False,
) -> None:
    """Show the rollouts of a run in the browser, also while it trains, until Ctrl-C.

    Steps, problems, and the rollouts of a problem side by side: each step in the colour of its
    grade or advantage, the judge's own words, the reference, log-probs and lag of the tokens.
    Filters find the rollouts worth reading. Every page has an address that can be sent on.

    Example: exprl view runs/first

    The pages show hidden references. Only this machine can open them. From your own machine: ssh -L
    8321:127.0.0.1:8321 HOST, then http://127.0.0.1:8321 in its browser. With --host they ask for a
    password: the value of the environment variable EXPRL_TOKEN.
    """
    from exprl.view.server import serve

    def tell(url: str, asks: bool) -> None:
        password = ", with the password in EXPRL_TOKEN," if asks else ""
        typer.echo(f"{run} is on {url}{password} until Ctrl-C")
        if open_browser:
            typer.launch(url)

    serve(run, host, port, tell)
