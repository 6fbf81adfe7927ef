"""`exprl calibrate`: solutions and a judge, to a table, a picture and a JSON file in one folder.

The folder keeps the judge's ledger too, so the same command again asks only for what is missing.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from collections.abc import Set as AbstractSet
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from exprl import config, files
from exprl.config import Condition
from exprl.errors import ConfigError, DataError
from exprl.evaluate.estimates import Rate
from exprl.judge import SOLUTION_VIEW, JudgeSettings, RuleJudge, View
from exprl.reward.judges import serve_rules
from exprl.steps import StepRule
from exprl.study import calibrate, plots, solutions, targets
from exprl.study.calibrate import Agreement, Calibration
from exprl.study.continuations import Continued
from exprl.study.findings import find
from exprl.study.grade import CONDITIONS
from exprl.study.overrides import refuse_dead
from exprl.study.solutions import Solution

LEDGER = "ledger"
PICTURE = "calibration.png"
RESULT = "calibration.json"


@dataclass(frozen=True, slots=True)
class Request:
    """What to calibrate, and on what.

    source: run folder or file of solutions (solutions.py).
    out: folder for results and ledger.
    judge: named by hand; without endpoints and rules, the config says it.
    rules: a rule judge instead, for rehearsals.
    config_file, overrides: the config that names the judge; None takes the run's.
    domain: take its solutions only, under its rubric; None takes all, if they share one.
    repeats: grades asked for each solution; 1 measures no agreement.
    temperature: of the judge; None leaves 0, or what the config says.
    continuations: n samples from each of at most `beginnings`; 0 samples nothing.
    policy: who continues (targets.py); None takes the run's newest checkpoint.
    """

    source: Path
    out: Path
    judge: JudgeSettings
    rules: str | None = None
    config_file: Path | None = None
    overrides: Sequence[str] = ()
    conditions: Sequence[Condition] = CONDITIONS
    view: View = SOLUTION_VIEW
    label: str = "correct"
    step_rule: StepRule = "delimiter"
    delimiter: str = "###"
    steps: str | None = None
    domain: str | None = None
    limit: int | None = 500
    seed: int = 0
    repeats: int = 1
    temperature: float | None = None
    continuations: int = 0
    beginnings: int = 200
    policy: str | None = None


@dataclass(frozen=True, slots=True)
class Counts:
    """The solutions that were graded, and those of the source that were left out."""

    solutions: int
    right: int
    problems: int
    unknown_truth: int
    overlong: int
    judge_temperature: float


@dataclass(frozen=True, slots=True)
class Measured:
    """What the command shows and writes; None for what was not asked for."""

    counts: Counts
    conditions: Sequence[Calibration]
    agreement: Agreement | None
    continued: Continued | None


def choose_out(source: Path) -> Path:
    """Where results go if nothing else is said: in the run's folder, or beside the file."""
    if targets.is_run(source):
        return source / "calibration"
    return source.with_name(f"{source.name.split('.')[0]}-calibration")


def command(request: Request) -> dict[str, Any]:
    """Calibrate, print, and write OUT/calibration.json and .png; returns what the JSON holds.

    Raises:
        ConfigError: no judge is named, or it cannot be used.
        DataError: the solutions cannot be used.
    """
    plots.require_package()
    every = solutions.read(
        request.source,
        step_rule=request.step_rule,
        delimiter=request.delimiter,
        label=request.label,
        steps=request.steps,
    )
    if request.domain is not None:
        domains = sorted({s.domain for s in every})
        every = [s for s in every if s.domain == request.domain]
        if not every:
            raise DataError(f"--domain {request.domain!r}: the solutions have {domains}")
    usable = [s for s in every if s.correct is not None and s.finish_reason == "stop"]
    if not usable:
        raise DataError(
            f"{request.source}: of {len(every)} solutions none ended by itself with a known truth:"
            f" a file needs the field {request.label!r}, a run needs problems with answers"
        )
    chosen = solutions.draw(usable, request.limit, request.seed)
    with _open_judge(request, {s.domain for s in chosen}) as settings:
        measured = _measure(request, every, chosen, settings)
    result = _make_result(request, measured)
    files.write_json(request.out / RESULT, result)
    plots.plot_calibration(measured.conditions, measured.continued, request.out / PICTURE)
    show(measured)
    Console(stderr=True).print(f"written: {request.out / RESULT}, {PICTURE}", highlight=False)
    return result


