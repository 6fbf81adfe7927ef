"""A config, to the parts that a run works with; and every check that can be made before it."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar

import torch

from exprl import config, files
from exprl.data import mixture
from exprl.data import problems as data
from exprl.data import references as hidden
from exprl.data.tokenizer import load_tokenizer, prompt_ids
from exprl.errors import ConfigError
from exprl.learn.memory import Setup, Shapes, fit
from exprl.learn.policy import Policy
from exprl.reward.judges import Panel, open_panel
from exprl.rollout.engine import NO_POLICY, Engine, open_engine
from exprl.rollout.weight_sync import Probe, open_probe
from exprl.run import checkpoint
from exprl.run.checkpoint import RunState
from exprl.steps import Splitter
from exprl.types import Int32Array, Problem, ReferenceProblem
from exprl.verify.sandbox.sandbox import Sandbox
from exprl.verify.verifiers import Verifiers, check_answers, needs_sandbox

LOG = logging.getLogger(__name__)
P = TypeVar("P", bound=Problem)

# What may differ when a run goes on: where it lies, how long it is, how it is watched and by which
# servers it is graded, not what it computes.
MAY_CHANGE = (
    "run_dir",
    "judge.endpoints",
    "judge.api_key_env",
    "judge.concurrency",
    "judge.rpm",
    "judge.tpm",
    "judge.attempts",
    "judge.deadline_s",
    "judge.max_missing_rate",
    "rollout.gpu_memory_utilization",
    "rollout.sync_gap_limit",
    "train.steps",
    "train.checkpoint_every",
    "train.keep_checkpoints",
    "train.max_bad_steps",
    "train.ignore_memory",
    "alarms",
    "logging",
    "eval",
)


@dataclass(frozen=True, slots=True)
class Parts:
    """What a run works with, opened and closed by `opened`.

    held_out: problems of the evaluations; empty where none are wanted.
    references: what the judge is shown for each problem id; None shows no reference. Empty where
        nothing in the run looks at references.
    solutions: token ids of prompt and reference, by problem id (SFT); else empty.
    teacher_prompts: token ids before which the teacher reads a rollout, by problem id
        (self-distillation); else empty.
    engine, probe: None where nothing is sampled: SFT without evaluations.
    """

    run_dir: Path
    problems: Sequence[Problem]
    held_out: Sequence[Problem]
    references: Mapping[str, str | None]
    solutions: Mapping[str, tuple[Int32Array, Int32Array]]
    teacher_prompts: Mapping[str, Int32Array]
    tokenizer: Any
    engine: Engine | None
    policy: Policy
    probe: Probe | None
    splitter: Splitter
    judges: Panel | None
    verifiers: Verifiers


@contextmanager
def opened(cfg: config.Config, engine: Engine | None = None) -> Iterator[tuple[Parts, RunState]]:
    """Open a run in cfg.run_dir: a new one, or an earlier one at its last whole checkpoint.

    Args:
        engine: one that is up already, of the same model and lengths, for several runs in one
            process; it is given this run's weights.

    Raises:
        ConfigError: settings or files do not fit; DataError: the rows do not.
        EngineError: the engine did not start.
    """
    run_dir = Path(cfg.run_dir)
    with ExitStack() as stack:
        stack.enter_context(checkpoint.locked(run_dir))
        cfg = started(cfg)
        check_same_run(cfg)
        _record(cfg)
        tokenizer = load_tokenizer(cfg.model)
        problems = load_problems(cfg, tokenizer)
        held_out = load_held_out(cfg, tokenizer)
        check_memory(cfg, [*problems, *held_out], tokenizer)
        verifiers = open_verifiers(cfg, [*problems, *held_out])
        stack.callback(verifiers.close)
        judges = stack.enter_context(open_panel(cfg, run_dir)) if cfg.asks_judge else None

        folder = checkpoint.latest(run_dir)
        state = checkpoint.load_state(folder) if folder else RunState()
        path = str(folder or cfg.model.path)
        set_threads(cfg.train.torch_threads)
        probe = open_probe(problems, tokenizer, cfg.rollout) if engine or samples(cfg) else None
        if engine is None and probe:
            engine = open_engine(cfg.model, cfg.rollout, tokenizer=tokenizer, weights=path)
            engine.policy_version = state.policy_version
            probe.hear(engine)
        elif engine is not None:
            engine.policy_version = NO_POLICY  # what it holds is another run's
        if engine is not None:
            engine.sleep()  # the policy needs the GPU while it loads
        policy = Policy(
            cfg.model,
            cfg.optim,
            cfg.lora,
            temperature=cfg.rollout.temperature,
            needs_initial=needs_initial_policy(cfg),
            weights=str(folder) if folder else None,
            updates=cfg.train.steps * cfg.optim.mini_batches,
            seed=cfg.seed,
        )
        if folder:
            check_base(state, policy, folder, cfg.model.path)
            policy.load_optimizer(folder / checkpoint.TRAINER, state.policy_version)
        state.base = policy.base()
        if probe:
            probe.remember(policy)
        policy.to_host()
        parts = Parts(
            run_dir=run_dir,
            problems=[p.without_reference() for p in problems],
            held_out=[p.without_reference() for p in held_out],
            references=hidden.references(cfg, problems) if cfg.needs_references else {},
            solutions=hidden.solutions(problems, tokenizer) if imitates(cfg) else {},
            teacher_prompts=hidden.teacher_prompts(cfg.teacher.prompt, problems, tokenizer)
            if distills(cfg)
            else {},
            tokenizer=tokenizer,
            engine=engine,
            policy=policy,
            probe=probe,
            splitter=Splitter(tokenizer.backend_tokenizer.to_str(), cfg.reward.delimiter),
            judges=judges,
            verifiers=verifiers,
        )
        yield parts, state


def check_base(state: RunState, policy: Policy, folder: Path, path: str) -> None:
    """Let an adapter go on upon the weights that it was trained on, or not at all.

    Raises:
        ConfigError: the model of `path` is not the one that the checkpoint in `folder` knew.
    """
    if policy.base() != state.base:
        raise ConfigError(
            f"{folder}: its adapter was trained on other weights than those of model.path ="
            f" {path!r}; bring those back, or train on from the merged model with another run_dir"
            f" and init_from={folder}"
        )


def started(cfg: config.Config) -> config.Config:
    """The config with model.path at the weights that init_from names, as RUN/config.toml has it.

    A run that exists keeps the checkpoint that it once started from, also where the run that
    init_from names has gone on since.

    Raises:
        ConfigError: init_from holds no model.
    """
    if cfg.init_from is None:
        return cfg
    recorded = recorded_config(Path(cfg.run_dir))
    if recorded is not None and recorded.init_from == cfg.init_from:
        path = recorded.model.path
    else:
        path = str(checkpoint.latest(Path(cfg.init_from)) or cfg.init_from)
    if not (Path(path) / "config.json").exists():
        raise ConfigError(
            f"init_from = {cfg.init_from!r}: {path} holds no model; name a run folder with a whole"
            " checkpoint, or a checkpoint"
        )
    return cfg.model_copy(update={"model": cfg.model.model_copy(update={"path": path})})


def imitates(cfg: config.Config) -> bool:
    """Whether the references themselves are learned (SFT)."""
    return cfg.loss.objective == "cross_entropy"


def distills(cfg: config.Config) -> bool:
    """Whether a teacher reads the references (self-distillation)."""
    return cfg.loss.objective in ("reverse_kl", "sampled_reverse_kl")


def check_memory(cfg: config.Config, problems: Sequence[Problem], tokenizer: Any) -> None:
    """Warn where memory will be short.

    Raises:
        ConfigError: the run will not fit (see exprl.learn.memory.fit).
    """
    gpu = torch.cuda.is_available()
    shapes = fit.shapes_of(cfg.model)
    setup = memory_setup(cfg, shapes, problems, tokenizer, gpu=gpu)
    warning = fit.check(shapes, setup, fit.machine(gpu), ignore=cfg.train.ignore_memory)
    if warning:
        LOG.warning("%s", warning)


def memory_setup(
    cfg: config.Config,
    shapes: Shapes,
    problems: Sequence[Problem],
    tokenizer: Any,
    *,
    gpu: bool,
) -> Setup:
    """What the run's memory depends on, on a GPU or on a CPU."""
    longest = max((len(prompt_ids(tokenizer, p.prompt)) for p in problems), default=0)
    return fit.setup_of(
        cfg,
        shapes.config.model_type,
        gpu=gpu,
        longest=longest + cfg.rollout.max_response_tokens,
        needs_initial=needs_initial_policy(cfg),
        samples=samples(cfg),
    )


