"""`exprl calibrate` and `exprl behaviors`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args

import typer

from exprl.cli.options import ApiKeyEnv, Settings, Steps, one_of

if TYPE_CHECKING:
    from exprl.judge import JudgeSettings


Solutions = Annotated[
    Path,
    typer.Argument(
        help="run folder, or a file of rows with problem, reference, trace and correct",
        show_default=False,
    ),
]
Out = Annotated[
    Path | None, typer.Option(help="folder for results and ledger (default: beside SOURCE)")
]
Endpoints = Annotated[list[str] | None, typer.Option(help="base URL of a judge server; may repeat")]
JudgeConfig = Annotated[
    Path | None,
    typer.Option("--config", help="config whose judge is calibrated; a run folder brings its own"),
]
Conditions = Annotated[
    list[str] | None,
    typer.Option(
        help="reference that the judge sees: right, none or wrong; may repeat (default: all)"
    ),
]
ViewOption = Annotated[
    str | None,
    typer.Option(help="what the judge sees: outcome, prefix or step (default: outcome)"),
]
ReadoutOption = Annotated[
    str | None,
    typer.Option(
        help="how scores are read: text, expected or direct; several with commas between them are"
        " compared (default: the judge's)"
    ),
]
Temperature = Annotated[
    float | None,
    typer.Option(min=0.0, help="temperature of the judge (default: 0, or the config's)"),
]
StepRuleOption = Annotated[
    str,
    typer.Option(
        help="where the file's traces are cut into steps: delimiter, heading, paragraph or line"
    ),
]
Policy = Annotated[
    str | None, typer.Option(help="model that continues (default: the run's newest checkpoint)")
]


def calibrate(
    source: Solutions,
    out: Out = None,
    endpoint: Endpoints = None,
    model: Annotated[str, typer.Option(help="model that the servers serve")] = "",
    api_key_env: ApiKeyEnv = None,
    rules: Annotated[str | None, typer.Option(help="rule judge: division or numbers")] = None,
    config_file: JudgeConfig = None,
    overrides: Settings = None,
    condition: Conditions = None,
    view: ViewOption = None,
    readout: ReadoutOption = None,
    label: Annotated[str, typer.Option(help="field of the file that holds the truth")] = "correct",
    step_rule: StepRuleOption = "delimiter",
    delimiter: Annotated[
        str, typer.Option(help="text that starts a step, for --step-rule delimiter")
    ] = "###",
    steps: Steps = None,
    domain: Annotated[
        str | None, typer.Option(help="use only solutions of this domain, with its rubric")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="number of solutions, drawn at random")] = 500,
    seed: Annotated[
        int, typer.Option(min=0, help="seed of the random draws and of the continuations")
    ] = 0,
    repeats: Annotated[int, typer.Option(min=1, help="grades per solution")] = 1,
    temperature: Temperature = None,
    continuations: Annotated[
        int, typer.Option(min=0, help="samples that continue each beginning; 0 starts no engine")
    ] = 0,
    beginnings: Annotated[int, typer.Option(min=1, help="number of beginnings to continue")] = 200,
    policy: Policy = None,
) -> None:
    """Measure how far the judge can be believed: compare its grades with known truth.

    Prints the misplacement rate and AUC with the right reference, with none and with a wrong one,
    the agreement of repeated grades, and grades of beginnings beside the success of their
    continuations. Missing grades are counted. The same command again asks only for what is missing.

    Example: exprl calibrate runs/demo --steps 9-16 --continuations 8

    Example: exprl calibrate out.jsonl --endpoint http://127.0.0.1:8001/v1 --model Qwen/Qwen3-4B

    With --readout text,direct the written grade stands beside the grade without reasons, each with
    its misplacement, tokens and seconds.
    """
    from exprl.judge import SOLUTION_VIEW, JudgeSettings, Readout, View
    from exprl.steps import StepRule
    from exprl.study import calibrate_command, grade

    conditions = [one_of("--condition", c, grade.CONDITIONS) for c in condition or ()]
    names = readout.split(",") if readout else ()
    readouts = [one_of("--readout", name.strip(), get_args(Readout)) for name in names]
    calibrate_command.command(
        calibrate_command.Request(
            source=source,
            out=out or calibrate_command.choose_out(source),
            judge=named_judge(endpoint, model, overrides, api_key_env=api_key_env)
            if endpoint or rules
            else JudgeSettings(),  # the config's
            rules=rules,
            config_file=config_file,
            overrides=overrides or (),
            conditions=conditions or grade.CONDITIONS,
            view=one_of("--view", view or SOLUTION_VIEW, get_args(View)),
            readouts=readouts,
            label=label,
            step_rule=one_of("--step-rule", step_rule, get_args(StepRule)),
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


def behaviors(
    sources: Annotated[
        list[Path],
        typer.Argument(
            metavar="SOURCE [SOURCE]",
            help="run folder or file of solutions; a second one is compared with the first",
        ),
    ],
    endpoint: Annotated[list[str], typer.Option(help="base URL of a server; may repeat")],
    model: Annotated[str, typer.Option(help="model that annotates")],
    out: Annotated[Path, typer.Option(help="folder for results and ledger")] = Path("behaviors"),
    api_key_env: ApiKeyEnv = None,
    problems: Annotated[int, typer.Option(min=1, help="number of problems, drawn at random")] = 100,
    per_problem: Annotated[int, typer.Option(min=1, help="solutions per problem")] = 4,
    steps: Steps = None,
    seed: Annotated[int, typer.Option(min=0, help="seed of the random draws")] = 0,
    tries: Annotated[
        int, typer.Option(min=1, help="requests per solution until an answer fits the schema")
    ] = 2,
    max_tokens: Annotated[int | None, typer.Option(min=1, help="longest answer, in tokens")] = None,
    concurrency: Annotated[
        int | None, typer.Option(min=1, help="requests in flight per server")
    ] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="judge.KEY=VALUE",
            help="a setting of the model that annotates, as [judge] of a config has it; may repeat",
        ),
    ] = None,
    guided: Annotated[
        bool, typer.Option(help="send the JSON schema, which not every server accepts")
    ] = True,
) -> None:
    """Let a model annotate how solutions are reached: archetypes and reasoning behaviours.

    With two sources it also shows what the second gains and loses, problem by problem. The same
    command again asks only for what is missing.

    Example: exprl eval runs/a@step-0 runs/a --rollouts samples

    then: exprl behaviors samples/00-* samples/01-* --endpoint http://127.0.0.1:8001/v1 --model M
    """
    from exprl.study import behaviors_command
    from exprl.study.overrides import refuse_dead

    refuse_dead(overrides or (), ("judge",), {}, "exprl behaviors")
    behaviors_command.command(
        behaviors_command.Request(
            sources=sources,
            out=out,
            judge=named_judge(
                endpoint,
                model,
                overrides,
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


def named_judge(
    endpoint: list[str] | None, model: str, overrides: list[str] | None, **others: Any
) -> JudgeSettings:
    """A judge that the command names, under the settings of `--set judge.KEY=VALUE`."""
    from exprl import config

    others |= {"endpoints": tuple(endpoint or ()), "model": model}
    given = {name: value for name, value in others.items() if value}
    return replace(config.build_judge(overrides or ()), **given)