def show(measured: Measured, console: Console | None = None) -> None:
    """Print the table of conditions, and a line for each further measure."""
    console = console or Console(highlight=False)
    counts, results = measured.counts, measured.conditions
    console.print(
        f"{counts.solutions} solutions ({counts.right} right) of {counts.problems}"
        f" problems; left out: {counts.overlong} cut by length, {counts.unknown_truth} of"
        " unknown truth"
    )
    table = Table("reference", *(r.condition for r in results), title="The judge, 95 % intervals")
    for title, rates, form in (
        ("misplacement", [r.misplacement for r in results], ".1%"),
        ("  wrong, but >= 4", [r.false_positive for r in results], ".1%"),
        ("  right, but < 4", [r.false_negative for r in results], ".1%"),
        ("AUC", [r.auc for r in results], ".3f"),
    ):
        table.add_row(title, *(_format_rate(rate, form, "\n") for rate in rates))
    table.add_row("right, by grade", *(" ".join(map(str, r.right)) for r in results))
    table.add_row("wrong, by grade", *(" ".join(map(str, r.wrong)) for r in results))
    table.add_row("right, no grade", *(str(r.right_missing) for r in results))
    table.add_row("wrong, no grade", *(str(r.wrong_missing) for r in results))
    table.add_row("by a re-ask only", *(str(r.statuses.get("repaired", 0)) for r in results))
    console.print(table)
    for finding in find(results):
        color = "green" if finding.good else "yellow"
        console.print(f"[{color}]judge[/]  {escape(finding.message)}", soft_wrap=True)
    if again := measured.agreement:
        console.print(
            f"{again.repeats} grades of each solution: {_format(again.exact, '.1%')} of pairs equal"
            f" ({_format(again.chance, '.1%')} by chance), Krippendorff's alpha"
            f" {_format(again.alpha, '.3f')}, {again.missing} missing"
        )
        if counts.judge_temperature == 0.0:
            console.print(
                "(At temperature 0 this shows only what the servers do not repeat; set"
                " --temperature to see the judge's own spread.)"
            )
    if continued := measured.continued:
        means = " ".join(_format(x, ".2f") for x in continued.success_by_grade)
        console.print(
            f"{len(continued.beginnings)} beginnings, {continued.continuations} continuations each,"
            f" {continued.missing} without grade or continuation: rank correlation of score and"
            f" success {_format_rate(continued.spearman, '.3f')}, Pearson"
            f" {_format_rate(continued.pearson, '.3f')}; success by grade 1..5: {means}"
        )


def _measure(
    request: Request,
    every: Sequence[Solution],
    chosen: Sequence[Solution],
    settings: JudgeSettings,
) -> Measured:
    """Grade the chosen ones of all solutions, and whatever else was asked for."""
    if request.repeats > 1 and "right" not in request.conditions:
        raise ConfigError("--repeats measures with the right reference: add --condition right")
    results, agreement, continued = [], None, None
    for condition in request.conditions:
        result, grades = calibrate.calibrate(chosen, settings, condition, request.seed)
        results.append(result)
        if condition == "right" and request.repeats > 1:
            agreement = calibrate.measure_agreement(chosen, settings, grades, request.repeats)
    if request.continuations:
        continued = _continue(request, chosen, settings)
    counts = Counts(
        solutions=len(chosen),
        right=sum(s.correct is True for s in chosen),
        problems=len({s.problem for s in chosen}),
        unknown_truth=sum(s.correct is None for s in every),
        overlong=sum(s.finish_reason == "length" for s in every),
        judge_temperature=settings.temperature,
    )
    return Measured(counts, results, agreement, continued)


@contextmanager
def _open_judge(request: Request, domains: AbstractSet[str]) -> Iterator[JudgeSettings]:
    """The judge that is named by hand, by rule, or by a config."""
    with _find_judge(request, domains) as settings:
        warmth = settings.temperature if request.temperature is None else request.temperature
        ledger = str(request.out / LEDGER)
        yield replace(settings, view=request.view, ledger=ledger, temperature=warmth)


