"""The command line: names, help and exit codes. No logic; heavy imports happen in the commands."""

from __future__ import annotations

import logging
import os
import sys
from typing import Annotated, Any

import typer

import exprl
from exprl.cli import (
    config,
    doctor,
    evaluate,
    judge,
    prove,
    push,
    report,
    serve,
    show,
    start,
    study,
    train,
    view,
    whatif,
)
from exprl.cli.extras import find_remedy
from exprl.cli.options import INTERRUPTED, TAKES_OVERRIDES
from exprl.errors import ConfigError, DataError, ExprlError


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"exprl {exprl.__version__}")
        raise typer.Exit


class Commands(typer.core.TyperGroup):
    """All commands: each of them says so when Ctrl-C ends it."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:  # typer would end without a line
            typer.echo("exprl: interrupted", err=True)
            raise typer.Exit(INTERRUPTED) from None


app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Reinforcement learning in mid-training: an LLM judge grades the policy's solutions"
    " against hidden references, and the grades become dense rewards.\n\nA first look: exprl demo."
    " Your own data: exprl init DATA, then exprl train exprl.toml --dry-run, then exprl train"
    " exprl.toml.",
)
START, TRAIN, STUDY, JUDGE = "Start", "Train", "Measure and study", "The judge alone"

app.command(rich_help_panel=START, context_settings=TAKES_OVERRIDES)(start.demo)
app.command(rich_help_panel=START)(start.examples)
app.command(rich_help_panel=START)(start.init)
app.add_typer(doctor.commands, name="doctor", rich_help_panel=START)
app.command(rich_help_panel=START)(start.pins)
app.command(rich_help_panel=TRAIN, context_settings=TAKES_OVERRIDES)(train.train)
app.command(rich_help_panel=TRAIN, context_settings=TAKES_OVERRIDES)(serve.serve)
app.add_typer(config.commands, name="config", rich_help_panel=TRAIN)
app.command(rich_help_panel=STUDY)(report.report)
app.command(rich_help_panel=STUDY)(show.show)
app.command(rich_help_panel=STUDY)(view.view)
app.command("eval", rich_help_panel=STUDY)(evaluate.evaluate)
app.command(rich_help_panel=STUDY)(evaluate.compare)
app.command(rich_help_panel=STUDY)(evaluate.verify)
app.command(rich_help_panel=STUDY)(whatif.whatif)
app.command(rich_help_panel=STUDY)(prove.prove)
app.command(rich_help_panel=STUDY)(study.calibrate)
app.command(rich_help_panel=STUDY)(study.behaviors)
app.command(rich_help_panel=STUDY)(push.push)
app.command(
    add_help_option=False,
    context_settings={"ignore_unknown_options": True, "allow_extra_args": True},
    rich_help_panel=JUDGE,
)(judge.judge)
app.add_typer(judge.rubrics, name="rubric", rich_help_panel=JUDGE)


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="print the version")
    ] = False,
) -> None:
    """What stands before the command."""


def main() -> None:
    """Run the command line; an error that has a cause outside of the code is one message."""
    # Read when torch is loaded: its notes about the machine would drown the run's own lines.
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    # torchao, which transformers loads, makes torch warn of two of its classes at every start.
    logging.getLogger("torch.utils._pytree").setLevel(logging.ERROR)
    try:
        app()
    except (ConfigError, DataError) as error:
        print(f"exprl: {error}", file=sys.stderr)
        sys.exit(2)
    except ExprlError as error:
        print(f"exprl: {error}", file=sys.stderr)
        sys.exit(1)
    except ModuleNotFoundError as error:
        remedy = find_remedy(error.name)
        if remedy is None:  # a fault of ours, or of another package
            raise
        print(f"exprl: {remedy}", file=sys.stderr)
        sys.exit(1)
    except OSError as error:  # a full disk, a folder where a file should be
        print(f"exprl: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("exprl: interrupted", file=sys.stderr)
        sys.exit(INTERRUPTED)
