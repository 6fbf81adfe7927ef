"""The loop: sample, judge, advantages, pack, update, sync.

Read `train` first: a step is its `while` body, one line for each noun of types.py. What a run
works with is opened in run/open.py.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from rich.console import Console

from exprl import config
from exprl.advantage import advantages
from exprl.data import mixture
from exprl.errors import JudgeError, NumericsError
from exprl.evaluate import during_training as examine
from exprl.learn.batch import fill, from_rollouts, from_solutions, pack
from exprl.learn.model import describe
from exprl.monitor import metrics_log as metrics
from exprl.monitor import rollout_file as record
from exprl.monitor import step_metrics as measures
from exprl.monitor.alarms import Watch
from exprl.monitor.metrics_log import MetricsLog, Progress
from exprl.monitor.step_metrics import Clock
from exprl.reward.scorer import Scorer, score_arrays
from exprl.rollout import weight_sync as weights
from exprl.rollout.engine import step_seed
from exprl.run import checkpoint
from exprl.run.checkpoint import RunState
from exprl.run.interrupt import interruptible
from exprl.run.open import Parts, opened
from exprl.types import Float64Array, Problem, Scored, StepReport, TrainingResult

OnStep = Callable[[StepReport], object]


def run_training(
    cfg: config.Config, on_step: OnStep | None = None, *, show_progress: bool = True
) -> TrainingResult:
    """Open the run of cfg.run_dir and train it to its end: what `exprl train` does.

    A run that exists goes on after its last checkpoint. In the main thread, Ctrl-C finishes the
    step, saves it and returns; a second Ctrl-C raises KeyboardInterrupt at once.

    Args:
        on_step: is called after each step. An exception that it raises ends the run: the step is
            saved first, the exception is raised as it is, and the next call goes on after the step.
        show_progress: write a row per step to stderr.

    Raises:
        ConfigError, DataError: the settings, or the rows of the data, do not fit.
        JudgeError, EngineError, NumericsError: the run cannot go on; see `train`.
    """
    console = None if show_progress else Console(quiet=True)
    with Progress(console) as progress, opened(cfg) as (parts, state):
        progress.start(state.step, cfg.train.steps)
        return train(cfg, parts, state, progress, on_step)


def train(
    cfg: config.Config,
    parts: Parts,
    state: RunState,
    progress: Progress,
    on_step: OnStep | None = None,
) -> TrainingResult:
    """Train from `state` to cfg.train.steps, or to the end of the step in which Ctrl-C came.

    Raises:
        JudgeError: a step left more rollouts ungraded than judge.max_missing_rate.
        EngineError: engine and trainer disagree about the weights.
        NumericsError: train.max_bad_steps optimizer steps in a row were not finite.
        Exception: what `on_step` raised.
    """
    with (
        MetricsLog(parts.run_dir, cfg.logging, state.step) as log,
        record.Writer(parts.run_dir) as writer,
        interruptible(progress.note) as interrupt,
    ):
        watch = Watch(cfg.alarms, cfg.advantage, metrics.read(parts.run_dir))
        if parts.verifiers.sandbox:
            progress.note(parts.verifiers.sandbox.summary())
        policy = parts.policy
        progress.note(f"computes {describe(cfg.model, policy.model.config, policy.device)}")
        while state.step < cfg.train.steps:
            examine.run_if_due(cfg, parts, state.step, progress)
            clock = Clock()
            counted = parts.judges.stats() if parts.judges else None
            problems = step_problems(cfg, parts, state.step)
            scored, values = list[Scored](), list[Float64Array]()
            match cfg.loss.objective:
                case "cross_entropy":
                    examples = from_solutions([parts.solutions[p.id] for p in problems])
                case "policy_gradient" | "reverse_kl" | "sampled_reverse_kl":
                    scored = sample(cfg, parts, problems, state.step, progress, clock)
                    values = segment_advantages(cfg, scored)
                    examples = from_rollouts(scored, values, parts.teacher_prompts)
            batches = pack(
                examples,
                mini_batches=cfg.optim.mini_batches,
                micro_batch_tokens=cfg.optim.micro_batch_tokens,
                aggregation=cfg.loss.aggregation,
                max_response_tokens=cfg.rollout.max_response_tokens,
            )
            with weights.training(parts.policy, parts.engine, parts.probe):
                updates = parts.policy.step(batches, cfg.loss)
            clock.lap("train")

            state.count(scored, updates)
            judged = measures.since(counted, parts.judges)
            row = (
                measures.of_step(scored, updates, parts.problems, parts.references, state, judged)
                | {"batch/fill": fill(batches, cfg.optim.micro_batch_tokens)}
                | (parts.probe.row() if parts.probe else {})
                | clock.row()
            )
            flags, alarms = watch.see(row)
            log.write(state.step - 1, row | flags)
            if cfg.logging.save_rollouts and scored:
                writer.submit(state.step - 1, scored, values)
            progress.step(state.step, cfg.train.steps, row)
            for alarm in alarms:
                progress.warn(str(alarm))

            report = StepReport(state.step, cfg.train.steps, row | flags, scored)
            failure = error_of(on_step, report) or reason_to_stop(cfg, state, scored)
            due = state.step % cfg.train.checkpoint_every == 0 or state.step == cfg.train.steps
            if due or failure or interrupt.wanted:
                writer.join()
                keep = cfg.train.keep_checkpoints
                checkpoint.save(parts.run_dir, state, parts.policy, parts.tokenizer, keep)
            if failure:
                raise failure
            if interrupt.wanted:
                return TrainingResult(parts.run_dir, state.step, interrupted=True)
        examine.run_if_due(cfg, parts, state.step, progress)
    return TrainingResult(parts.run_dir, state.step, interrupted=False)


def error_of(on_step: OnStep | None, report: StepReport) -> Exception | None:
    """Tell the caller of the step; what it raises is kept, to be raised once the step is saved."""
    try:
        if on_step:
            on_step(report)
    except Exception as error:
        return error
    return None


def step_problems(cfg: config.Config, parts: Parts, step: int) -> list[Problem]:
    """The problems of step `step`: a pure function of the seed, so a resumed run agrees."""
    shares = [source.weight for source in cfg.data.parts]
    count = cfg.rollout.problems_per_step
    return mixture.step_problems(parts.problems, shares, count, cfg.seed, step)


def sample(
    cfg: config.Config,
    parts: Parts,
    problems: Sequence[Problem],
    step: int,
    progress: Progress,
    clock: Clock,
) -> list[Scored]:
    """The step's rollouts, each judged while others are still being sampled."""
    engine = weights.awake(parts.policy, parts.engine, parts.probe)
    clock.lap("sync")
    scorer = Scorer(
        problems,
        parts.references,
        parts.splitter,
        cfg,
        parts.judges,
        parts.verifiers,
    )
    try:
        rollouts = engine.sample(
            [p.prompt for p in problems],
            cfg.rollout.group_size,
            step_seed(cfg.seed, step),
            cfg.rollout.temperature,
            cfg.rollout.max_response_tokens,
        )
        for done, rollout in enumerate(rollouts, 1):
            scorer.push(rollout)
            progress.phase("sample", done, len(problems) * cfg.rollout.group_size)
        clock.lap("rollout")
        scored = scorer.finish(lambda done, of: progress.phase("judge", done, of))
    except BaseException:
        scorer.cancel()
        raise
    clock.lap("judge")
    return scored