@contextmanager
def _find_judge(request: Request, domains: AbstractSet[str]) -> Iterator[JudgeSettings]:
    for key, flag in (("judge.view=", "--view"), ("judge.ledger=", "--out")):
        if any(override.startswith(key) for override in request.overrides):
            raise ConfigError(f"--set {key}...: `exprl calibrate` takes it from {flag}")
    named = request.judge
    _refuse_dead_overrides(request)
    if request.rules is not None:
        with RuleJudge(request.rules) as server:
            yield replace(named, endpoints=(server.url,), model=server.model)
        return
    if named.endpoints:
        if not named.model:
            raise ConfigError("--endpoint needs --model, the model that the server serves")
        yield named
        return
    cfg = _load_config(request)
    if cfg.judge.kind == "server" and not cfg.judge.endpoints:
        raise ConfigError(
            "the config names no judge: give --endpoint URL with --model NAME, --rules RULE, or"
            " --set judge.endpoints=... and judge.model=..."
        )
    rubrics = {domain: cfg.treatment(domain).rubric for domain in sorted(domains)}
    if len(set(rubrics.values())) > 1:
        raise ConfigError(
            f"the domains have rubrics of their own ({rubrics}): take one with --domain"
        )
    with serve_rules(cfg.judge, cfg.seed) as settings:
        yield replace(settings, rubric=next(iter(rubrics.values())))


def _refuse_dead_overrides(request: Request) -> None:
    """A judge that is named by hand is no config's; only continuations look at the policy."""
    live = ["judge"]
    if request.rules is None and not request.judge.endpoints:
        live.append("domains")
    if request.continuations:
        live += ["model", "rollout", "reward", "domains", "sandbox", "train.torch_threads"]
    instead = {"model.path": "name the model with --policy"}
    refuse_dead(request.overrides, live, instead, "exprl calibrate")


def _load_config(request: Request) -> config.Config:
    path = request.config_file
    if path is None and targets.is_run(request.source):
        path = request.source / "config.toml"
    if path is None:
        raise ConfigError(
            f"{request.source} is no run folder: name the judge with --endpoint URL and --model"
            " NAME, --rules RULE, or a --config"
        )
    return config.load(path, request.overrides)


def _continue(request: Request, chosen: Sequence[Solution], settings: JudgeSettings) -> Continued:
    """Start the engine on the policy, and let it go on from beginnings."""
    if not targets.is_run(request.source):
        raise DataError(
            f"{request.source} is a file: --continuations needs a run folder, whose rollouts have"
            " prompts and token ids"
        )
    from exprl.data.tokenizer import load_tokenizer
    from exprl.rollout.engine import open_engine
    from exprl.run.open import open_verifiers
    from exprl.run.policy import set_threads
    from exprl.steps import Splitter
    from exprl.study import continuations

    cfg = config.load(request.source / "config.toml", request.overrides)
    target = targets.find(request.policy or str(request.source))
    set_threads(cfg.train.torch_threads)
    tokenizer = load_tokenizer(cfg.model)
    engine = open_engine(cfg.model, cfg.rollout, tokenizer=tokenizer, weights=target.weights)
    splitter = Splitter(tokenizer.backend_tokenizer.to_str())
    return continuations.measure(
        chosen,
        settings,
        engine,
        limit=request.beginnings,
        n=request.continuations,
        seed=request.seed,
        temperature=cfg.rollout.temperature,
        max_response_tokens=cfg.rollout.max_response_tokens,
        decode=lambda ids: "".join(segment.text for segment in splitter.split(ids)),
        verifiers=open_verifiers(cfg, [s.asked for s in chosen if s.asked]),
    )


def _make_result(request: Request, measured: Measured) -> dict[str, Any]:
    """What calibration.json holds."""
    result = {
        "source": str(request.source),
        "view": request.view,
        "seed": request.seed,
        **asdict(measured.counts),
        "conditions": {r.condition: r for r in measured.conditions},
        "findings": find(measured.conditions),
        "agreement": measured.agreement,
        "beginnings": measured.continued,
    }
    return dict(calibrate.to_json(result))


def _format_rate(rate: Rate, form: str, between: str = " ") -> str:
    if math.isnan(rate.value):
        return "-"
    return f"{rate.value:{form}}{between}[{rate.low:{form}}, {rate.high:{form}}]"


def _format(value: float, form: str) -> str:
    return "-" if math.isnan(value) else format(value, form)
