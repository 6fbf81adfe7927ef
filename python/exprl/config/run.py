"""The config of one run: its sections, what they say together, and what they must agree on."""

from __future__ import annotations

import re
import urllib.parse
from dataclasses import replace
from typing import Self

from pydantic import Field, model_validator

from exprl.config import presets as methods
from exprl.config.data import Data, Source
from exprl.config.policy import Lora, Loss, Model, Optim, Rollout, Teacher, Train
from exprl.config.reward import VERIFIERS, Advantage, Domain, Judge, Reward, Sandbox, Treatment
from exprl.config.section import Section
from exprl.config.watch import Alarms, Evaluation, Logging


class Config(Section):
    """One run."""

    method: methods.MethodName = Field(
        "exprl-process", description="preset of settings that the run starts from"
    )
    seed: int = Field(
        0, ge=0, lt=2**31, description="the same seed gives the same problems and samples"
    )
    init_from: str | None = Field(
        None,
        description="a run folder (its last checkpoint) or a checkpoint to start from instead of"
        " model.path; the KL term compares with it too. Stage II names its Stage I here",
    )
    run_dir: str = Field(
        "runs/default", min_length=1, description="folder of the run; a run that is there goes on"
    )
    model: Model
    lora: Lora = Lora()
    data: Data
    rollout: Rollout = Rollout()
    judge: Judge = Judge()
    reward: Reward = Reward()
    domains: dict[str, Domain] = Field(
        {}, description="settings that differ for the rows of a domain, as [domains.NAME]"
    )
    advantage: Advantage = Advantage()
    sandbox: Sandbox = Sandbox()
    loss: Loss = Loss()
    teacher: Teacher = Teacher()
    optim: Optim = Optim()
    train: Train = Train()
    eval: Evaluation = Evaluation()
    alarms: Alarms = Alarms()
    logging: Logging = Logging()

    def treatment(self, domain: str) -> Treatment:
        """How the rows of a domain are rewarded."""
        run = Treatment(
            verifier=VERIFIERS.get(domain, "math"),
            source=self.reward.source,
            verifier_weight=self.reward.verifier_weight,
            view=self.judge.view,
            rubric=self.judge.rubric,
            advantage=self.advantage.kind,
        )
        own = self.domains.get(domain, Domain())
        return replace(run, **own.model_dump(exclude_none=True))

    @property
    def treatments(self) -> dict[str, Treatment]:
        """Of the domains that this config names, and of those that rows may name."""
        names = {part.domain for part in self.data.parts if part.columns.domain is None}
        if any(part.columns.domain is not None for part in self.data.parts):
            names |= {"", *self.domains}
        return {name: self.treatment(name) for name in sorted(names)}

    @property
    def asks_judge(self) -> bool:
        """Whether any grade is asked for."""
        return any(treatment.judged for treatment in self.treatments.values())

    @property
    def needs_references(self) -> bool:
        """Whether judge, loss or teacher look at the hidden solutions; else they are not read."""
        return any(map(self.looks_at_references, self.data.parts))

    def looks_at_references(self, part: Source) -> bool:
        """Whether they look at those of one dataset."""
        if self.loss.objective != "policy_gradient":
            return True
        if part.columns.domain is None:
            judged = self.treatment(part.domain).judged
        else:
            judged = self.asks_judge
        return judged and self.judge.condition != "none"

    @model_validator(mode="after")
    def _sections_agree(self) -> Self:
        _advantage_fits_reward(self)
        _judge_can_be_asked(self)
        _judge_section_holds_no_secret(self)
        _step_has_room(self)
        _objective_fits_reward(self)
        _references_are_there(self)
        _domains_fit(self)
        _answers_are_there(self)
        return self


def _advantage_fits_reward(cfg: Config) -> None:
    outcome = cfg.reward.source == "verifier" or cfg.judge.view == "outcome"
    process_kind = cfg.advantage.kind in methods.PROCESS_ADVANTAGES
    if outcome == process_kind and cfg.reward.source != "none":
        scores = "one score per rollout" if outcome else "one score per step"
        allowed = methods.kinds_for(per_segment=not outcome)
        raise ValueError(
            f"advantage.kind = {cfg.advantage.kind!r} does not fit a reward of {scores}"
            f" (reward.source = {cfg.reward.source!r}, judge.view = {cfg.judge.view!r});"
            f" use one of {', '.join(allowed)}"
        )


