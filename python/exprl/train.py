"""The loop: sample, grade, advantages, pack, update, sync.

Read `train` first: a step is the body of its `while`. What a run works with is opened in
run/open.py; the equations are in docs/concepts/method.md.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import NamedTuple

from rich.console import Console

from exprl import config
from exprl.errors import EngineError, ExprlError, JudgeError, NumericsError
from exprl.evaluate.during_training import evaluate_if_due, read_evaluations
from exprl.functions.pool import FunctionStats
from exprl.judge import JudgeStats
from exprl.learn.batch import fill_rate, pack
from exprl.learn.model import describe
from exprl.learn.policy import UpdateStats
from exprl.monitor.alarms import Watch
from exprl.monitor.metrics_log import MetricsLog, read_metrics
from exprl.monitor.progress import Progress
from exprl.monitor.report import try_report
from exprl.monitor.rollout_file import RolloutWriter
from exprl.monitor.step_metrics import Clock, lag_row, step_row
from exprl.reward.missing import commonest_reason
from exprl.rollout.ahead import Ahead, StepSampler
from exprl.rollout.engine import Engine, EngineStats
from exprl.rollout.weight_sync import lend_gpu
from exprl.run import checkpoint
from exprl.run.checkpoint import RunState
from exprl.run.gather import StepData, gather_examples
from exprl.run.interrupt import interruptible
from exprl.run.open import Parts, open_run
from exprl.types import Rollout, Scored, StepReport, TrainingResult

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
        ProcessError: a server or a rank that the run starts did not come up.
        RankError: a rank was lost; the next call goes on after the last checkpoint.
        JudgeError, EngineError, NumericsError: the run cannot go on; see `train`.
    """
    console = None if show_progress else Console(quiet=True)
    with Progress(console) as progress, open_run(cfg, note=progress.note) as (parts, state):
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
        JudgeError: a step left more rollouts without a grade than judge.max_missing_rate.
        EngineError: the engine gave up on most of those, or disagrees with the trainer about the
            weights.
        NumericsError: train.max_bad_steps optimizer steps in a row were not finite.
        Exception: what `on_step` raised.
    """
    with (
        open_log(cfg, parts, state) as log,
        reporting(cfg, parts, progress, log),
        RolloutWriter(parts.run_dir, parts.problems, parts.references) as writer,
        interruptible(progress.note) as interrupt,
        open_ahead(cfg, parts, progress) as ahead,
        saving_on_engine_error(cfg, parts, state, writer),
    ):
        watch = Watch(cfg.alarms, cfg.advantage, read_metrics(parts.run_dir), cfg.reward.steps)
        announce(cfg, parts, progress)
        before = count_work(parts)
        while state.step < cfg.train.steps:
            evaluate_and_log(cfg, parts, state.step, progress, ahead.sync, log)
            clock = Clock(ahead.engine_seconds, count_engines(cfg))
            # New weights go into the engine here, when they are needed, and a probe proves that
            # they did. With rollout.ahead the steps after this one are started too.
            data = ahead.next(state.step)
            clock.take(ahead.seconds)
            scored = data.scored

            version = parts.policy.version
            updates, row = learn(cfg, parts, data, progress)
            clock.lap("train")

            # The step is done from here on, whatever happens to its report.
            number = parts.first_step + state.step
            state.count(scored, updates)
            now = count_work(parts)
            row |= measure(cfg, parts, state, data, updates, before, now, clock)
            before = now
            flags, alarms = watch.add(row, commonest_reason(scored))
            log.write(number, row | flags)
            log.write_samples(number, scored, data.advantages, parts.problems)
            if cfg.logging.save_rollouts and scored:
                writer.submit(number, scored, data.advantages, version)
            progress.step(state.step, cfg.train.steps, row)
            for alarm in alarms:
                progress.warn(str(alarm))

            # A run that must stop is saved first, so that the same command goes on from here.
            report = StepReport(state.step, cfg.train.steps, row | flags, scored)
            failure = tell_caller(on_step, report) or reason_to_stop(cfg, state, scored)
            due = state.step % cfg.train.checkpoint_every == 0 or state.step == cfg.train.steps
            if due or failure or interrupt.wanted:
                save(cfg, parts, state, writer, ahead.collect_rollouts())
            if failure:
                raise failure
            if interrupt.wanted:
                return TrainingResult(parts.run_dir, state.step, interrupted=True)
        evaluate_and_log(cfg, parts, state.step, progress, ahead.sync, log)
    return TrainingResult(parts.run_dir, state.step, interrupted=False)


def open_log(cfg: config.Config, parts: Parts, state: RunState) -> MetricsLog:
    """Where metrics go: RUN/metrics.jsonl and the trackers, which are told the whole config."""
    step = parts.first_step + state.step
    evaluated = {e.step for e in read_evaluations(parts.run_dir) if e.step <= state.step}
    return MetricsLog(parts.run_dir, cfg.logging, step, config.flatten(cfg), evaluated)


def evaluate_and_log(
    cfg: config.Config,
    parts: Parts,
    step: int,
    progress: Progress,
    sync: Callable[[], Engine],
    log: MetricsLog,
) -> None:
    """Evaluate if it is time to, and tell the trackers."""
    result = evaluate_if_due(cfg, parts, step, progress, sync)
    if result is not None:
        log.write_evaluation(result.step, result.metrics())


def learn(
    cfg: config.Config, parts: Parts, data: StepData, progress: Progress
) -> tuple[list[UpdateStats], dict[str, float]]:
    """Update the policy by a step's examples.

    Returns:
        The optimizer steps, and metrics of what they learned from.
    """
    policy = parts.policy
    max_lag = cfg.rollout.max_lag
    oldest = None if max_lag is None else policy.version - max_lag
    # Micro-batches of whole sequences without padding. Each token carries its share w of the step's
    # mean, counted over the whole mini-batch: micro-batches then add up to the loss sum_i w_i l_i,
    # however the sequences are packed.
    batches = pack(
        data.examples,
        mini_batches=cfg.optim.mini_batches,
        micro_batch_tokens=cfg.optim.micro_batch_tokens,
        aggregation=cfg.loss.aggregation,
        max_response_tokens=cfg.rollout.max_response_tokens,
        oldest_version=oldest,
    )
    row = lag_row(data.examples, policy.version, oldest) if data.scored else {}
    row["batch/fill"] = fill_rate(batches, cfg.optim.micro_batch_tokens)
    # One optimizer step per mini-batch, with the log-probs of before the first one as the old
    # policy's. The policy's version rises by one with each that is applied; one that is not finite
    # is skipped, counted, and leaves weights and version as they are.
    with lend_gpu(policy, parts.engine, parts.probe):
        updates = policy.step(batches, cfg.loss, lambda done, of: progress.phase("train", done, of))
    return updates, row


def save(
    cfg: config.Config,
    parts: Parts,
    state: RunState,
    writer: RolloutWriter,
    in_flight: Mapping[int, Sequence[Rollout]],
) -> None:
    """Write a checkpoint, once the rollouts of all steps before it are written."""
    writer.join()
    keep = cfg.train.keep_checkpoints
    checkpoint.save(parts.run_dir, state, parts.policy, parts.tokenizer, keep, in_flight)


@contextmanager
def reporting(
    cfg: config.Config, parts: Parts, progress: Progress, log: MetricsLog
) -> Iterator[None]:
    """Write RUN/report.html when the steps end, also by an error; a second Ctrl-C does not wait."""
    try:
        yield
    finally:
        hurried = isinstance(sys.exception(), KeyboardInterrupt)
        if cfg.logging.report and not hurried:
            try_report(parts.run_dir, progress.note, log.add_report)


@contextmanager
def saving_on_engine_error(
    cfg: config.Config, parts: Parts, state: RunState, writer: RolloutWriter
) -> Iterator[None]:
    """Save the steps since the last checkpoint when the engine is lost.

    What is in flight is not saved: the engine that sampled it is in doubt.
    """
    try:
        yield
    except EngineError:
        last = checkpoint.latest(parts.run_dir)
        saved = checkpoint.load_state(last).step if last else 0
        if state.step > saved and state.policy_version == parts.policy.version:
            save(cfg, parts, state, writer, {})
        raise


def open_ahead(cfg: config.Config, parts: Parts, progress: Progress) -> Ahead[StepData]:
    """What brings the steps of a run, rollout.ahead of them before they are asked for."""

    def show(step: int, phase: str, done: int, of: int) -> None:
        progress.phase(phase, done, of, step + 1 if cfg.rollout.ahead else None)

    def gather(sampler: StepSampler) -> StepData:
        return gather_examples(cfg, parts, sampler, show)

    return Ahead(
        gather,
        parts.policy,
        parts.engine,
        parts.probe,
        cfg.rollout,
        steps=cfg.train.steps,
        samples=not cfg.learns_references,
        recorded=parts.in_flight,
    )


def count_engines(cfg: config.Config) -> int:
    """How many engines sample at once; none in SFT."""
    if cfg.learns_references:
        return 0
    servers = len(cfg.engine.urls) or cfg.engine.count
    return servers if cfg.engine.kind == "servers" else 1


def announce(cfg: config.Config, parts: Parts, progress: Progress) -> None:
    """Say with what the run computes, and which rows of its data are not used as they stand."""
    if parts.verifiers.sandbox:
        progress.note(parts.verifiers.sandbox.summary())
    policy = parts.policy
    progress.note(f"computes {describe(cfg.model, policy.model.config, policy.device)}")
    for remark in parts.remarks:
        progress.warn(remark)


class Work(NamedTuple):
    """What judge, engine and functions of the user's have counted so far; None where none is."""

    judge: JudgeStats | None
    engine: EngineStats | None
    functions: FunctionStats | None


