"""`exprl eval`: several models on the same problems, to one table, one picture and one JSON file.

Each model is measured in a process of its own where there are several, so that the engine of one
leaves nothing on the GPU for the next. With --out, what an earlier, interrupted call has measured
is not measured again.
"""

from __future__ import annotations

import hashlib
import json
import logging
import multiprocessing
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from exprl import config, files
from exprl.data.problems import drop_unreadable, load_problems, require_answers
from exprl.data.references import drop_references, keep_all_rows
from exprl.data.remarks import Remark, ignore
from exprl.errors import ConfigError, DataError, EngineError
from exprl.evaluate.during_training import EVAL_SEED_OFFSET, choose_ks
from exprl.evaluate.pass_at_k import Curve, Evaluation
from exprl.evaluate.sample import ReportingSampler, decode_rollout, evaluate
from exprl.monitor.progress import Progress
from exprl.study import compare, plots, targets
from exprl.study.compare import Comparison
from exprl.study.targets import Target
from exprl.types import Problem, ReferenceProblem, Rollout

# What must agree for two evaluations to be about the same thing.
SAME = (
    "eval.data",
    "eval.samples",
    "eval.temperature",
    "eval.top_p",
    "eval.top_k",
    "eval.min_p",
    "eval.max_response_tokens",
)


@dataclass(frozen=True, slots=True)
class Measurement:
    """One model to measure, and where its rollouts go (None: nowhere)."""

    target: Target
    cfg: config.Config
    rollouts: Path | None


def command(
    names: Sequence[str],
    *,
    data_path: str | None = None,
    samples: int | None = None,
    ks: Sequence[int] = (),
    config_file: Path | None = None,
    overrides: Sequence[str] = (),
    out: Path | None = None,
    plot: Path | None = None,
    rollouts: Path | None = None,
) -> list[Evaluation]:
    """Evaluate run folders, checkpoints or models; print, compare with the first, write.

    Raises:
        ConfigError: nothing says what to evaluate on, the models would be asked different
            questions, or a k exceeds the samples.
        DataError: the problems cannot be used.
        EngineError: vLLM did not start, or its process died.
    """
    if plot:
        plots.require_package()
    jobs = plan(names, data_path, samples, config_file, overrides, rollouts)
    most = jobs[0].cfg.eval.samples
    ks = tuple(ks) or choose_ks(most)
    if min(ks) < 1:
        raise ConfigError(
            f"pass@{min(ks)}: k is the number of samples that a user draws, 1 or more"
        )
    if max(ks) > most:
        raise ConfigError(f"pass@{max(ks)} needs at least as many samples: -n {max(ks)}")
    problems = _load_problems(jobs[0])
    earlier = _read_earlier(out)
    rows: list[dict[str, Any]] = []
    for job in jobs:
        key = _hash_inputs(job, problems)
        row = earlier.get(key)
        if row is None or (job.rollouts is not None and not job.rollouts.exists()):
            measured = _measure_in_own_process(job) if len(jobs) > 1 else measure(job)
            about = {"model": job.target.name, "weights": job.target.weights, "key": key}
            asked = {"data": _name_data(job.cfg), "data_problems": len(problems)}
            row = about | asked | measured.to_json()
        else:
            Console(stderr=True).print(Text(f"{job.target.name}: measured before, from {out}"))
        rows.append(row)
        _write_results(out, rows, ())
    evaluations = [Evaluation.from_json(row) for row in rows]
    comparisons = _compare_with_first(jobs, evaluations, ks)
    _write_results(out, rows, comparisons)
    named = list(zip([job.target.name for job in jobs], evaluations, strict=True))
    show(named, ks, data=_name_data(jobs[0].cfg), of=len(problems))
    for one in comparisons:
        compare.show(one)
    if plot:
        plots.plot_pass_at_k(named, plot)
    return evaluations


def plan(
    names: Sequence[str],
    data_path: str | None,
    samples: int | None,
    config_file: Path | None,
    overrides: Sequence[str],
    rollouts: Path | None,
) -> list[Measurement]:
    """What to measure, under which config; all of it refused where the questions would differ.

    A run brings its config; a plain model takes `config_file`, or that of the first run named.
    """
    found = [targets.find(name) for name in names]
    runs = [target.run_dir / "config.toml" for target in found if target.run_dir]
    if not (config_file or runs):
        raise ConfigError(
            f"{names[0]} is not a run folder: name a config with --config, for columns and lengths"
        )
    jobs = []
    for i, target in enumerate(found):
        own = target.run_dir / "config.toml" if target.run_dir else None
        cfg = targets.make_eval_config(
            target, config_file or own or runs[0], data_path, samples, overrides
        )
        keep = rollouts / f"{i:02d}-{_make_file_name(target.name)}.jsonl" if rollouts else None
        jobs.append(Measurement(target, cfg, keep))
    first = jobs[0]
    for job in jobs[1:]:
        differ = [
            f"{key}: {x!r} and {y!r}"
            for key, (x, y) in compare.compare_configs(first.cfg, job.cfg).items()
            if key.startswith(SAME) or key.endswith(".verify")
        ]
        lengths = [_limit_length(one.cfg) for one in (first, job)]
        if lengths[0] != lengths[1]:
            differ.append(f"rollout.max_response_tokens: {lengths[0]} and {lengths[1]}")
        if differ:
            raise ConfigError(
                f"{first.target.name} and {job.target.name} would be evaluated differently; choose"
                " for all of them with --data, -n, --set or --config"
                + "".join(f"\n  {line}" for line in differ)
            )
    return jobs


