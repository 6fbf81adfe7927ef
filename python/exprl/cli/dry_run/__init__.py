"""`exprl train --dry-run`: everything that can fail later, tried now; the engine stays off."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.markup import escape

from exprl import config
from exprl.cli.dry_run import stalling, steps
from exprl.cli.dry_run.model import describe_model, warn_of_template
from exprl.cli.dry_run.processes import (
    describe_placement,
    describe_servers,
    unread_settings,
    warn_of_transfer,
)
from exprl.cli.dry_run.prompts import show_policy_prompt, show_prompt
from exprl.cli.dry_run.references import grade_references
from exprl.cli.dry_run.server import check_server
from exprl.data.tokenizer import load_tokenizer, prompt_ids
from exprl.errors import ConfigError, EngineError
from exprl.functions.pool import Functions
from exprl.learn import memory
from exprl.learn.memory import fit
from exprl.monitor.trackers import check_trackers
from exprl.rollout.engine import NO_VLLM
from exprl.run import recorded
from exprl.run.functions import find_shown, try_functions
from exprl.run.open import memory_setup, open_verifiers
from exprl.run.problems import load_held_out, load_training_problems
from exprl.types import Problem, ReferenceProblem
from exprl.verify.verifiers import Verifiers

REFERENCES_TRIED = 8


def report(cfg: config.Config, sample: int = 0) -> int:
    """Print what the run would do and return the exit code: 0, or raise what would stop it.

    Args:
        sample: start the engine and sample so many rollouts, to see where they are cut.

    Raises:
        ConfigError, DataError: as the run would.
        JudgeError: no judge answered, or its reply holds no grade.
    """
    console = Console()
    cfg = recorded.resolve_init_from(cfg)
    recorded.check_same_run(cfg)
    _check_run_dir(cfg)
    check_trackers(cfg.logging)
    tokenizer = load_tokenizer(cfg.model)
    remarks: list[str] = []
    functions = Functions(cfg.functions)
    shown_to = find_shown(cfg, functions)
    problems = load_training_problems(cfg, tokenizer, remarks.append, shown_to)
    held_out = load_held_out(cfg, tokenizer, remarks.append)
    rollouts = cfg.rollout.problems_per_step * cfg.rollout.group_size
    lengths = [len(prompt_ids(tokenizer, p.prompt, cfg.model)) for p in problems]
    console.print(f"[bold]{cfg.method}[/] into {cfg.run_dir}: {cfg.train.steps} steps")
    console.print(
        f"data       {_counted(problems)}, prompts of at most {max(lengths)} tokens;"
        f" {len(held_out)} held out"
    )
    named = f"exprl doctor data {cfg.data.parts[0].path} names each such row"
    for remark in [*remarks, named] if remarks else []:
        console.print(f"[yellow]rows[/]       {escape(remark)}", soft_wrap=True)
    console.print(
        f"a step     {cfg.rollout.problems_per_step} problems x {cfg.rollout.group_size} ="
        f" {rollouts} rollouts, {cfg.optim.mini_batches} optimizer step(s)"
        + (f"; up to {cfg.rollout.redraw} problems more" if cfg.rollout.redraw else "")
    )
    if cfg.rollout.ahead:
        console.print(
            f"ahead      {cfg.rollout.ahead} step(s): tokens are up to"
            f" {cfg.rollout.ahead * cfg.optim.mini_batches} optimizer steps old"
        )
    if cfg.lora.rank:
        console.print(f"lora       {_lora(cfg)}")
    for line in describe_model(cfg, tokenizer, problems[0].prompt):
        console.print(line, markup=False)
    console.print(f"computes   {_computation(cfg)}")
    show_policy_prompt(console, cfg, tokenizer, problems[0])
    _show_memory(cfg, [*problems, *held_out], tokenizer, console)
    for line in describe_placement(cfg):
        console.print(f"process    {line}", markup=False)
    for line in describe_servers(cfg):
        console.print(f"engine     {escape(line)}", soft_wrap=True)
    if cfg.asks_judge and cfg.judge.serve:
        console.print(
            f"judge      {cfg.judge.serve.model}, which the run starts itself: no grade was asked"
            " for",
            markup=False,
            soft_wrap=True,
        )
    elif cfg.asks_judge:
        _ask_judges(cfg, problems, console, functions)
    _show_noise(cfg, console)
    tried: list[str] = []
    verifiers = open_verifiers(cfg, [*problems, *held_out], functions, tried.append)
    for line in (*tried, *try_functions(cfg, functions, problems)):
        console.print(f"function   {escape(line)}", soft_wrap=True)
    for line in _check_programs(cfg, problems, verifiers):
        console.print(f"sandbox    {line}")
    if cfg.needs_engine and cfg.rollout.engine == "vllm" and not find_spec("vllm"):
        raise EngineError(NO_VLLM)
    for warning in (
        *_check_steps(cfg, problems, tokenizer, sample, console, functions),
        *warnings(cfg),
        *warn_of_template(cfg, tokenizer, problems[0].prompt),
    ):
        console.print(f"[yellow]warning[/]    {escape(warning)}", soft_wrap=True)
    verifiers.close()
    console.print("ready: nothing was trained or written")
    return 0


def _ask_judges(
    cfg: config.Config,
    problems: Sequence[ReferenceProblem],
    console: Console,
    functions: Functions,
) -> None:
    """Look at each server, and have each domain's judge grade references.

    Raises:
        JudgeError: no judge answered, or a reply holds no grade.
    """
    for endpoint in cfg.judge.endpoints:
        for label, text in check_server(endpoint, cfg):
            shown = label if label == "server" else f"[yellow]{label}[/]"
            console.print(f"{shown}{' ' * (11 - len(label))}{escape(text)}", soft_wrap=True)
    for name, treatment in cfg.treatments.items():
        own = [p for p in problems if p.domain == name]
        if treatment.judged and own:
            grades = grade_references(cfg, treatment, own, functions)
            show_prompt(console, "asked", f"{name}: {grades.about}", grades.prompt)
            console.print(f"judge      {name}: {escape(grades.found)}", soft_wrap=True)
            for warning in grades.warnings:
                text = f"[yellow]warning[/]    {name}: {escape(warning)}"
                console.print(text, soft_wrap=True)


def _show_noise(cfg: config.Config, console: Console) -> None:
    """Print what reward.noise makes of the judge's lowest and highest score."""
    for name, treatment in cfg.treatments.items():
        if treatment.judged and treatment.noise:
            noise = treatment.noise
            console.print(
                f"noise      {name}: FPR {noise.false_positive:.3f}, FNR"
                f" {noise.false_negative:.3f}: a score of 0 counts {noise.correct(0.0):+.3f}, one"
                f" of 1 {noise.correct(1.0):+.3f}",
                markup=False,
                soft_wrap=True,
            )


