"""A config, to the parts that a run works with; and every check that can be made before it."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from exprl import checkpoint, config, data
from exprl.checkpoint import RunState
from exprl.errors import ConfigError
from exprl.judge import Judge, JudgeSettings, RuleJudge
from exprl.policy import Policy
from exprl.rollout import Engine, load_tokenizer, prompt_ids
from exprl.steps import Splitter
from exprl.types import Problem
from exprl.weights import sync

# What may differ when a run goes on: how long and how it is watched, not what it computes.
MAY_CHANGE = (
    "train.steps",
    "train.checkpoint_every",
    "train.keep_checkpoints",
    "alarms",
    "logging",
    "eval",
)


@dataclass(frozen=True, slots=True)
class Parts:
    """What a run works with, opened and closed by `opened`.

    references: what the judge is shown for each problem id; None shows no reference.
    held_out: problems of the evaluations; empty where none are wanted.
    """

    run_dir: Path
    problems: Sequence[Problem]
    held_out: Sequence[Problem]
    references: Mapping[str, str | None]
    tokenizer: Any
    engine: Engine
    policy: Policy
    splitter: Splitter
    judge: Judge | None


@contextmanager
def opened(cfg: config.Config, engine: Engine | None = None) -> Iterator[tuple[Parts, RunState]]:
    """Open a run in cfg.run_dir: a new one, or an earlier one at its last whole checkpoint.

    Args:
        engine: one that is up already, of the same model and lengths, for several runs in one
            process; it is given this run's weights.

    Raises:
        ConfigError: settings or files do not fit; DataError: the rows do not.
        EngineError: vLLM did not start.
    """
    run_dir = Path(cfg.run_dir)
    with ExitStack() as stack:
        stack.enter_context(checkpoint.locked(run_dir))
        _same_run(cfg, run_dir)
        tokenizer = load_tokenizer(cfg.model)
        problems = load_problems(cfg, cfg.data, tokenizer)
        held_out = load_held_out(cfg, tokenizer)
        judge = stack.enter_context(open_judge(cfg, run_dir)) if uses_judge(cfg) else None

        folder = checkpoint.latest(run_dir)
        state = checkpoint.load_state(folder) if folder else RunState()
        weights = str(folder or cfg.model.path)
        set_threads(cfg.train.torch_threads)
        fresh = engine is None
        engine = engine or Engine(cfg.model, cfg.rollout, tokenizer=tokenizer, weights=weights)
        policy = Policy(
            cfg.model,
            cfg.optim,
            temperature=cfg.rollout.temperature,
            needs_reference=cfg.loss.kl_coef > 0,
            weights=weights,
        )
        if folder:
            policy.load_optimizer(folder / checkpoint.TRAINER, state.policy_version)
        policy.to_host()
        engine.policy_version = policy.version
        if not fresh:
            sync(policy, engine)
        parts = Parts(
            run_dir=run_dir,
            problems=problems,
            held_out=held_out,
            references=references(cfg, problems),
            tokenizer=tokenizer,
            engine=engine,
            policy=policy,
            splitter=Splitter(tokenizer.backend_tokenizer.to_str(), cfg.reward.delimiter),
            judge=judge,
        )
        yield parts, state


def uses_judge(cfg: config.Config) -> bool:
    """Whether any grade is asked for."""
    return cfg.asks_judge


def load_problems(cfg: config.Config, settings: config.Data, tokenizer: Any) -> list[Problem]:
    """The training problems whose prompts fit, with what the reward needs of them."""
    problems = data.load_problems(settings)
    if uses_judge(cfg) and cfg.judge.condition != "none":
        data.require_references(problems)
    if cfg.reward.source == "verifier":
        data.require_answers(problems)
    kept = fitting(problems, tokenizer, cfg.rollout.max_prompt_tokens)
    if cfg.rollout.problems_per_step > len(kept):
        raise ConfigError(
            f"rollout.problems_per_step = {cfg.rollout.problems_per_step} exceeds the"
            f" {len(kept)} problems of {settings.path} whose prompt has at most"
            f" rollout.max_prompt_tokens = {cfg.rollout.max_prompt_tokens} tokens"
            f" ({len(problems) - len(kept)} are longer)"
        )
    return kept


def load_held_out(cfg: config.Config, tokenizer: Any) -> list[Problem]:
    """The problems of the evaluations; they need answers."""
    if cfg.eval.data is None:
        return []
    problems = data.load_problems(cfg.eval.data)
    data.require_answers(problems)
    return fitting(problems, tokenizer, cfg.rollout.max_prompt_tokens)


def references(cfg: config.Config, problems: Sequence[Problem]) -> dict[str, str | None]:
    """What the judge is shown, by judge.condition."""
    match cfg.judge.condition:
        case "right":
            return {p.id: p.reference for p in problems}
        case "none":
            return dict.fromkeys((p.id for p in problems), None)
        case "wrong":
            return dict(data.wrong_references(problems, cfg.seed))


@contextmanager
def open_judge(cfg: config.Config, run_dir: Path) -> Iterator[Judge]:
    """The judge of the run; for judge.kind = "rules" with a server of its own on loopback."""
    with judge_settings(cfg, run_dir) as settings, Judge(settings) as judge:
        yield judge


@contextmanager
def judge_settings(cfg: config.Config, run_dir: Path) -> Iterator[JudgeSettings]:
    """How the run judges; a rule judge's server lives as long as the context."""
    settings = cfg.judge
    with ExitStack() as stack:
        endpoints, model, revision = settings.endpoints, settings.model, ""
        if settings.kind == "rules":
            server = stack.enter_context(
                RuleJudge(
                    settings.rules,
                    no_grade_rate=settings.fault_no_grade_rate,
                    random_rate=settings.fault_random_rate,
                    seed=cfg.seed,
                )
            )
            endpoints, model = (server.url,), server.model
            # A ledger must not mix the grades of differently faulty judges.
            faults = (settings.fault_no_grade_rate, settings.fault_random_rate)
            revision = f"faults {faults}, seed {cfg.seed}" if any(faults) else ""
        yield JudgeSettings(
            endpoints=endpoints,
            model=model,
            revision=revision,
            view=settings.view,
            readout=settings.readout,
            score_map=settings.score_map,
            rubric=settings.rubric,
            temperature=settings.temperature,
            max_tokens=settings.max_tokens,
            concurrency=settings.concurrency,
            rpm=settings.rpm,
            tpm=settings.tpm,
            attempts=settings.attempts,
            deadline_s=settings.deadline_s,
            ledger=settings.ledger or str(run_dir / "ledger"),
            api_key_env=settings.api_key_env,
        )