def measure(job: Measurement) -> Evaluation:
    """Sample and verify in this process; the JSON form reports every k up to n."""
    from exprl.data.tokenizer import load_tokenizer
    from exprl.learn.model_files import check_model
    from exprl.rollout.engine import announce_engine, open_engine
    from exprl.run.open import open_verifiers
    from exprl.run.policy import set_threads
    from exprl.run.problems import drop_long_prompts
    from exprl.steps import Splitter

    cfg = job.cfg
    set_threads(cfg.train.torch_threads)
    tokenizer = load_tokenizer(cfg.model)
    remarks: list[str] = []
    problems = _load_problems(job, remarks.append)
    limit = cfg.rollout.max_prompt_tokens
    kept = drop_long_prompts(problems, tokenizer, cfg.model, limit, remarks.append)
    if not kept:
        raise DataError(
            f"none of the {len(problems)} problems has a prompt of at most"
            f" rollout.max_prompt_tokens = {cfg.rollout.max_prompt_tokens} tokens"
        )
    check_model(cfg.model, cfg.rollout, tokenizer)
    waiting = Text(announce_engine(cfg.rollout, job.target.weights))
    Console(stderr=True).print(waiting, soft_wrap=True)
    engine = open_engine(cfg.model, cfg.rollout, tokenizer=tokenizer, weights=job.target.weights)
    splitter = Splitter(tokenizer.backend_tokenizer.to_str())
    references = {problem.id: problem.judge_reference for problem in kept}
    lines: list[dict[str, Any]] = []

    def keep(problem: Problem, rollout: Rollout, text: str, correct: bool) -> None:
        reference = references[problem.id]
        lines.append(_make_row(problem, reference, rollout, text, correct))

    with Progress() as progress:
        for remark in remarks:
            progress.warn(remark)
        progress.note(
            f"{job.target.name}: {len(kept):,} problems of {_name_data(cfg)},"
            f" {cfg.eval.samples} samples each"
        )
        result = evaluate(
            ReportingSampler(engine, progress),
            kept,
            cfg.eval,
            decode=lambda rollout: decode_rollout(splitter, rollout),
            max_response_tokens=cfg.rollout.max_response_tokens,
            seed=cfg.seed + EVAL_SEED_OFFSET,
            step=job.target.step,
            ks=range(1, cfg.eval.samples + 1),
            verifiers=open_verifiers(cfg, kept),
            keep=keep if job.rollouts else None,
        )
    if job.rollouts:
        files.write_jsonl(job.rollouts, lines)
    return result


def show(
    named: Sequence[tuple[str, Evaluation]],
    ks: Sequence[int],
    console: Console | None = None,
    *,
    data: str = "",
    of: int = 0,
) -> None:
    """Print one column per model: pass@k, maj@k, and what did not count.

    Args:
        data: where the problems come from.
        of: how many problems there are, those with prompts that are too long included.
    """
    console = console or Console(highlight=False)
    samples = ", ".join(sorted({str(e.samples) for _, e in named}))
    if data:
        console.print(Text(f"{of:,} problems of {data}"), soft_wrap=True)
    table = Table("", title=f"n = {samples}, intervals of 95 % over problems")
    for name, _ in named:
        table.add_column(Text(name))
    table.add_row("problems", *(_count(len(e.outcomes), of) for _, e in named))
    passed: list[Curve | None] = [Curve.of(e.pass_values()) for _, e in named]
    voted = [None if v is None else Curve.of(v) for v in (e.majority_values() for _, e in named)]
    for name, curves in (("pass", passed), ("maj", voted)):
        for k in ks:
            points = zip(curves, named, strict=True)
            table.add_row(f"{name}@{k}", *(_show_point(curve, k, e) for curve, (_, e) in points))
    table.add_row("answers", *(e.verify for _, e in named))
    table.add_row("crashed", *(str(e.failed) for _, e in named))
    table.add_row("cut by length", *(f"{e.overlong_rate:.1%}" for _, e in named))
    table.add_row("name no answer", *(f"{e.blank_rate:.1%}" for _, e in named))
    console.print(table)


