"""The command line: names, help and exit codes. No logic; heavy imports happen in the commands."""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path
from typing import Annotated, TypeVar

import typer

from exprl.errors import ConfigError, DataError, ExprlError

T = TypeVar("T")


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"exprl {version('exprl')}")
        raise typer.Exit


app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Reinforcement learning in mid-training: an LLM judge grades the policy's solutions"
    " against hidden references, and the grades become dense rewards.",
)
config_app = typer.Typer(no_args_is_help=True, help="Look at configs.")
rubric_app = typer.Typer(no_args_is_help=True, help="Give problems rubrics of their own.")
app.add_typer(config_app, name="config")
app.add_typer(rubric_app, name="rubric")


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="print the version")
    ] = False,
) -> None:
    """What stands before the command."""


ConfigFile = Annotated[Path, typer.Argument(help="TOML file, see configs/", show_default=False)]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="[KEY=VALUE]...", help="e.g. optim.lr=3e-6 train.steps=50"),
]
Settings = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="override the config")
]
Ks = Annotated[list[int] | None, typer.Option("-k", min=1, help="pass@k to print; may repeat")]
Steps = Annotated[str | None, typer.Option(help="of a run, such as 12 or 0-9")]
ApiKeyEnv = Annotated[str | None, typer.Option(help="environment variable that holds the key")]


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
    from exprl import config

    cfg = config.load(config_file, overrides or ())  # before torch: a typo is told at once
    if dry_run:
        from exprl.cli import dry_run as dryrun

        raise typer.Exit(dryrun.report(cfg))

    from exprl import train
    from exprl.monitor.metrics_log import Progress
    from exprl.run.open import opened

    with Progress() as progress, opened(cfg) as (parts, state):
        progress.start(state.step, cfg.train.steps)
        raise typer.Exit(train.train(cfg, parts, state, progress))


@app.command(name="eval")
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
            help="take columns, lengths, ... from this config; a run folder brings its own",
        ),
    ] = None,
    overrides: Settings = None,
    out: Annotated[
        Path | None,
        typer.Option(help="write all of it as JSON; what stands there is not measured again"),
    ] = None,
    plot: Annotated[Path | None, typer.Option(help="draw the curves over k as PNG")] = None,
    rollouts: Annotated[
        Path | None,
        typer.Option(help="folder for the samples as JSONL, for `calibrate` and `behaviors`"),
    ] = None,
) -> None:
    """Measure pass@k (unbiased) and majority vote, with bootstrap intervals over problems.

    Example: exprl eval runs/demo -n 64 -k 1 -k 16 -k 64

    Example: exprl eval runs/demo@step-0 runs/demo --out eval.json --plot eval.png

    Of several models, each later one is also compared with the first, problem by problem.
    """
    from exprl.study import sidebyside

    sidebyside.command(
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


@app.command()
def compare(
    a: Annotated[str, typer.Argument(help="run folder, or RUN@step-10", show_default=False)],
    b: Annotated[str, typer.Argument(help="run folder, or RUN@step-10", show_default=False)],
    k: Ks = None,
    out: Annotated[Path | None, typer.Option(help="write all of it as JSON")] = None,
) -> None:
    """Compare two runs: settings that differ, pass@k, problems gained and lost. Samples nothing.

    It reads the evaluations that the runs made while training (RUN/eval.jsonl). `exprl eval A B`
    measures anew, and any model.

    Example: exprl compare runs/division-sparse runs/division-process
    """
    from exprl.study import compare

    compare.command((a, b), k or (), out)


@app.command()
def calibrate(
    source: Annotated[
        Path,
        typer.Argument(
            help="run folder, or a file of rows with problem, reference, trace and correct",
            show_default=False,
        ),
    ],
    out: Annotated[
        Path | None, typer.Option(help="folder for results and ledger (default: beside SOURCE)")
    ] = None,
    endpoint: Annotated[
        list[str] | None, typer.Option(help="base URL of a judge server; may repeat")
    ] = None,
    model: Annotated[str, typer.Option(help="model that the servers serve")] = "",
    api_key_env: ApiKeyEnv = None,
    rules: Annotated[str | None, typer.Option(help="rule judge: division or numbers")] = None,
    config_file: Annotated[
        Path | None, typer.Option("--config", help="its judge is calibrated; a run has its own")
    ] = None,
    overrides: Settings = None,
    condition: Annotated[
        list[str] | None, typer.Option(help="right, none, wrong; may repeat (default: all)")
    ] = None,
    view: Annotated[str, typer.Option(help="outcome, prefix or step")] = "outcome",
    label: Annotated[str, typer.Option(help="field of a file that holds the truth")] = "correct",
    delimiter: Annotated[str, typer.Option(help="starts a step of a file's trace")] = "###",
    steps: Steps = None,
    domain: Annotated[
        str | None, typer.Option(help="solutions of this domain only, under its rubric")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="solutions, drawn at random")] = 500,
    seed: Annotated[int, typer.Option(min=0, help="of the drawing and of continuations")] = 0,
    repeats: Annotated[int, typer.Option(min=1, help="grades asked for each solution")] = 1,
    temperature: Annotated[
        float | None, typer.Option(min=0.0, help="of the judge (default: 0, or the config's)")
    ] = None,
    continuations: Annotated[
        int, typer.Option(min=0, help="samples from each beginning; 0 starts no engine")
    ] = 0,
    beginnings: Annotated[int, typer.Option(min=1, help="beginnings to go on from")] = 200,
    policy: Annotated[
        str | None, typer.Option(help="who goes on (default: the run's newest checkpoint)")
    ] = None,
) -> None:
    """How far can the judge be believed? Its grades against known truth.

    Misplacement rate and AUC with the right reference, none and a wrong one; grades by truth;
    agreement of repeated grades; grades of beginnings against the success of continuations. What
    has no grade is counted. The same command again asks only for what is missing.

    Example: exprl calibrate runs/demo --steps 8-15 --continuations 8

    Example: exprl calibrate out.jsonl --endpoint http://127.0.0.1:8001/v1 --model Qwen/Qwen3-4B
    """
    from exprl.judge import JudgeSettings
    from exprl.study import calibrate_command, grade

    conditions = [_one_of("--condition", c, grade.CONDITIONS) for c in condition or ()]
    calibrate_command.command(
        calibrate_command.Request(
            source=source,
            out=out or calibrate_command.beside(source),
            judge=JudgeSettings(tuple(endpoint or ()), model, api_key_env=api_key_env),
            rules=rules,
            config_file=config_file,
            overrides=overrides or (),
            conditions=conditions or grade.CONDITIONS,
            view=_one_of("--view", view, grade.VIEWS),
            label=label,
            delimiter=delimiter,
            steps=steps,
            domain=domain,
            limit=limit,
            seed=seed,
            repeats=repeats,
            temperature=temperature,
            continuations=continuations,
            beginnings=beginnings,
            policy=policy,
        )
    )


