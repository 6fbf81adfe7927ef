"""The config of one run: its sections, what they say together, and what they must agree on."""

from __future__ import annotations

from dataclasses import replace
from typing import Self

from pydantic import Field, field_validator, model_validator

from exprl.config import agreement, presets
from exprl.config.data import Data, Source
from exprl.config.functions import FunctionName, Functions
from exprl.config.policy import Lora, Loss, Model, Optim, Rollout, Teacher, Train
from exprl.config.reward import VERIFIERS, Advantage, Domain, Judge, Reward, Sandbox, Treatment
from exprl.config.scale import Cluster, Engine, Ranks
from exprl.config.section import Section, expand_home
from exprl.config.watch import Alarms, Evaluation, Logging


class Config(Section):
    """One run."""

    method: presets.MethodName = Field(
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
    engine: Engine = Engine()
    ranks: Ranks = Ranks()
    cluster: Cluster = Cluster()
    judge: Judge = Judge()
    reward: Reward = Reward()
    domains: dict[str, Domain] = Field(
        {}, description="settings that differ for the rows of a domain, as [domains.NAME]"
    )
    advantage: Advantage = Advantage()
    sandbox: Sandbox = Sandbox()
    functions: Functions = Functions()
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
            last=self.advantage.last,
            compat=self.advantage.compat,
            verify=self.reward.verify,
            noise=self.reward.noise,
        )
        own = self.domains.get(domain, Domain())
        named = {name: getattr(own, name) for name in Domain.model_fields}
        return replace(run, **{key: value for key, value in named.items() if value is not None})

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
    def own_rewards(self) -> list[FunctionName]:
        """Functions of the user's that give scores."""
        names = (treatment.own_reward for treatment in self.treatments.values())
        return list(dict.fromkeys(name for name in names if name))

    @property
    def needs_references(self) -> bool:
        """Whether judge, loss or teacher look at the hidden solutions; else they are not read.

        A reward of the user's that asks for them is another reason (run/functions.py).
        """
        return any(map(self.looks_at_references, self.data.parts))

    def looks_at_references(self, part: Source) -> bool:
        """Whether they look at those of one dataset."""
        if self.loss.objective != "policy_gradient" or self.needs_teacher:
            return True
        if part.columns.domain is None:
            judged = self.treatment(part.domain).judged
        else:
            judged = self.asks_judge
        return judged and self.judge.condition != "none"

    @property
    def learns_references(self) -> bool:
        """Whether the references themselves are learned (SFT)."""
        return self.loss.objective == "cross_entropy"

    @property
    def distills(self) -> bool:
        """Whether the frozen initial policy is the teacher (self-distillation)."""
        return self.loss.objective in ("reverse_kl", "sampled_reverse_kl")

    @property
    def needs_teacher(self) -> bool:
        """Whether a teacher reads the references: in self-distillation and RLSD."""
        return self.distills or self.loss.teacher_weight > 0

    @property
    def needs_initial_policy(self) -> bool:
        """Whether a frozen copy of the initial policy is kept: for the KL term, or as teacher."""
        return self.loss.kl_coef > 0 or self.distills

    @property
    def needs_engine(self) -> bool:
        """Whether anything is sampled."""
        return not self.learns_references or self.eval.data is not None

    _expand_home = field_validator("init_from", "run_dir")(expand_home)

    @model_validator(mode="after")
    def _sections_agree(self) -> Self:
        agreement.check(self)
        return self