def _count(problems: int, of: int) -> str:
    left_out = of - problems
    return f"{problems:,}" + (f" ({left_out:,} too long)" if left_out > 0 else "")


def _name_data(cfg: config.Config) -> str:
    settings = cfg.eval.data
    assert settings is not None, "targets.make_eval_config sets it"
    return ", ".join(part.path for part in settings.parts)


def _show_point(curve: Curve | None, k: int, evaluation: Evaluation) -> str:
    point = curve.at(k) if curve else None
    if point is None:
        return "-"
    of = len(evaluation.outcomes)
    fewer = f" ({point['problems']} of {of} problems)" if point["problems"] != of else ""
    return f"{point['value']:.4f}  {point['low']:.4f} .. {point['high']:.4f}{fewer}"


def _compare_with_first(
    jobs: Sequence[Measurement], evaluations: Sequence[Evaluation], ks: Sequence[int]
) -> list[Comparison]:
    """Compare every later model with the first."""
    trained = [
        targets.load_config(job.target.run_dir) if job.target.run_dir else None for job in jobs
    ]
    first = trained[0]
    return [
        compare.compare(
            evaluations[0],
            evaluation,
            ks,
            names=(jobs[0].target.name, job.target.name),
            settings=compare.compare_configs(first, cfg) if first and cfg else {},
        )
        for job, evaluation, cfg in list(zip(jobs, evaluations, trained, strict=True))[1:]
    ]


def _measure_in_own_process(job: Measurement) -> Evaluation:
    context = multiprocessing.get_context("spawn")
    # Logging settings do not reach a spawned process: see cli.app.main.
    quiet = logging.getLogger("torch.utils._pytree").setLevel
    with ProcessPoolExecutor(1, context, quiet, (logging.ERROR,)) as pool:
        try:
            return pool.submit(measure, job).result()
        except BrokenProcessPool:
            raise EngineError(
                f"the process that evaluated {job.target.name} died; its reason, or the kernel's"
                " out-of-memory killer, stands above"
            ) from None


def _limit_length(cfg: config.Config) -> int:
    return cfg.eval.max_response_tokens or cfg.rollout.max_response_tokens


def _load_problems(job: Measurement, remark: Remark = ignore) -> list[ReferenceProblem]:
    """With references where the rollouts are kept, beside which they stand; else unread."""
    settings = job.cfg.eval.data
    assert settings is not None, "targets.make_eval_config sets it"
    problems = load_problems(
        keep_all_rows(settings) if job.rollouts else drop_references(settings), remark
    )
    require_answers(problems)
    return drop_unreadable(job.cfg.treatment, problems, remark, evaluated=True)


def _make_row(
    problem: Problem, reference: str | None, rollout: Rollout, text: str, correct: bool
) -> dict[str, Any]:
    return {
        "id": f"{problem.id}/{rollout.index}",
        "problem_id": problem.id,
        "problem": problem.question,
        "reference": reference,
        "trace": text,
        "domain": problem.domain,
        "correct": correct,
        "finish_reason": rollout.finish_reason,
    }


def _hash_inputs(job: Measurement, problems: Sequence[ReferenceProblem]) -> str:
    """What a measurement depends on: weights, problems, sampling."""
    cfg = job.cfg
    weights = sorted(Path(job.target.weights).glob("*.safetensors"))
    domains = sorted({problem.domain for problem in problems})
    parts = [
        str(Path(job.target.weights).resolve() if weights else job.target.weights),
        [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in weights],
        [repr((p.prompt, p.answer, p.domain, p.more_answers, p.all_answers)) for p in problems],
        cfg.eval.model_dump(mode="json", exclude={"data", "every"}),
        cfg.rollout.max_response_tokens,
        cfg.rollout.max_prompt_tokens,
        cfg.model.model_dump(mode="json"),
        cfg.seed,
        [(d, cfg.treatment(d).verifier, cfg.treatment(d).verify) for d in domains],
    ]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]


def _read_earlier(out: Path | None) -> dict[str, dict[str, Any]]:
    if out is None or not out.exists():
        return {}
    try:
        rows = json.loads(out.read_text(encoding="utf-8"))["evaluations"]
        return {row["key"]: row for row in rows}
    except (ValueError, KeyError, TypeError):
        raise ConfigError(
            f"{out} exists and is not a result of exprl eval; choose another --out"
        ) from None


def _write_results(
    out: Path | None, rows: Sequence[Any], comparisons: Sequence[Comparison]
) -> None:
    if out:
        pairs = [one.to_json() for one in comparisons]
        files.write_json(out, {"evaluations": list(rows), "comparisons": pairs})


def _make_file_name(name: str) -> str:
    return "".join(c if c.isalnum() or c in "-._@" else "-" for c in name).strip("-.")[-80:]