def segment_advantages(cfg: config.Config, scored: Sequence[Scored]) -> list[Float64Array]:
    """Per rollout one advantage per score; NaN throughout where the rollout is out.

    Each domain has its own kind of advantage, and its own mean where the kind takes the batch's.
    Without a reward (self-distillation) there is none: an empty array.
    """
    if cfg.reward.source == "none":
        return [np.full(int(s.rollout.finish_reason == "failed"), np.nan) for s in scored]
    values: list[Float64Array] = [np.empty(0)] * len(scored)
    for domain in dict.fromkeys(s.domain for s in scored):
        members = [i for i, s in enumerate(scored) if s.domain == domain]
        scores, seg_off, group_off = score_arrays([scored[i] for i in members])
        flat = advantages(
            scores,
            seg_off,
            group_off,
            cfg.treatment(domain).advantage,
            single_segment=cfg.advantage.single_segment,
            compat=cfg.advantage.compat,
            response_width=cfg.rollout.max_response_tokens,
        )
        for i, own in zip(members, np.split(flat, seg_off[1:-1]), strict=True):
            values[i] = own
    return values


def reason_to_stop(
    cfg: config.Config, state: RunState, scored: Sequence[Scored]
) -> JudgeError | NumericsError | None:
    """Why the run must not go on, to be raised once the checkpoint is written."""
    missing = sum(s.ungraded for s in scored) / max(1, len(scored))
    if missing > cfg.judge.max_missing_rate:
        return JudgeError(
            f"step {state.step}: {missing:.0%} of the rollouts have no grade, above"
            f" judge.max_missing_rate = {cfg.judge.max_missing_rate}; see judge/* in metrics.jsonl"
            " and the judge's own log, then start the same command again to go on"
        )
    if state.bad_steps >= cfg.train.max_bad_steps:
        return NumericsError(
            f"step {state.step}: {state.bad_steps} optimizer steps in a row had a non-finite loss"
            " or gradient; lower optim.lr, or check the data and the base model"
        )
    return None
