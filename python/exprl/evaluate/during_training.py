"""Evaluations of a run while it trains: held-out problems, to pass@k in RUN/eval.jsonl."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from exprl import config, files
from exprl.evaluate.pass_at_k import Evaluation
from exprl.evaluate.sample import ReportingSampler, decode_rollout, evaluate
from exprl.monitor.metrics_log import EVALUATIONS_FILE
from exprl.monitor.progress import Progress

if TYPE_CHECKING:  # they load torch, which the readers of eval.jsonl do without
    from exprl.rollout.engine import Engine
    from exprl.run.open import Parts

# Evaluations at different steps see the same seeds, so that they differ by the policy alone.
EVAL_SEED_OFFSET = 1 << 32


def evaluate_if_due(
    cfg: config.Config,
    parts: Parts,
    step: int,
    progress: Progress,
    sync: Callable[[], Engine] | None = None,
) -> Evaluation | None:
    """Evaluate before training, every so often, and at the end (`evaluate_now`)."""
    every = cfg.eval.every
    if step in (0, cfg.train.steps) or (every is not None and step % every == 0):
        return evaluate_now(cfg, parts, step, progress, sync)
    return None


def evaluate_now(
    cfg: config.Config,
    parts: Parts,
    step: int,
    progress: Progress,
    sync: Callable[[], Engine] | None = None,
) -> Evaluation | None:
    """Evaluate the policy after `step` steps, unless RUN/eval.jsonl has it already.

    Args:
        sync: brings the policy's weights to the engine when nothing stands against it, which
            `Ahead.sync` knows; None = at once.

    Returns:
        The evaluation, new or from the file; None where there are no held-out problems.
    """
    if not parts.held_out:
        return None
    if known := next((e for e in read_evaluations(parts.run_dir) if e.step == step), None):
        return known
    from exprl.rollout.weight_sync import wake_engine

    engine = sync() if sync else wake_engine(parts.policy, parts.engine, parts.probe)
    result = evaluate(
        ReportingSampler(engine, progress),
        parts.held_out,
        cfg.eval,
        decode=lambda rollout: decode_rollout(parts.splitter, rollout),
        max_response_tokens=cfg.rollout.max_response_tokens,
        seed=cfg.seed + EVAL_SEED_OFFSET,
        step=step,
        ks=choose_ks(cfg.eval.samples),
        verifiers=parts.verifiers,
    )
    append_evaluation(parts.run_dir, result)
    rates = "  ".join(f"pass@{k} {result.at(k):.3f}" for k in result.ks)
    progress.note(f"after {step} steps, on {len(parts.held_out)} held-out problems: {rates}")
    domains = result.by_domain()
    for name, own in domains.items() if len(domains) > 1 else ():
        rates = "  ".join(f"pass@{k} {own.at(k):.3f}" for k in own.ks)
        progress.note(f"  {name}, {len(own.outcomes)} problems: {rates}")
    return result


def append_evaluation(run_dir: Path, result: Evaluation) -> None:
    """Add a line to RUN/eval.jsonl, after its last whole one."""
    files.append_jsonl(run_dir / EVALUATIONS_FILE, result.to_json())


def read_evaluations(run_dir: Path) -> list[Evaluation]:
    """The evaluations of a run, by step; a line that a kill cut short is left out."""
    path = run_dir / EVALUATIONS_FILE
    if not path.exists():
        return []
    found = {e.step: e for e in map(Evaluation.from_json, files.read_jsonl(path))}
    return [found[step] for step in sorted(found)]


def choose_ks(samples: int) -> tuple[int, ...]:
    """Powers of two up to the number of samples."""
    return tuple(2**i for i in range(samples.bit_length()) if 2**i <= samples)
