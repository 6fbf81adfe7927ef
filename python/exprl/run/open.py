"""A config, to the parts that a run works with; and every check that can be made before it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from exprl import config
from exprl.data.references import (
    build_teacher_prompts,
    choose_references,
    tokenize_solutions,
)
from exprl.data.tokenizer import load_tokenizer, prompt_ids
from exprl.functions.pool import Functions
from exprl.learn.memory import Setup, Shapes, fit
from exprl.learn.model_files import check_model
from exprl.learn.policy import Policy
from exprl.reward.judges import Judges, open_judges
from exprl.reward.rubric_dropout import RubricDropout, open_dropout
from exprl.rollout.engine import NO_POLICY, Engine, announce_engine, open_engine
from exprl.rollout.weight_sync import Probe, open_probe
from exprl.run import checkpoint
from exprl.run.checkpoint import RunState
from exprl.run.crew import Crew, needs_of
from exprl.run.functions import find_rule, find_shown, try_functions, try_verifiers
from exprl.run.policy import load_policy, set_threads
from exprl.run.problems import load_held_out, load_training_problems
from exprl.run.recorded import check_same_run, record_config, resolve_init_from
from exprl.run.starts import record_start
from exprl.steps import Splitter
from exprl.types import Int32Array, Problem, Rollout
from exprl.verify.sandbox.sandbox import Sandbox
from exprl.verify.verifiers import Verifiers, needs_sandbox

LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Parts:
    """What a run works with, opened and closed by `open_run`.

    first_step: the number of the run's first step: 1, or 0 in a run of an earlier exprl.
    held_out: problems of the evaluations; empty where none are wanted.
    references: what the judge is shown for each problem id; None shows no reference. Empty where
        nothing in the run looks at references.
    solutions: token ids of prompt and reference, by problem id (SFT); else empty.
    teacher_prompts: token ids before which the teacher reads a rollout, by problem id
        (self-distillation); else empty.
    engine, probe: None where nothing is sampled: SFT without evaluations.
    rubric_dropout: None where the judge is shown whole rubrics, or none.
    in_flight: rollouts of later steps that the checkpoint holds, by step.
    remarks: which rows of the data are left out or not used as they stand, in sentences.
    """

    run_dir: Path
    first_step: int
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
    judges: Judges | None
    verifiers: Verifiers
    rubric_dropout: RubricDropout | None = None
    in_flight: Mapping[int, Sequence[Rollout]] = field(default_factory=dict)
    remarks: Sequence[str] = ()


@contextmanager
def open_run(
    cfg: config.Config,
    engine: Engine | None = None,
    note: Callable[[str], object] = lambda text: None,
) -> Iterator[tuple[Parts, RunState]]:
    """Open a run in cfg.run_dir: a new one, or an earlier one at its last whole checkpoint.

    Args:
        engine: one that is up already, of the same model and lengths, for several runs in one
            process; it is given this run's weights.
        note: is told what takes long.

    Raises:
        ConfigError: settings or files do not fit; DataError: the rows do not.
        EngineError: the engine did not start.
        ProcessError: a server or a rank that the run starts did not come up.
    """
    run_dir = Path(cfg.run_dir)
    with ExitStack() as stack:
        stack.enter_context(checkpoint.lock_run(run_dir))
        cfg = resolve_init_from(cfg)
        check_same_run(cfg)
        record_config(cfg)
        # Before torch looks for GPUs: Ray says which one is this process's.
        crew = Crew(cfg, needs_of(cfg, has_engine=engine is not None), note)
        stack.callback(crew.close)
        tokenizer = load_tokenizer(cfg.model)
        remarks: list[str] = []
        functions = Functions(cfg.functions)
        stack.callback(functions.close)
        shown_to = find_shown(cfg, functions)
        problems = load_training_problems(cfg, tokenizer, remarks.append, shown_to)
        held_out = load_held_out(cfg, tokenizer, remarks.append)
        check_model(cfg.model, cfg.rollout, tokenizer)
        check_memory(cfg, [*problems, *held_out], tokenizer)
        verifiers = open_verifiers(cfg, [*problems, *held_out], functions)
        stack.callback(verifiers.close)
        for _ in try_functions(cfg, functions, problems):
            pass
        crew.start_servers()
        judges = None
        if cfg.asks_judge:
            section = stack.enter_context(crew.judge())
            own = open_judges(section, cfg.treatments, cfg.treatment, cfg.seed, run_dir)
            judges = stack.enter_context(own)

        folder = checkpoint.latest(run_dir)
        state = checkpoint.load_state(folder) if folder else RunState()
        first_step = record_start(run_dir, state.step)
        set_threads(cfg.train.torch_threads)
        weights = str(folder or cfg.model.path)
        is_own = engine is None
        engine, probe = _start_engine(cfg, engine, weights, state, problems, tokenizer, note, crew)
        if engine and is_own:
            stack.callback(engine.close)
        crew.look_after(engine)
        team = stack.enter_context(crew.team())
        policy = load_policy(cfg, state, folder, team)
        checkpoint.try_saving(run_dir, policy, tokenizer)
        state.base = policy.base()
        if probe:
            probe.score_by_policy(policy)
        policy.to_host()
        yield (
            Parts(
                run_dir=run_dir,
                first_step=first_step,
                problems=[p.without_reference() for p in problems],
                held_out=[p.without_reference() for p in held_out],
                references=choose_references(cfg.judge.condition, problems, cfg.seed)
                # asks_judge: it may be shown none of them, and each problem has an entry.
                if cfg.needs_references or shown_to or cfg.asks_judge
                else {},
                solutions=tokenize_solutions(problems, tokenizer, cfg.model)
                if cfg.learns_references
                else {},
                teacher_prompts=build_teacher_prompts(cfg.teacher, problems, tokenizer)
                if cfg.needs_teacher
                else {},
                tokenizer=tokenizer,
                engine=engine,
                policy=policy,
                probe=probe,
                splitter=open_splitter(cfg, tokenizer, functions),
                judges=judges,
                verifiers=verifiers,
                rubric_dropout=open_dropout(cfg.judge, cfg.seed) if judges else None,
                in_flight=checkpoint.load_in_flight(folder) if folder else {},
                remarks=remarks,
            ),
            state,
        )


def _start_engine(
    cfg: config.Config,
    engine: Engine | None,
    weights: str,
    state: RunState,
    problems: Sequence[Problem],
    tokenizer: Any,
    note: Callable[[str], object],
    crew: Crew,
) -> tuple[Engine | None, Probe | None]:
    """The engine asleep, or none where nothing is sampled, and the probe of its weights.

    Args:
        engine: one that is up already.
        weights: folder or hub id of the weights that a new engine loads.
    """
    if engine is None and not cfg.needs_engine:
        return None, None
    probe = open_probe(problems, tokenizer, cfg.model, cfg.rollout)
    if engine is None:
        if cfg.engine.kind != "servers":
            note(announce_engine(cfg.rollout, weights))
        elif cfg.engine.urls:  # of those that the run starts, its crew has told
            note(f"samples from {', '.join(cfg.engine.urls)}")
        engine = _open_engine(cfg, tokenizer, weights, crew)
        if engine.policy_version != NO_POLICY:
            engine.policy_version = state.policy_version
            probe.score_by_engine(engine)
    else:
        engine.policy_version = NO_POLICY  # what it holds is another run's
    engine.sleep()  # the policy needs the GPU while it loads
    return engine, probe


def _open_engine(cfg: config.Config, tokenizer: Any, weights: str, crew: Crew) -> Engine:
    if cfg.engine.kind == "servers":
        from exprl.rollout.fleet import Fleet

        return Fleet(
            cfg.model,
            cfg.rollout,
            cfg.engine,
            tokenizer=tokenizer,
            weights=weights,
            endpoints=crew.endpoints(),
        )
    return open_engine(
        cfg.model,
        cfg.rollout,
        tokenizer=tokenizer,
        weights=weights,
        beside=cfg.engine.kind == "child",
    )


def open_splitter(cfg: config.Config, tokenizer: Any, functions: Functions) -> Splitter:
    """What cuts rollouts into steps as the config asks.

    Raises:
        ConfigError: a step rule of the user's cannot be imported or called.
    """
    reward = cfg.reward
    return Splitter(
        tokenizer.backend_tokenizer.to_str(),
        find_rule(cfg, functions),
        delimiter=reward.delimiter,
        min_step_tokens=reward.min_step_tokens,
        max_steps=reward.max_steps,
        cut_thinking=cfg.judge.show_thinking,
    )


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
    lengths = (len(prompt_ids(tokenizer, p.prompt, cfg.model)) for p in problems)
    return fit.setup_of(
        cfg.model,
        cfg.lora,
        cfg.optim,
        cfg.rollout,
        objective=cfg.loss.objective,
        model_type=shapes.config.model_type,
        gpu=gpu,
        longest=max(lengths, default=0) + cfg.rollout.max_response_tokens,
        needs_initial=cfg.needs_initial_policy,
        # On a GPU an engine in another process has one of its own.
        needs_engine=cfg.needs_engine and (not gpu or cfg.engine.kind == "process"),
        ranks=cfg.ranks.count,
    )


def open_verifiers(
    cfg: config.Config,
    problems: Sequence[Problem],
    functions: Functions | None = None,
    tell: Callable[[str], object] = lambda line: None,
) -> Verifiers:
    """The verifiers of a run, with a sandbox where a row's program must be run.

    Each function of the user's is called once, for the first row of its domain.

    Args:
        functions: to take them from; None opens them anew.
        tell: is told what came back.

    Raises:
        ConfigError: the sandbox does not hold what sandbox.require names, or a function cannot be
            imported, or its call for that row fails.
    """
    needed = needs_sandbox(cfg.treatment, problems)
    sandbox = Sandbox(cfg.sandbox) if needed else None
    verifiers = Verifiers(cfg.treatment, sandbox, functions or Functions(cfg.functions))
    for line in try_verifiers(verifiers, problems):
        tell(line)
    return verifiers