def count_work(parts: Parts) -> Work:
    """Look at the counters of judge, engine and functions."""
    functions = parts.verifiers.functions
    return Work(
        parts.judges.stats() if parts.judges else None,
        parts.engine.stats() if parts.engine else None,
        functions.stats() if functions.used else None,
    )


def measure(
    cfg: config.Config,
    parts: Parts,
    state: RunState,
    data: StepData,
    updates: Sequence[UpdateStats],
    before: Work,
    now: Work,
    clock: Clock,
) -> dict[str, float]:
    """The metrics of a finished step.

    Args:
        before, now: the work counted at the end of the step before, and of this one. With
            rollout.ahead what was done for later steps in between counts too.
    """
    judged = now.judge.since(before.judge) if now.judge and before.judge else None
    served = now.engine.since(before.engine).row() if now.engine and before.engine else {}
    called = {}
    if now.functions and before.functions:
        called = now.functions.since(before.functions).row()
    return (
        step_row(
            data.scored,
            updates,
            parts.problems,
            parts.references,
            state,
            judged,
            cfg.reward.delimiter,
        )
        | data.row()
        | (parts.probe.row() if parts.probe else {})
        | served
        | called
        | clock.row()
    )


def tell_caller(on_step: OnStep | None, report: StepReport) -> Exception | None:
    """Tell the caller of the step; what it raises is kept, to be raised once the step is saved."""
    try:
        if on_step:
            on_step(report)
    except Exception as error:
        return error
    return None