def set_threads(count: int | None) -> None:
    """Set torch's CPU threads before any work; None leaves torch's own choice."""
    if count is not None:
        import torch

        os.environ.setdefault("OMP_NUM_THREADS", str(count))
        torch.set_num_threads(count)


def fitting(problems: Sequence[Problem], tokenizer: Any, limit: int) -> list[Problem]:
    """The problems whose prompt has at most `limit` tokens."""
    return [p for p in problems if len(prompt_ids(tokenizer, p.prompt)) <= limit]


def _same_run(cfg: config.Config, run_dir: Path) -> None:
    """Write RUN/config.toml, or refuse to go on with an earlier run under other settings."""
    path = run_dir / "config.toml"
    if path.exists() and checkpoint.latest(run_dir):
        before = config.flat(config.build(tomllib.loads(path.read_text("utf-8")), str(path)))
        now = config.flat(cfg)
        differ = [
            f"{key}: {before[key]!r} then, {now[key]!r} now"
            for key in sorted(before.keys() | now.keys())
            if before.get(key) != now.get(key) and not key.startswith(MAY_CHANGE)
        ]
        if differ:
            raise ConfigError(
                f"{run_dir} holds a run with other settings; choose another run_dir or delete it"
                + "".join(f"\n  {line}" for line in differ)
            )
    path.write_text(config.to_toml(cfg), encoding="utf-8")