def _check_run_dir(cfg: config.Config) -> None:
    """The folder, or the nearest one above it that there is, must take files."""
    path = Path(cfg.run_dir).absolute()
    there = next(folder for folder in (path, *path.parents) if folder.exists())
    if not (there.is_dir() and os.access(there, os.W_OK | os.X_OK)):
        raise ConfigError(
            f"run_dir = {cfg.run_dir!r}: {there} is no folder that can be written; choose another"
            " run_dir"
        )


def _counted(problems: Sequence[Problem]) -> str:
    """How many problems, and of which domains."""
    domains = Counter(p.domain for p in problems)
    parts = ", ".join(f"{name} {count}" for name, count in domains.items())
    return f"{len(problems)} problems" + (f" ({parts})" if len(domains) > 1 else "")


def _check_programs(
    cfg: config.Config, problems: Sequence[ReferenceProblem], verifiers: Verifiers
) -> Iterator[str]:
    """What the sandbox holds, and whether the first references pass their own unit tests."""
    if verifiers.sandbox is None:
        return
    yield verifiers.sandbox.summary()
    code = [
        p
        for p in problems
        if p.answer and p.reference and cfg.treatment(p.domain).verifier == "code"
    ][:REFERENCES_TRIED]
    failed = [p.id for p in code if not verifiers.is_correct(str(p.reference), p)]
    yield f"{len(code) - len(failed)} of the first {len(code)} references pass their unit tests"
    if failed:
        yield (
            f"these do not: {', '.join(failed)}; are data.columns.setup and entry_point right, and"
            " are the references programs?"
        )