def needs_initial_policy(cfg: config.Config) -> bool:
    """Whether a frozen copy of the initial policy is kept: for the KL term, or as the teacher."""
    return cfg.loss.kl_coef > 0 or distills(cfg)


def samples(cfg: config.Config) -> bool:
    """Whether the engine is needed."""
    return not imitates(cfg) or cfg.eval.data is not None


def load_problems(cfg: config.Config, tokenizer: Any) -> list[ReferenceProblem]:
    """The training problems that fit, with what reward or loss need of them, and nothing else.

    Where nothing looks at the references (sparse reward), their column is not read.
    """
    settings, limits = cfg.data, cfg.rollout
    problems = data.load_problems(settings if cfg.needs_references else hidden.taken_away(settings))
    _same_domains(cfg, problems)
    if cfg.needs_references:
        rewarded = cfg.loss.objective == "policy_gradient"
        data.require_references(
            [p for p in problems if not rewarded or cfg.treatment(p.domain).judged]
        )
    data.require_answers([p for p in problems if cfg.treatment(p.domain).verified])
    check_answers(cfg, problems)
    kept = fitting(problems, tokenizer, limits.max_prompt_tokens)
    limit = f"prompt has at most rollout.max_prompt_tokens = {limits.max_prompt_tokens} tokens"
    if imitates(cfg):
        pairs = hidden.solutions(kept, tokenizer)
        kept = [p for p in kept if len(pairs[p.id][1]) <= limits.max_response_tokens]
        limit += (
            " and reference at most rollout.max_response_tokens ="
            f" {limits.max_response_tokens} tokens"
        )
    if limits.problems_per_step > len(kept):
        paths = ", ".join(source.path for source in settings.parts)
        raise ConfigError(
            f"rollout.problems_per_step = {limits.problems_per_step} exceeds the {len(kept)}"
            f" problems of {paths} whose {limit} ({len(problems) - len(kept)} are longer)"
        )
    _shares_fit(cfg, kept)
    return kept


