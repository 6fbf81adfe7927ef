"""The command line: names, help and exit codes. No logic; heavy imports happen in the commands."""

from __future__ import annotations

import logging
import os
import sys
from typing import Annotated

import typer

import exprl
from exprl.cli import config, evaluate, judge, study, train
from exprl.cli.options import INTERRUPTED
from exprl.errors import ConfigError, DataError, ExprlError


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"exprl {exprl.__version__}")
        raise typer.Exit


app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Reinforcement learning in mid-training: an LLM judge grades the policy's solutions"
    " against hidden references, and the grades become dense rewards.",
)
app.command()(train.train)
app.command("eval")(evaluate.evaluate)
app.command()(evaluate.compare)
app.command()(study.calibrate)
app.command()(study.behaviors)
app.command()(train.demo)
app.command(
    add_help_option=False,
    context_settings={"ignore_unknown_options": True, "allow_extra_args": True},
)(judge.judge)
app.add_typer(config.commands, name="config")
app.add_typer(judge.rubrics, name="rubric")


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="print the version")
    ] = False,
) -> None:
    """What stands before the command."""


@app.command()
def doctor() -> None:
    """Show what is installed, what is missing, and what would run here."""
    from exprl.cli import doctor

    doctor.report()


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
    except OSError as error:  # a full disk, a folder where a file should be
        print(f"exprl: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("exprl: interrupted", file=sys.stderr)
        sys.exit(INTERRUPTED)