def _noise_without_effect(cfg: config.Config) -> Iterator[str]:
    """An affine map of all scores of a group is nothing to what divides by their spread."""
    for name, own in cfg.treatments.items():
        alike = own.source == "judge" and cfg.reward.overlong != "zero"
        if own.judged and own.noise and alike and own.advantage == "grpo":
            yield (
                f"reward.noise changes next to nothing in domain {name!r}: grpo divides by the"
                " spread of a group, whose scores are all corrected alike; it matters for dr_grpo,"
                " rloo, end and raw, with overlong = 'zero', and with source = 'weighted'"
            )


def _unread_of_ahead(cfg: config.Config) -> Iterator[tuple[str, str]]:
    """Settings of sampling ahead that change nothing, and why."""
    ahead, max_lag = cfg.rollout.ahead, cfg.rollout.max_lag
    lag = ahead * cfg.optim.mini_batches
    if not ahead:
        yield "rollout.in_flight", "rollout.ahead = 0"
        yield "rollout.max_lag", "rollout.ahead = 0"
    elif max_lag is not None and max_lag >= lag:
        why = f"with rollout.ahead = {ahead} no token is more than {lag} updates old"
        yield "rollout.max_lag", why


def _unread_by_judge(cfg: config.Config) -> Iterator[tuple[str, str]]:
    """Settings of the judge that change nothing, and why."""
    if cfg.asks_judge and cfg.judge.readout == "direct":
        why = 'judge.readout = "direct" asks once, for one token'
        yield "judge.max_tokens", why
        yield "judge.reask", why


def warnings(cfg: config.Config) -> Iterator[str]:
    """Settings that have no effect, or that speak against each other."""
    changed = _changed(cfg)

    def ignored(prefix: str, why: str) -> Iterator[str]:
        keys = sorted(key for key in changed if key.startswith(prefix))
        if keys:
            yield f"{', '.join(keys)} {'has' if len(keys) == 1 else 'have'} no effect: {why}"

    if not cfg.asks_judge:
        # It says which reference a function of the user's is given.
        changed -= (
            {"judge.condition"} if any(t.own_reward for t in cfg.treatments.values()) else set()
        )
        yield from ignored("judge.", f"reward.source = {cfg.reward.source!r} asks no judge")
    elif cfg.judge.kind == "rules":
        for key in ("judge.endpoints", "judge.model", "judge.api_key_", "judge.ca_file"):
            yield from ignored(key, 'judge.kind = "rules" starts a server of its own')
    else:
        yield from ignored("judge.rules", 'judge.kind = "server"')
        yield from ignored("judge.fault_", 'judge.kind = "server"')
    if cfg.advantage.kind != "delta":
        yield from ignored("advantage.single_segment", 'only advantage.kind = "delta" looks at it')
    for key, why in (*_unread_of_ahead(cfg), *_unread_by_judge(cfg), *unread_settings(cfg)):
        yield from ignored(key, why)
    yield from warn_of_transfer(cfg)
    if cfg.eval.data is None:
        yield from ignored("eval.", "eval.data is not set")
    if cfg.rollout.engine == "transformers":
        why = "it is vLLM's, and rollout.engine = 'transformers'"
        yield from ignored("rollout.gpu_memory_utilization", why)
        yield from ignored("rollout.enforce_eager", why)
        yield 'rollout.engine = "transformers" is slow; use vLLM where it is installed'
    if cfg.rollout.group_size == 1 and cfg.advantage.kind in ("grpo", "dr_grpo", "rloo"):
        yield (
            f"rollout.group_size = 1 makes every {cfg.advantage.kind} advantage 0: the policy will"
            " not move"
        )
    if cfg.judge.readout != "text" and cfg.judge.kind == "rules":
        yield (
            f"judge.readout = {cfg.judge.readout!r} changes nothing: a rule judge is certain of its"
            " grades"
        )
    yield from _noise_without_effect(cfg)
    yield from stalling.warnings(cfg)
    if cfg.reward.shuffle:
        yield "reward.shuffle = true is a control: scores are dealt at random, and mislead"
    if cfg.judge.condition != "right" and cfg.asks_judge:
        yield f"judge.condition = {cfg.judge.condition!r} is for calibration: rewards mislead"