def load_held_out(cfg: config.Config, tokenizer: Any) -> list[ReferenceProblem]:
    """The problems of the evaluations; they need answers, and their references are not read."""
    if cfg.eval.data is None:
        return []
    problems = data.load_problems(hidden.taken_away(cfg.eval.data))
    data.require_answers(problems)
    check_answers(cfg, problems)
    return fitting(problems, tokenizer, cfg.rollout.max_prompt_tokens)


def _same_domains(cfg: config.Config, problems: Sequence[Problem]) -> None:
    """A section for a domain that no row has is a typing error."""
    found = {p.domain for p in problems}
    for name in cfg.domains:
        if name not in found:
            has = ", ".join(sorted(found))
            raise ConfigError(f"[domains.{name}]: no row is of this domain; the data has {has}")


def _shares_fit(cfg: config.Config, problems: Sequence[Problem]) -> None:
    """No source may have to give more problems to a step than it has."""
    parts, per_step = cfg.data.parts, cfg.rollout.problems_per_step
    weights = [source.weight for source in parts]
    counts = [mixture.shares(step * per_step, weights) for step in range(cfg.train.steps + 1)]
    for i, source in enumerate(parts):
        most = max(after[i] - before[i] for before, after in pairwise(counts))
        own = sum(p.source == i for p in problems)
        if most > own:
            raise ConfigError(
                f"data.sources.{i}.weight = {source.weight} makes a step take up to {most} problems"
                f" of {source.path}, which has {own} that fit; lower its weight, or"
                " rollout.problems_per_step"
            )


def open_verifiers(cfg: config.Config, problems: Sequence[Problem]) -> Verifiers:
    """The verifiers of a run, with a sandbox where a row's program must be run.

    Raises:
        ConfigError: the sandbox does not hold what sandbox.require names.
    """
    return Verifiers(cfg, Sandbox(cfg.sandbox) if needs_sandbox(cfg, problems) else None)


def set_threads(count: int | None) -> None:
    """Set torch's CPU threads before any work; None leaves torch's own choice."""
    if count is not None:
        import torch

        os.environ.setdefault("OMP_NUM_THREADS", str(count))
        torch.set_num_threads(count)


def fitting(problems: Sequence[P], tokenizer: Any, limit: int) -> list[P]:
    """The problems whose prompt has at most `limit` tokens."""
    return [p for p in problems if len(prompt_ids(tokenizer, p.prompt)) <= limit]


def recorded_config(run_dir: Path) -> config.Config | None:
    """The resolved config of a run; None where the folder holds none."""
    path = run_dir / "config.toml"
    return config.load(path) if path.exists() else None


def check_same_run(cfg: config.Config) -> None:
    """Refuse to go on with an earlier run under other settings.

    Raises:
        ConfigError: cfg.run_dir holds a checkpoint of one; names the settings.
    """
    run_dir = Path(cfg.run_dir)
    recorded = recorded_config(run_dir)
    if recorded is not None and checkpoint.latest(run_dir):
        differ = [
            f"\n  {key}: {then!r} then, {now!r} now{_why_fixed(cfg, key)}"
            for key, (then, now) in config.differences(recorded, cfg).items()
            if not key.startswith(MAY_CHANGE) or _why_fixed(cfg, key)
        ]
        if differ:
            raise ConfigError(
                f"{run_dir} holds a run with other settings; choose another run_dir or delete it"
                + "".join(differ)
            )


def _why_fixed(cfg: config.Config, key: str) -> str:
    """Why a setting of MAY_CHANGE may not change in this run; empty where it may."""
    if key == "train.steps" and cfg.optim.schedule != "constant":
        return f" (the {cfg.optim.schedule} schedule of the learning rate ends with the run)"
    return ""


def _record(cfg: config.Config) -> None:
    """Write RUN/config.toml."""
    files.write_text(Path(cfg.run_dir) / "config.toml", config.to_toml(cfg))