def _judge_can_be_asked(cfg: Config) -> None:
    if not cfg.asks_judge or cfg.judge.kind != "server":
        return
    if not cfg.judge.endpoints:
        raise ValueError(
            "judge.endpoints is empty: name at least one OpenAI-compatible server, e.g."
            ' judge.endpoints = ["http://127.0.0.1:8001/v1"], or set judge.kind ='
            ' "rules" to rehearse with the built-in rule judge'
        )
    if not cfg.judge.model:
        raise ValueError("judge.model is empty: name the model that the servers serve")


def _judge_section_holds_no_secret(cfg: Config) -> None:
    """Checked here and not in the section, whose errors would show the value."""
    if not all(map(_is_plain_url, cfg.judge.endpoints)):
        raise ValueError(
            "judge.endpoints must be http:// or https:// URLs without user, password and"
            " query; put the key into an environment variable and name it in judge.api_key_env"
        )
    if cfg.judge.api_key_env and not re.fullmatch(r"[A-Za-z_]\w*", cfg.judge.api_key_env):
        raise ValueError(
            "judge.api_key_env must be the name of an environment variable, not the key"
        )


def _is_plain_url(url: str) -> bool:
    try:
        parts = urllib.parse.urlsplit(url)
    except ValueError:
        return False
    hidden = parts.username or parts.password or parts.query
    return parts.scheme in ("http", "https") and bool(parts.hostname) and not hidden


def _step_has_room(cfg: Config) -> None:
    if (cfg.eval.max_response_tokens or 0) > cfg.rollout.max_response_tokens:
        raise ValueError(
            f"eval.max_response_tokens = {cfg.eval.max_response_tokens} exceeds"
            f" rollout.max_response_tokens = {cfg.rollout.max_response_tokens}, for which the"
            " engine makes room"
        )
    rollouts = cfg.rollout.problems_per_step * cfg.rollout.group_size
    if cfg.optim.mini_batches > rollouts:
        raise ValueError(
            f"optim.mini_batches = {cfg.optim.mini_batches} exceeds the {rollouts} rollouts of"
            " a step (rollout.problems_per_step x rollout.group_size)"
        )


def _objective_fits_reward(cfg: Config) -> None:
    rewarded = cfg.loss.objective == "policy_gradient"
    for name in ("", *cfg.domains):
        source = cfg.treatment(name).source
        if rewarded == (source == "none"):
            wanted = "'judge' or 'verifier'" if rewarded else "'none'"
            where = f"domains.{name}.source" if name else "reward.source"
            raise ValueError(
                f"loss.objective = {cfg.loss.objective!r} does not fit {where} = {source!r};"
                f" set {where} to {wanted}"
            )


def _references_are_there(cfg: Config) -> None:
    for part in cfg.data.parts:
        if part.columns.reference is None and cfg.looks_at_references(part):
            raise ValueError(
                f"this run needs reference solutions, and {part.path} has none: set"
                " data.columns.reference to the column that holds them"
            )


def _domains_fit(cfg: Config) -> None:
    for name in ("", *cfg.domains):
        treatment, where = cfg.treatment(name), f"domains.{name}: " if name else ""
        if treatment.source in ("max", "weighted") and treatment.view != "outcome":
            raise ValueError(
                f"{where}source = {treatment.source!r} joins the verifier's word with one grade"
                f" of the whole rollout, not with view = {treatment.view!r}; set view ="
                " 'outcome', and an advantage for it such as 'grpo'"
            )
        kinds = methods.kinds_for(treatment.per_segment)
        if name and treatment.source != "none" and treatment.advantage not in kinds:
            raise ValueError(
                f"domains.{name}: advantage = {treatment.advantage!r} does not fit source ="
                f" {treatment.source!r} with view = {treatment.view!r}; use one of"
                f" {', '.join(kinds)}"
            )


def _answers_are_there(cfg: Config) -> None:
    for part in cfg.data.parts:
        treatment = cfg.treatment(part.domain)
        if part.columns.domain is None and part.columns.answer is None and treatment.verified:
            raise ValueError(
                f"reward.source = {treatment.source!r} needs answers, and {part.path} has none:"
                " set data.columns.answer to the column that holds the final answer"
            )