def _changed(cfg: config.Config) -> set[str]:
    """Dotted keys whose value is neither the default nor the method's preset."""
    plain = {
        "method": cfg.method,
        "model": {"path": "-"},
        "data": {"path": "-"},
        "judge": {"kind": "rules"},
    }
    changed = set(config.differences(config.build(plain), cfg))
    default = config.Judge().kind  # which a config without endpoints may not have
    return changed - {"judge.kind"} if cfg.judge.kind == default else changed | {"judge.kind"}


def _lora(cfg: config.Config) -> str:
    """How many parameters learn, counted on a model without values; peft and targets are tried."""
    from transformers import AutoModelForCausalLM

    from exprl.learn.lora import Adapter
    from exprl.learn.model import read_config

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(
            read_config(cfg.model), trust_remote_code=cfg.model.trust_remote_code
        )
    whole = model.num_parameters()
    Adapter(model, cfg.lora, cfg.seed)
    learn = model.num_parameters(only_trainable=True)
    return f"{learn:,} parameters learn, beside {whole:,} frozen ones"


def _computation(cfg: config.Config) -> str:
    """Attention, fused kernels and recomputation, as they would be on this machine."""
    from exprl.learn.model import describe, read_config

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return describe(cfg.model, read_config(cfg.model), device)


def _show_memory(
    cfg: config.Config, problems: Sequence[Problem], tokenizer: Any, console: Console
) -> None:
    """Print what the run will need, phase by phase.

    Raises:
        ConfigError: there is a GPU, and the run will not fit it.
    """
    shapes = fit.shapes_of(cfg.model)
    console.print(f"model      {shapes.total / 1e6:,.2f} M parameters")
    sees_gpu = torch.cuda.is_available()
    for gpu in (True,) if sees_gpu else (True, False):
        setup = memory_setup(cfg, shapes, problems, tokenizer, gpu=gpu)
        where = None if gpu and not sees_gpu else fit.machine(gpu)
        prediction = memory.predict(shapes, setup, where.bytes if gpu and where else None)
        needed = prediction.peak / memory.GIB
        if where is None:
            text = f"on a GPU needs a card of {needed / fit.WARN_ABOVE:.1f} GiB"
        else:
            text = f"on {where.name} {needed:.2f} of {where.bytes / memory.GIB:.1f} GiB"
        host = f", host {prediction.host / memory.GIB:.1f} GiB" if prediction.host else ""
        console.print(f"memory     {text}{host}; the most in: {prediction.peak_phase}")
        console.print(fit.table(prediction))
        for guess in prediction.guesses:
            console.print(f"[yellow]warning[/]    {guess}")
        if where is not None:
            # The GPU may be in another machine: what does not fit this host is no error here.
            lenient = cfg.train.ignore_memory or not gpu
            warning = fit.check(shapes, setup, where, ignore=lenient)
            if warning:
                console.print(f"[yellow]warning[/]    {warning}")


def _check_steps(
    cfg: config.Config,
    problems: Sequence[Problem],
    tokenizer: Any,
    sample: int,
    console: Console,
    functions: Functions,
) -> Iterator[str]:
    """Warnings about the rule of steps, from sampled rollouts or from the prompts alone."""
    if not (sample and cfg.needs_engine):
        yield from steps.warn_of_prompts(cfg, problems)
        return
    found, warning = steps.sample_steps(cfg, problems, tokenizer, sample, functions)
    console.print(f"sampled    {escape(found)}", soft_wrap=True)
    if warning:
        yield warning
