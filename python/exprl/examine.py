"""Evaluations of a run, and of any model: held-out problems, to pass@k in RUN/eval.jsonl."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from exprl import checkpoint, config, data, evaluate
from exprl.errors import ConfigError
from exprl.evaluate import Evaluation
from exprl.metrics import Progress
from exprl.prepare import Parts, fitting, set_threads
from exprl.rollout import Engine, load_tokenizer
from exprl.steps import Splitter
from exprl.types import Rollout

FILE_NAME = "eval.jsonl"
# Evaluations at different steps see the same seeds, so that they differ by the policy alone.
EVAL_SEED_OFFSET = 1 << 32


def run_if_due(cfg: config.Config, parts: Parts, step: int, progress: Progress) -> None:
    """Evaluate before training, every so often, and at the end."""
    every = cfg.eval.every
    if step in (0, cfg.train.steps) or (every is not None and step % every == 0):
        run(cfg, parts, step, progress)


def run(cfg: config.Config, parts: Parts, step: int, progress: Progress) -> None:
    """Evaluate the policy after `step` steps, unless RUN/eval.jsonl has it already."""
    if not parts.held_out or any(e.step == step for e in read(parts.run_dir)):
        return
    result = evaluate.evaluate(
        _Watched(parts.engine, progress),
        parts.held_out,
        cfg.eval,
        decode=lambda rollout: decode(parts.splitter, rollout),
        max_response_tokens=cfg.rollout.max_response_tokens,
        seed=cfg.seed + EVAL_SEED_OFFSET,
        step=step,
        ks=default_ks(cfg.eval.samples),
    )
    with (parts.run_dir / FILE_NAME).open("a", encoding="utf-8") as file:
        file.write(json.dumps(result.to_json()) + "\n")
    rates = "  ".join(f"pass@{k} {result.at(k):.3f}" for k in result.ks)
    progress.note(f"after {step} steps, on {len(parts.held_out)} held-out problems: {rates}")


def read(run_dir: Path) -> list[Evaluation]:
    """The evaluations of a run, by step; a line that a kill cut short is left out."""
    path = run_dir / FILE_NAME
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").split("\n")[:-1]
    found = {e.step: e for e in (Evaluation.from_json(json.loads(line)) for line in lines)}
    return [found[step] for step in sorted(found)]


def decode(splitter: Splitter, rollout: Rollout) -> str:
    """The text of a rollout, as judge and verifier see it."""
    return "".join(segment.text for segment in splitter.split(rollout.token_ids))


def default_ks(samples: int) -> tuple[int, ...]:
    """Powers of two up to the number of samples."""
    return tuple(2**i for i in range(samples.bit_length()) if 2**i <= samples)


def command(
    model: str,
    data_path: str | None,
    samples: int | None,
    ks: tuple[int, ...],
    config_file: Path | None,
    overrides: Sequence[str],
    out: Path | None,
) -> Evaluation:
    """`exprl eval`: evaluate a run folder, a checkpoint or any model, and print the table.

    Raises:
        ConfigError: no config says what to evaluate on, or a k exceeds the samples.
    """
    cfg, weights = _resolve(model, data_path, samples, config_file, overrides)
    assert cfg.eval.data is not None
    ks = ks or default_ks(cfg.eval.samples)
    if max(ks) > cfg.eval.samples:
        raise ConfigError(f"pass@{max(ks)} needs at least as many samples: -n {max(ks)}")
    set_threads(cfg.train.torch_threads)
    tokenizer = load_tokenizer(cfg.model)
    problems = data.load_problems(cfg.eval.data)
    data.require_answers(problems)
    problems = fitting(problems, tokenizer, cfg.rollout.max_prompt_tokens)
    engine = Engine(cfg.model, cfg.rollout, tokenizer=tokenizer, weights=weights)
    splitter = Splitter(tokenizer.backend_tokenizer.to_str(), cfg.reward.delimiter)
    with Progress() as progress:
        result = evaluate.evaluate(
            _Watched(engine, progress),
            problems,
            cfg.eval,
            decode=lambda rollout: decode(splitter, rollout),
            max_response_tokens=cfg.rollout.max_response_tokens,
            seed=cfg.seed + EVAL_SEED_OFFSET,
            step=0,
            ks=ks,
        )
    _print(result, weights)
    if out:
        out.write_text(json.dumps({"model": weights} | result.to_json(), indent=2) + "\n")
    return result


class _Watched:
    """An engine whose sampling shows on the terminal."""

    def __init__(self, engine: Engine, progress: Progress) -> None:
        self._engine = engine
        self._progress = progress

    def sample(self, prompts: Any, n: int, *rest: Any) -> Any:
        for done, rollout in enumerate(self._engine.sample(prompts, n, *rest), 1):
            self._progress.phase("evaluate", done, len(prompts) * n)
            yield rollout


def _resolve(
    model: str,
    data_path: str | None,
    samples: int | None,
    config_file: Path | None,
    overrides: Sequence[str],
) -> tuple[config.Config, str]:
    """The config to evaluate under, and the weights: of a run folder, its newest checkpoint."""
    folder = Path(model)
    run_dir = folder if (folder / "config.toml").exists() else None
    if folder.parent.name == "checkpoints" and (folder.parent.parent / "config.toml").exists():
        run_dir = folder.parent.parent
    weights = model
    if run_dir == folder:
        newest = checkpoint.latest(folder)
        if newest is None:
            raise ConfigError(f"{model} is a run without a whole checkpoint yet")
        weights = str(newest)
    path = config_file or (run_dir / "config.toml" if run_dir else None)
    if path is None:
        raise ConfigError(
            f"{model} is not a run folder: name a config with --config, for columns and lengths"
        )
    tree = tomllib.loads(path.read_text(encoding="utf-8"))
    changes = [f"model.path={json.dumps(weights)}", *overrides]
    if samples is not None:
        changes.append(f"eval.samples={samples}")
    if isinstance(tree.get("eval", {}).get("data"), dict):
        if data_path is not None:
            changes.append(f"eval.data.path={json.dumps(data_path)}")
    else:
        tree.setdefault("eval", {})["data"] = dict(tree.get("data", {}))
        if data_path is None:
            raise ConfigError(f"{path} has no eval.data: name the problems with --data")
        changes.append(f"eval.data.path={json.dumps(data_path)}")
    return config.build(config.overridden(tree, changes), str(path)), weights


def _print(result: Evaluation, weights: str) -> None:
    table = Table(
        "k", "pass@k", "95 % interval", "problems", title=f"{weights}, n = {result.samples}"
    )
    for k, rate in result.to_json()["pass_at"].items():
        if rate is None:
            table.add_row(k, "-", "every problem lost samples to crashes", "0")
        else:
            interval = f"{rate['low']:.4f} .. {rate['high']:.4f}"
            table.add_row(k, f"{rate['value']:.4f}", interval, str(rate["problems"]))
    Console().print(table)
    Console().print(
        f"{result.failed} rollouts crashed, {result.overlong_rate:.1%} were cut by length"
    )