def reason_to_stop(
    cfg: config.Config, state: RunState, scored: Sequence[Scored]
) -> ExprlError | None:
    """Why the run must not go on, to be raised once the checkpoint is written."""
    failed = [s for s in scored if s.rollout.finish_reason == "failed"]
    ungraded = [s for s in scored if s.ungraded and s.rollout.finish_reason != "failed"]
    missing = (len(failed) + len(ungraded)) / max(1, len(scored))
    if missing > cfg.judge.max_missing_rate:
        engine_is_worse = len(failed) > len(ungraded)
        grader = "judge" if cfg.asks_judge else ", ".join(cfg.own_rewards) or "verifier"
        why = commonest_reason(failed if engine_is_worse else ungraded)
        kind = EngineError if engine_is_worse else JudgeError
        return kind(
            f"step {state.step}: {missing:.0%} of the {len(scored)} rollouts have no grade, above"
            f" judge.max_missing_rate = {cfg.judge.max_missing_rate}: the engine gave up on"
            f" {len(failed)}, and the {grader} gave no grade for {len(ungraded)}."
            + (f" {why}." if why else "")
            + " The step is saved: start the same command again to go on"
        )
    if state.bad_steps >= cfg.train.max_bad_steps:
        return NumericsError(
            f"step {state.step}: {state.bad_steps} optimizer steps in a row had a non-finite loss"
            " or gradient; lower optim.lr, or check the data and the base model"
        )
    return None