@app.command()
def behaviors(
    sources: Annotated[
        list[Path],
        typer.Argument(
            metavar="SOURCE [SOURCE]",
            help="run folder or file of solutions; of two, the second is held against the first",
        ),
    ],
    endpoint: Annotated[list[str], typer.Option(help="base URL of a server; may repeat")],
    model: Annotated[str, typer.Option(help="model that annotates")],
    out: Annotated[Path, typer.Option(help="folder for results and ledger")] = Path("behaviors"),
    api_key_env: ApiKeyEnv = None,
    problems: Annotated[int, typer.Option(min=1, help="drawn at random")] = 100,
    per_problem: Annotated[int, typer.Option(min=1, help="solutions of each problem")] = 4,
    steps: Steps = None,
    seed: Annotated[int, typer.Option(min=0, help="of the drawing")] = 0,
    tries: Annotated[int, typer.Option(min=1, help="for an answer that fits the schema")] = 2,
    max_tokens: Annotated[int, typer.Option(min=1, help="of an answer")] = 2048,
    concurrency: Annotated[int, typer.Option(min=1, help="requests in flight per server")] = 64,
    guided: Annotated[
        bool, typer.Option(help="send the JSON schema; not every server takes it")
    ] = True,
) -> None:
    """How are solutions reached? Archetypes and reasoning behaviours, annotated by a model.

    Of two sources also what the second gains and loses against the first, problem by problem. The
    same command again asks only for what is missing.

    Example: exprl eval runs/a@step-0 runs/a --rollouts samples

    then: exprl behaviors samples/00-* samples/01-* --endpoint http://127.0.0.1:8001/v1 --model M
    """
    from exprl.judge import JudgeSettings
    from exprl.study import behaviors_command

    behaviors_command.command(
        behaviors_command.Request(
            sources=sources,
            out=out,
            judge=JudgeSettings(
                endpoints=tuple(endpoint),
                model=model,
                api_key_env=api_key_env,
                max_tokens=max_tokens,
                concurrency=concurrency,
            ),
            problems=problems,
            per_problem=per_problem,
            steps=steps,
            seed=seed,
            tries=tries,
            guided=guided,
        )
    )


@app.command()
def demo(
    run_dir: Annotated[
        Path, typer.Option(help="where the run goes; replaced if it is a demo")
    ] = Path("runs/demo"),
    config_file: Annotated[Path, typer.Option("--config")] = Path("configs/division_process.toml"),
) -> None:
    """Watch a small policy that never solves a problem learn to solve most of them."""
    from exprl.cli import demo

    raise typer.Exit(demo.run(config_file, run_dir))


@app.command()
def doctor() -> None:
    """Show what is installed, what is missing, and what would run here."""
    from exprl.cli import doctor

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


@app.command(
    "judge",
    add_help_option=False,
    context_settings={"ignore_unknown_options": True, "allow_extra_args": True},
)
def judge(context: typer.Context) -> None:
    """Use the judge alone, without torch or vLLM: score, rubric, serve, ledger."""
    raise typer.Exit(_judge_command(context.args))


@rubric_app.command(
    "build",
    add_help_option=False,
    context_settings={"ignore_unknown_options": True, "allow_extra_args": True},
)
def rubric_build(context: typer.Context) -> None:
    """Have a model write each problem's checklist from its reference; see --help.

    Example: exprl rubric build train.jsonl -o rubrics.jsonl --endpoint URL --model NAME
    """
    raise typer.Exit(_judge_command(["rubric", *context.args]))


def _judge_command(arguments: list[str]) -> int:
    """Run the Rust command line, which `exprl-judge` is as well."""
    import signal

    from exprl import _core

    # It minds Ctrl-C itself: it writes what has finished, and ends with 130.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    return _core.judge_command(arguments)


def _one_of(option: str, value: str, allowed: tuple[T, ...]) -> T:
    for one in allowed:
        if one == value:
            return one
    raise ConfigError(f"{option} = {value!r}; use one of {', '.join(map(str, allowed))}")


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
        sys.exit(130)
