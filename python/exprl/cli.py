"""The command line: names, help and exit codes. No logic; heavy imports happen in the commands."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from exprl.errors import ConfigError, DataError, ExprlError

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Reinforcement learning in mid-training: an LLM judge grades the policy's solutions"
    " against hidden references, and the grades become dense rewards.",
)
config_app = typer.Typer(no_args_is_help=True, help="Look at configs.")
judge_app = typer.Typer(no_args_is_help=True, help="Use the judge alone, without torch or vLLM.")
app.add_typer(config_app, name="config")
app.add_typer(judge_app, name="judge")

ConfigFile = Annotated[Path, typer.Argument(help="TOML file, see configs/", show_default=False)]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="[KEY=VALUE]...", help="e.g. optim.lr=3e-6 train.steps=50"),
]


@app.command()
def train(
    config_file: ConfigFile,
    overrides: Overrides = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="check all that can fail later, then exit")
    ] = False,
) -> None:
    """Train a policy. The same command again resumes an interrupted run.

    Example: exprl train configs/division_process.toml run_dir=runs/first train.steps=8

    Ctrl-C finishes the step, saves and exits with 130; a second Ctrl-C stops at once.
    """
    from exprl import config, dryrun, train
    from exprl.metrics import Progress
    from exprl.prepare import opened

    cfg = config.load(config_file, overrides or ())
    if dry_run:
        raise typer.Exit(dryrun.report(cfg))
    with Progress() as progress, opened(cfg) as (parts, state):
        raise typer.Exit(train.train(cfg, parts, state, progress))


@app.command(name="eval")
def evaluate(
    model: Annotated[str, typer.Argument(help="run folder, checkpoint, model folder or hub id")],
    data: Annotated[
        str | None, typer.Option(help="problems with answers (jsonl, parquet, csv)")
    ] = None,
    samples: Annotated[
        int | None, typer.Option("-n", "--samples", min=1, help="rollouts per problem")
    ] = None,
    k: Annotated[list[int] | None, typer.Option("-k", help="pass@k to print; may repeat")] = None,
    config_file: Annotated[
        Path | None,
        typer.Option(
            "--config",
            help="take columns, lengths, ... from this config; a run folder brings its own",
        ),
    ] = None,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="override the config")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="write the result as JSON")] = None,
) -> None:
    """Measure pass@k (unbiased) with bootstrap intervals over problems.

    Example: exprl eval runs/demo -n 64 -k 1 -k 16 -k 64
    """
    from exprl import examine

    examine.command(model, data, samples, tuple(k or ()), config_file, overrides or (), out)


@app.command()
def demo(
    run_dir: Annotated[
        Path, typer.Option(help="where the run goes; replaced if it is a demo")
    ] = Path("runs/demo"),
    config_file: Annotated[Path, typer.Option("--config")] = Path("configs/division_process.toml"),
) -> None:
    """Watch a small policy that never solves a problem learn to solve most of them."""
    from exprl import demo

    raise typer.Exit(demo.run(config_file, run_dir))


@app.command()
def doctor() -> None:
    """Show what is installed, what is missing, and what would run here."""
    from exprl import doctor

    doctor.report()


@config_app.command("schema")
def config_schema() -> None:
    """Print the JSON schema of the config, for editors."""
    from exprl import config

    typer.echo(config.json_schema())


@config_app.command("show")
def config_show(config_file: ConfigFile, overrides: Overrides = None) -> None:
    """Print the resolved config: preset, file and overrides laid over the defaults."""
    from exprl import config

    typer.echo(config.to_toml(config.load(config_file, overrides or ())), nl=False)


def main() -> None:
    """Run the command line; an ExprlError is one message, not a traceback."""
    try:
        app()
    except (ConfigError, DataError) as error:
        print(f"exprl: {error}", file=sys.stderr)
        sys.exit(2)
    except ExprlError as error:
        print(f"exprl: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("exprl: interrupted", file=sys.stderr)
        sys.exit(130)
