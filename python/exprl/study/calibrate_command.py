"""`exprl calibrate`: solutions and a judge, to a table, a picture and a JSON file in one folder.

The folder keeps the judge's ledger too, so the same command again asks only for what is missing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from exprl import config, files
from exprl.config import Condition
from exprl.errors import ConfigError, DataError, JudgeError
from exprl.judge import SOLUTION_VIEW, JudgeSettings, Readout, RuleJudge, View
from exprl.reward.judges import serve_rules
from exprl.steps import StepRule
from exprl.study import calibrate, calibration_table, plots, solutions, targets
from exprl.study.calibrate import Agreement, Calibration
from exprl.study.calibration_table import Counts, Measured
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
    readouts: ways to read the scores that are compared; none takes the judge's own.
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
    readouts: Sequence[Readout] = ()
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
    calibration_table.show(measured)
    Console(stderr=True).print(f"written: {request.out / RESULT}, {PICTURE}", highlight=False)
    return result


def _measure(
    request: Request,
    every: Sequence[Solution],
    chosen: Sequence[Solution],
    settings: JudgeSettings,
) -> Measured:
    """Grade the chosen ones of all solutions, and whatever else was asked for."""
    readouts = request.readouts or (settings.readout,)
    _refuse_mixed(request, readouts)
    agreement, continued = None, None
    results: dict[Readout, list[Calibration]] = {}
    failed: dict[Readout, str] = {}
    for readout in readouts:
        own = replace(settings, readout=readout)
        try:
            results[readout], agreement = _calibrate(request, chosen, own)
        except JudgeError as error:
            if len(readouts) == 1:
                raise
            failed[readout] = str(error)
    if not results:
        raise JudgeError("\n".join(f"{name}: {why}" for name, why in failed.items()))
    if request.continuations:
        continued = _continue(request, chosen, replace(settings, readout=readouts[0]))
    counts = Counts(
        solutions=len(chosen),
        right=sum(s.correct is True for s in chosen),
        problems=len({s.problem for s in chosen}),
        unknown_truth=sum(s.correct is None for s in every),
        overlong=sum(s.finish_reason == "length" for s in every),
        judge_temperature=settings.temperature,
    )
    return Measured(counts, results, failed, agreement, continued)


def _refuse_mixed(request: Request, readouts: Sequence[Readout]) -> None:
    """Refuse what would not say which readout, or which condition, it measured."""
    if request.repeats > 1 and "right" not in request.conditions:
        raise ConfigError("--repeats measures with the right reference: add --condition right")
    if len(set(readouts)) < len(readouts):
        raise ConfigError(f"--readout {','.join(readouts)}: name each readout once")
    if len(readouts) > 1 and (request.repeats > 1 or request.continuations):
        raise ConfigError(
            f"--readout {','.join(readouts)} compares readouts; --repeats and --continuations"
            " measure one: name one there"
        )


def _calibrate(
    request: Request, chosen: Sequence[Solution], settings: JudgeSettings
) -> tuple[list[Calibration], Agreement | None]:
    """Each condition under one readout; the agreement if it was asked for."""
    results, agreement = [], None
    for condition in request.conditions:
        result, grades = calibrate.calibrate(chosen, settings, condition, request.seed)
        results.append(result)
        if condition == "right" and request.repeats > 1:
            agreement = calibrate.measure_agreement(chosen, settings, grades, request.repeats)
    return results, agreement


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
    """What calibration.json holds; `conditions` are those of the first readout."""
    result = {
        "source": str(request.source),
        "view": request.view,
        "seed": request.seed,
        **asdict(measured.counts),
        "conditions": _by_condition(measured.conditions),
        "readouts": {name: _by_condition(own) for name, own in measured.readouts.items()},
        "failed": measured.failed,
        "findings": find(measured.conditions),
        "agreement": measured.agreement,
        "beginnings": measured.continued,
    }
    return dict(calibrate.to_json(result))


def _by_condition(results: Sequence[Calibration]) -> Mapping[str, Calibration]:
    return {result.condition: result for result in results}
