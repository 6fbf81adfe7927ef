"""TOML and dotted overrides, into a frozen, strict tree.

Each section belongs to the room of the same name, and a room receives its own section only.
`method` names a preset (methods.py) whose values fill in whatever the file leaves open.
Imports neither torch nor vllm.
"""

from __future__ import annotations

import difflib
import json
import re
import tomllib
import types
import urllib.parse
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self, Union, cast, get_args, get_origin

import tomli_w
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from exprl import methods
from exprl.errors import ConfigError

View = Literal["outcome", "prefix", "step"]
RewardSource = Literal["judge", "verifier", "max", "weighted", "none"]
AdvantageKind = Literal["grpo", "dr_grpo", "rloo", "reinforce", "delta", "end", "group"]
VerifierName = Literal["math", "science", "choice", "exact", "code"]
VERIFIERS: dict[str, VerifierName] = {
    "division": "exact",
    "science": "science",
    "choice": "choice",
    "code": "code",
}
"""By the name of a domain; every other one has `math`."""
Confinement = Literal[
    "network",
    "reading",
    "writing",
    "signals",
    "processes",
    "memory",
    "disk",
    "leftovers",
]
CONFINEMENTS: tuple[Confinement, ...] = get_args(Confinement)

BOXED = "boxed"
"""An answer_pattern that is no regular expression."""
Objective = Literal["policy_gradient", "cross_entropy", "reverse_kl", "sampled_reverse_kl"]
Decay = Annotated[float, Field(ge=0.0, lt=1.0)]


class Section(BaseModel):
    """Frozen, and no unknown keys. TOML has no null: "none" unsets a key that may be unset."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False
    )

    @model_validator(mode="before")
    @classmethod
    def _none_is_null(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        return {
            key: None if value == "none" and cls._may_be_none(key) else value
            for key, value in values.items()
        }

    @classmethod
    def _may_be_none(cls, key: str) -> bool:
        field = cls.model_fields.get(key)
        return field is not None and type(None) in get_args(field.annotation)


class Model(Section):
    """Which policy to train, and how it computes."""

    path: str = Field(description="folder or hub id of a Hugging Face causal language model")
    dtype: Literal["float32", "bfloat16"] = Field(
        "bfloat16", description="of forward and backward; the optimizer's master weights are fp32"
    )
    attention: Literal["auto", "flash_attention_2", "torch"] = Field(
        "auto", description="auto = flash-attn where installed and on a GPU, else torch's own"
    )
    gradient_checkpointing: bool = Field(
        False, description="recompute activations in the backward: less memory, ~30 % slower"
    )
    offload: bool = Field(
        False, description="keep the trainer in host memory while the engine samples (one GPU)"
    )
    chat_template: str | None = Field(
        None, description="Jinja file, for tokenizers that bring no chat template"
    )
    trust_remote_code: bool = Field(False, description="run Python code that the model ships")


class Columns(Section):
    """Which column of the data holds what. None = the data has no such column."""

    problem: str = Field("problem", description="text, or a list of {role, content} messages")
    reference: str | None = Field("reference", description="step-by-step solution, hidden")
    answer: str | None = Field(
        "answer", description="final answer, for the verifier; of code, its unit tests"
    )
    entry_point: str | None = Field(
        None, description="code: function that the tests' `check(candidate)` is called with"
    )
    setup: str | None = Field(
        None, description="code: what stands before the program, e.g. HumanEval's 'prompt'"
    )
    domain: str | None = Field(None, description="domain of each row; None = data.domain")
    id: str | None = Field(None, description="unique id of each row; None = the row number")


class Source(Section):
    """One dataset."""

    path: str = Field("", description="jsonl, parquet or csv file, or a hub id of a dataset")
    split: str = Field("train", description="split of a hub dataset")
    subset: str | None = Field(
        None, description="configuration of a hub dataset, e.g. 'main' of openai/gsm8k"
    )
    columns: Columns = Columns()
    domain: str = Field("math", description="rubric and verifier of rows without a domain column")
    system: str | None = Field(None, description="system message before every problem")
    template: str = Field("{problem}", description="user message; {problem} is the row's text")
    answer_pattern: str | None = Field(
        None,
        description=r"its first group is the answer in the column, e.g. '####\s*(.+)' (GSM8K);"
        r" 'boxed' takes what the last \boxed{} holds",
    )
    limit: int | None = Field(None, gt=0, description="take the first n problems only")

    @field_validator("template")
    @classmethod
    def _has_the_problem(cls, template: str) -> str:
        if "{problem}" not in template:
            raise ValueError("the template must contain {problem}, the place of the row's text")
        return template

    @field_validator("answer_pattern")
    @classmethod
    def _has_a_group(cls, pattern: str | None) -> str | None:
        if pattern == BOXED:
            return pattern
        try:
            groups = None if pattern is None else re.compile(pattern).groups
        except re.error as error:
            raise ValueError(f"not a regular expression: {error}") from None
        if groups == 0:
            raise ValueError(r"put the answer in parentheses, e.g. '####\s*(.+)'")
        return pattern


class MixedSource(Source):
    """One of several datasets. What it leaves open is as in [data] itself."""

    weight: float = Field(
        1.0, gt=0.0, description="share of a step's problems, relative to the other sources"
    )


class Data(Source):
    """Where the problems come from: one dataset, or several with weights."""

    sources: tuple[MixedSource, ...] = Field(
        (), description="[[data.sources]], instead of data.path"
    )

    @model_validator(mode="before")
    @classmethod
    def _sources_inherit(cls, values: Any) -> Any:
        sources = values.get("sources") if isinstance(values, dict) else None
        if not isinstance(sources, list | tuple) or not all(isinstance(x, dict) for x in sources):
            return values
        shared = {k: v for k, v in values.items() if k not in ("sources", "path")}
        return values | {"sources": [_merged(shared, source) for source in sources]}

    @model_validator(mode="after")
    def _is_one_or_several(self) -> Self:
        if bool(self.path) == bool(self.sources):
            raise ValueError(
                "name one dataset with path, or several with [[data.sources]], and not both"
            )
        for number, source in enumerate(self.sources, 1):
            if not source.path:
                raise ValueError(f"path of source {number} is missing")
        return self

    @property
    def parts(self) -> tuple[MixedSource, ...]:
        """The datasets: `sources`, or this one with weight 1."""
        own = self.model_dump(exclude={"sources"})
        return self.sources or (MixedSource.model_validate(own),)


class Rollout(Section):
    """How the policy samples."""

    problems_per_step: int = Field(36, gt=0, description="prompts of one training step")
    group_size: int = Field(16, gt=0, description="rollouts per problem")
    temperature: float = Field(0.8, gt=0.0, description="log-probs are taken at it too")
    max_prompt_tokens: int = Field(4096, gt=0, description="longer problems are left out, counted")
    max_response_tokens: int = Field(16384, gt=0, description="past it a rollout is overlong")
    gpu_memory_utilization: float = Field(
        0.85, gt=0.0, le=1.0, description="share of the GPU for the engine while it samples"
    )
    max_num_seqs: int = Field(256, gt=0, description="sequences that the engine runs at once")
    enforce_eager: bool = Field(False, description="skip CUDA graphs and torch.compile")
    sync_gap_limit: float = Field(
        0.05,
        gt=0.0,
        description="largest mean |engine - trainer log-prob| per token, in nats; above it the run"
        " stops, because the weights did not arrive",
    )


class Judge(Section):
    """Who grades, what it sees, and what happens when it fails."""

    kind: Literal["server", "rules"] = Field(
        "server", description="OpenAI-compatible servers, or the built-in rule judge (rehearsals)"
    )
    endpoints: tuple[str, ...] = Field((), description="base URLs, e.g. http://127.0.0.1:8001/v1")
    model: str = Field("", description="model name to ask the servers for")
    api_key_env: str | None = Field(None, description="environment variable that holds the key")
    rules: Literal["division", "numbers"] = Field("numbers", description="for kind = rules")
    rubric: str | None = Field(None, description="TOML file of a rubric; None = built in")
    rubrics: str | None = Field(
        None,
        description="JSONL file of per-problem rubrics, as `exprl rubric build` writes it; None ="
        " the judge takes checkpoints out of the reference itself",
    )
    view: View = Field(
        "prefix", description="the whole trace once, every prefix of steps, or each step alone"
    )
    readout: Literal["text", "expected"] = Field(
        "text", description="the reply's `Score: n`, or the mean under the score token's log-probs"
    )
    score_map: Literal["linear", "binary", "extremes", "extremes_soft"] = "linear"
    condition: Literal["right", "none", "wrong"] = Field(
        "right", description="show the right reference, none, or another problem's (calibration)"
    )
    temperature: float = Field(0.0, ge=0.0)
    max_tokens: int = Field(2048, gt=0)
    concurrency: int = Field(64, gt=0, description="requests in flight per server")
    rpm: int | None = Field(None, gt=0, description="requests per minute over all servers, at most")
    tpm: int | None = Field(None, gt=0, description="tokens per minute over all servers, at most")
    attempts: int = Field(4, gt=0, description="tries of one request, over all servers")
    deadline_s: float = Field(1800.0, gt=0.0, description="for all grades of one step")
    max_missing_rate: float = Field(
        0.3, ge=0.0, le=1.0, description="share of ungraded rollouts of a step that stops the run"
    )
    ledger: str | None = Field(None, description="folder of the ledger; None = RUN/ledger")
    fault_no_grade_rate: float = Field(
        0.0, ge=0.0, le=1.0, description="kind = rules: share of requests that never get a grade"
    )
    fault_random_rate: float = Field(
        0.0, ge=0.0, le=1.0, description="kind = rules: share of requests graded at random"
    )

    @model_validator(mode="after")
    def _rubrics_belong_to_their_references(self) -> Self:
        if self.rubrics and self.condition == "wrong":
            raise ValueError(
                "rubrics are written from the right references; leave them out with condition ="
                " 'wrong'"
            )
        return self


class Reward(Section):
    """From grades to scores."""

    source: RewardSource = Field(
        "judge",
        description="the judge's grades, 0/1 by the verifier (sparse reward), the larger of the"
        " two, their mean weighted by verifier_weight, or none (SFT and self-distillation)",
    )
    verifier_weight: float = Field(
        0.5, ge=0.0, le=1.0, description="of source = 'weighted'; the judge has the rest"
    )
    overlong: Literal["zero", "mask", "none"] = Field(
        "zero", description="a rollout cut by length: scores 0, out of the loss, or judged as it is"
    )
    delimiter: str = Field("###", min_length=1, description="starts a step")


class Advantage(Section):
    """From scores to advantages (method.md, Advantages)."""

    kind: AdvantageKind = "delta"
    single_segment: Literal["zero", "score", "group"] = Field(
        "zero", description="what `delta` gives a rollout of one segment"
    )
    compat: Literal["published"] | None = Field(
        None, description="reproduce the published code where it deviates from the paper"
    )


class Sandbox(Section):
    """What a program that the policy wrote may use, and what it must be kept from."""

    timeout_s: float = Field(10.0, gt=0.0, description="wall clock of a program with its tests")
    cpu_s: int = Field(5, gt=0, description="CPU seconds of each of its processes")
    memory_mb: int = Field(1024, ge=64, description="of one process, and of all together")
    disk_mb: int = Field(32, gt=0, description="of the files that it writes, gone afterwards")
    processes: int = Field(16, gt=0, description="processes and threads at a time")
    open_files: int = Field(64, ge=16)
    output_kb: int = Field(256, gt=0, description="of each output stream; more stops it")
    workers: int | None = Field(None, gt=0, description="programs at a time; None = one per core")
    python: str | None = Field(
        None, description="interpreter with the packages that programs may import; None = none"
    )
    require: tuple[Confinement, ...] = Field(
        CONFINEMENTS,
        description="what must hold, or a run with code does not start (exprl doctor shows it)",
    )


class Domain(Section):
    """What is different in one domain; a key left out is as in the run's own sections."""

    verifier: VerifierName | None = Field(
        None,
        description="how answers are compared; None = as the domain's name says (docs/domains.md)",
    )
    source: RewardSource | None = Field(None, description="reward.source there")
    verifier_weight: float | None = Field(None, ge=0.0, le=1.0)
    view: View | None = Field(None, description="judge.view there")
    rubric: str | None = Field(None, description="judge.rubric there")
    advantage: AdvantageKind | None = Field(None, description="advantage.kind there")


@dataclass(frozen=True, slots=True)
class Treatment:
    """How the rows of one domain are rewarded: the run's sections with the domain's laid over."""

    verifier: VerifierName
    source: RewardSource
    verifier_weight: float
    view: View
    rubric: str | None
    advantage: AdvantageKind

    @property
    def judged(self) -> bool:
        """Whether the judge is asked."""
        return self.source not in ("verifier", "none")

    @property
    def verified(self) -> bool:
        """Whether the reward needs the verifier."""
        return self.source not in ("judge", "none")

    @property
    def per_segment(self) -> bool:
        """Whether every step gets a score of its own, or the rollout one."""
        return self.source == "judge" and self.view != "outcome"


class Teacher(Section):
    """The teacher of self-distillation: the frozen initial policy, shown the reference."""

    prompt: str = Field(
        "{problem}\n\nA correct solution, which you alone can see:\n{reference}\n\n"
        "Now solve the problem yourself, step by step.",
        description="its user message; {problem} is the policy's own, {reference} the hidden"
        " solution",
    )

    @field_validator("prompt")
    @classmethod
    def _has_both(cls, prompt: str) -> str:
        missing = [place for place in ("{problem}", "{reference}") if place not in prompt]
        if missing:
            raise ValueError(f"the teacher's prompt must contain {' and '.join(missing)}")
        return prompt


class Loss(Section):
    """The token-level objective (method.md, Objective)."""

    objective: Objective = Field(
        "policy_gradient",
        description="advantages of rewards; cross-entropy on the references (SFT); or"
        " self-distillation from the teacher, over the whole vocabulary or the sampled tokens",
    )
    clip_low: float | None = Field(0.2, gt=0.0, lt=1.0, description="null = REINFORCE, no clip")
    clip_high: float | None = Field(0.26, gt=0.0)
    kl_coef: float = Field(0.001, ge=0.0, description="of the k3 estimator to the initial policy")
    entropy_coef: float = Field(0.0, description="of the entropy bonus")
    importance_cap: float | None = Field(
        None, gt=0.0, description="cap c of the truncated weight min(trainer/engine prob, c)"
    )
    aggregation: Literal["token_mean", "sequence_mean", "sequence_sum"] = "token_mean"

    @model_validator(mode="after")
    def _clip_pair(self) -> Self:
        if (self.clip_low is None) != (self.clip_high is None):
            raise ValueError(
                "clip_low and clip_high go together: set both, or both to 'none' for REINFORCE"
            )
        if self.kl_coef > 0 and self.objective in ("cross_entropy", "reverse_kl"):
            raise ValueError(
                f"kl_coef = {self.kl_coef} has no place in the {self.objective} objective; set it"
                " to 0"
            )
        return self


class Optim(Section):
    """AdamW, and how a step's rollouts are cut into optimizer steps and micro-batches."""

    lr: float = Field(1e-6, gt=0.0)
    warmup_steps: int = Field(0, ge=0, description="optimizer steps of linear warm-up")
    betas: tuple[Decay, Decay] = (0.9, 0.999)
    eps: float = Field(1e-8, gt=0.0)
    weight_decay: float = Field(0.0, ge=0.0)
    max_grad_norm: float = Field(1.0, gt=0.0)
    mini_batches: int = Field(1, gt=0, description="optimizer steps per training step")
    micro_batch_tokens: int = Field(
        32768, gt=0, description="tokens of one forward and backward; longer rollouts go alone"
    )


class Train(Section):
    """The loop."""

    steps: int = Field(230, gt=0)
    checkpoint_every: int = Field(10, gt=0, description="steps; the last step is always saved")
    keep_checkpoints: int = Field(2, gt=0, description="older ones are deleted")
    max_bad_steps: int = Field(
        3, gt=0, description="non-finite optimizer steps in a row that stop the run"
    )
    torch_threads: int | None = Field(
        None, gt=0, description="CPU threads of torch; 1 is fastest for models of a few MB"
    )


class Evaluation(Section):
    """pass@k on held-out problems, before and after training."""

    data: Data | None = Field(None, description="problems with answers; None = no evaluation")
    samples: int = Field(16, gt=0, description="n, rollouts per problem")
    temperature: float = Field(1.0, gt=0.0)
    max_response_tokens: int | None = Field(
        None, gt=0, description="None = rollout.max_response_tokens"
    )
    every: int | None = Field(None, gt=0, description="training steps between evaluations")


class Alarms(Section):
    """Limits past which a run warns (exprl.alarms). "none" switches an alarm off."""

    window: int = Field(20, gt=1, description="steps of a mean, where a trend is looked at")
    repeat_after: int = Field(20, gt=0, description="steps without it that end an alarm's episode")
    score_rise: float | None = Field(
        0.1, gt=0.0, description="rise of the mean score that should show in right answers, too"
    )
    accuracy_rise: float = Field(
        0.02, description="rise of the share of right rollouts that counts as showing"
    )
    single_rate: float | None = Field(
        0.5, ge=0.0, le=1.0, description="share of rollouts of one step, where these learn nothing"
    )
    delimiter_factor: float | None = Field(
        3.0, gt=1.0, description="steps per token, against the start of the run"
    )
    reference_overlap: float | None = Field(
        0.4, ge=0.0, le=1.0, description="mean share of a reference's 8-word runs in a rollout"
    )
    injection_rate: float | None = Field(
        0.01, ge=0.0, le=1.0, description="share of rollouts with words to the judge (exprl.signs)"
    )
    missing_rate: float | None = Field(
        0.05, ge=0.0, le=1.0, description="share of rollouts without a grade"
    )
    logp_gap: float | None = Field(
        0.02, gt=0.0, description="mean |engine - trainer log-prob| per token, in nats"
    )


class Logging(Section):
    """Where metrics go beside RUN/metrics.jsonl."""

    tensorboard: bool = False
    wandb_project: str | None = None
    trackio_project: str | None = None
    save_rollouts: bool = Field(True, description="RUN/rollouts/step-NNNNN.parquet")


class Config(Section):
    """One run."""

    method: methods.MethodName = Field("exprl-process", description="preset (exprl.methods)")
    seed: int = Field(0, ge=0, lt=2**31)
    init_from: str | None = Field(
        None,
        description="start from this run's last checkpoint (a run folder), or from a checkpoint,"
        " instead of model.path, and keep the KL to it; Stage II names its Stage I here",
    )
    run_dir: str = Field("runs/default", description="the run's folder; an existing run resumes")
    model: Model
    data: Data
    rollout: Rollout = Rollout()
    judge: Judge = Judge()
    reward: Reward = Reward()
    domains: dict[str, Domain] = Field(
        {}, description="[domains.NAME]: what is different for the rows of a domain"
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

    @model_validator(mode="after")
    def _agrees(self) -> Self:
        outcome = self.reward.source == "verifier" or self.judge.view == "outcome"
        process_kind = self.advantage.kind in methods.PROCESS_ADVANTAGES
        if outcome == process_kind and self.reward.source != "none":
            scores = "one score per rollout" if outcome else "one score per step"
            allowed = methods.OUTCOME_ADVANTAGES if outcome else methods.PROCESS_ADVANTAGES
            raise ValueError(
                f"advantage.kind = {self.advantage.kind!r} does not fit a reward of {scores}"
                f" (reward.source = {self.reward.source!r}, judge.view = {self.judge.view!r});"
                f" use one of {', '.join(allowed)}"
            )
        if self.asks_judge and self.judge.kind == "server":
            if not self.judge.endpoints:
                raise ValueError(
                    "judge.endpoints is empty: name at least one OpenAI-compatible server, e.g."
                    ' judge.endpoints = ["http://127.0.0.1:8001/v1"], or set judge.kind ='
                    ' "rules" to rehearse with the built-in rule judge'
                )
            if not self.judge.model:
                raise ValueError("judge.model is empty: name the model that the servers serve")
        if any(not _is_plain_url(url) for url in self.judge.endpoints):
            raise ValueError(  # without the value, which may hold a secret
                "judge.endpoints must be http:// or https:// URLs without user, password and"
                " query; put the key into an environment variable and name it in judge.api_key_env"
            )
        if self.judge.api_key_env and not re.fullmatch(r"[A-Za-z_]\w*", self.judge.api_key_env):
            raise ValueError(
                "judge.api_key_env must be the name of an environment variable, not the key"
            )
        if (self.eval.max_response_tokens or 0) > self.rollout.max_response_tokens:
            raise ValueError(
                f"eval.max_response_tokens = {self.eval.max_response_tokens} exceeds"
                f" rollout.max_response_tokens = {self.rollout.max_response_tokens}, for which the"
                " engine makes room"
            )
        rollouts = self.rollout.problems_per_step * self.rollout.group_size
        if self.optim.mini_batches > rollouts:
            raise ValueError(
                f"optim.mini_batches = {self.optim.mini_batches} exceeds the {rollouts} rollouts of"
                " a step (rollout.problems_per_step x rollout.group_size)"
            )
        return self

    @model_validator(mode="after")
    def _objective_fits(self) -> Self:
        rewarded = self.loss.objective == "policy_gradient"
        for name in ("", *self.domains):
            source = self.treatment(name).source
            if rewarded == (source == "none"):
                wanted = "'judge' or 'verifier'" if rewarded else "'none'"
                where = f"domains.{name}.source" if name else "reward.source"
                raise ValueError(
                    f"loss.objective = {self.loss.objective!r} does not fit {where} = {source!r};"
                    f" set {where} to {wanted}"
                )
        for part in self.data.parts:
            if part.columns.reference is None and self._looks_at_references(part):
                raise ValueError(
                    f"this run needs reference solutions, and {part.path} has none: set"
                    " data.columns.reference to the column that holds them"
                )
        return self

    @model_validator(mode="after")
    def _domains_agree(self) -> Self:
        for name in ("", *self.domains):
            treatment, where = self.treatment(name), f"domains.{name}: " if name else ""
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
        for part in self.data.parts:
            treatment = self.treatment(part.domain)
            if part.columns.domain is None and part.columns.answer is None and treatment.verified:
                raise ValueError(
                    f"reward.source = {treatment.source!r} needs answers, and {part.path} has none:"
                    " set data.columns.answer to the column that holds the final answer"
                )
        return self

    def treatment(self, domain: str) -> Treatment:
        """How the rows of a domain are rewarded."""
        own = self.domains.get(domain, Domain())

        def chosen(name: str, default: Any) -> Any:
            value = getattr(own, name)
            return default if value is None else value

        return Treatment(
            verifier=chosen("verifier", VERIFIERS.get(domain, "math")),
            source=chosen("source", self.reward.source),
            verifier_weight=chosen("verifier_weight", self.reward.verifier_weight),
            view=chosen("view", self.judge.view),
            rubric=chosen("rubric", self.judge.rubric),
            advantage=chosen("advantage", self.advantage.kind),
        )

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
        return any(map(self._looks_at_references, self.data.parts))

    def _looks_at_references(self, part: Source) -> bool:
        if self.loss.objective != "policy_gradient":
            return True
        if part.columns.domain is None:
            judged = self.treatment(part.domain).judged
        else:
            judged = self.asks_judge
        return judged and self.judge.condition != "none"


def load(path: str | Path, overrides: Sequence[str] = ()) -> Config:
    """Read a TOML file and dotted overrides (`optim.lr=3e-4`) into a Config.

    Relative paths in the file (model.path, data.path, ...) are taken from the working directory.

    Raises:
        ConfigError: with file, key, value and what is allowed, in one message.
    """
    path = Path(path)
    try:
        tree = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such config file; see configs/ for examples") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not valid TOML: {error}") from None
    return build(overridden(tree, overrides), source=str(path))


def overridden(tree: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """The tree with dotted overrides laid into it.

    Raises:
        ConfigError: an override is not of the form section.key=value.
    """
    for override in overrides:
        _override(tree, override)
    return tree


def build(tree: dict[str, Any], source: str = "config") -> Config:
    """Lay a tree of plain values over its method's preset and validate the result."""
    name = tree.get("method", Config.model_fields["method"].default)
    preset = methods.PRESETS.get(name, {}) if isinstance(name, str) else {}
    try:
        return Config.model_validate(_merged(preset, tree))
    except ValidationError as error:
        raise ConfigError(_explain(error, source)) from None


def to_toml(config: Config) -> str:
    """The resolved config as TOML that `load` reads back to the same Config: RUN/config.toml."""
    return tomli_w.dumps(_without_none(config.model_dump(mode="json")))


def flat(config: Config) -> dict[str, Any]:
    """Dotted key to value, for comparing two configs."""

    def walk(tree: dict[str, Any], above: str) -> Iterator[tuple[str, Any]]:
        for key, value in tree.items():
            if isinstance(value, dict):
                yield from walk(value, f"{above}{key}.")
            else:
                yield f"{above}{key}", value

    return dict(walk(config.model_dump(mode="json"), ""))


def json_schema() -> str:
    """JSON schema of the config, for editors and for `exprl config schema`."""
    return json.dumps(Config.model_json_schema(), indent=2)


def _override(tree: Any, override: str) -> None:
    key, sign, text = override.partition("=")
    if not sign or not key.strip():
        raise ConfigError(f"override {override!r} is not of the form section.key=value")
    *sections, leaf = key.strip().split(".")
    for section in sections:
        below = tree.setdefault(section, {}) if isinstance(tree, dict) else _item(tree, section)
        if not isinstance(below, dict | list):
            raise ConfigError(f"override {override!r}: {section!r} is a value, not a section")
        tree = below
    if not isinstance(tree, dict):
        raise ConfigError(
            f"override {override!r}: {sections[-1]!r} is a list; name one of its sections by its"
            f" number, 0..{len(tree) - 1}"
        )
    try:
        tree[leaf] = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        tree[leaf] = text  # a bare word is a string


def _item(sections: list[Any], number: str) -> Any:
    return sections[int(number)] if number.isdigit() and int(number) < len(sections) else None


def _merged(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """`over` laid upon `base`, section by section."""
    result = dict(base)
    for key, value in over.items():
        if isinstance(value, dict):
            below = result.get(key)
            result[key] = _merged(below if isinstance(below, dict) else {}, value)
        else:
            result[key] = value
    return result


def _without_none(value: Any) -> Any:
    """The inverse of `Section._none_is_null`."""
    if isinstance(value, dict):
        return {key: _without_none(below) for key, below in value.items()}
    if isinstance(value, list):
        return [_without_none(below) for below in value]
    return "none" if value is None else value


def _explain(error: ValidationError, source: str) -> str:
    lines = []
    for problem in error.errors(include_url=False):
        key = ".".join(str(part) for part in problem["loc"])
        if problem["type"] == "extra_forbidden":
            lines.append(f"{source}: {_unknown(problem['loc'])}")
        elif problem["type"] == "missing":
            lines.append(f"{source}: {key} is required")
        else:
            message = problem["msg"].removeprefix("Value error, ")
            where = f"{key} = {problem['input']!r}: " if key else ""
            lines.append(f"{source}: {where}{message}")
    return "\n".join(lines)


def _unknown(loc: Iterable[int | str]) -> str:
    *above, leaf = [str(part) for part in loc]
    section: type[BaseModel] = Config
    for part in above:
        if part in section.model_fields:  # else the number of a list's item, or a domain's name
            section = _section_type(section.model_fields[part].annotation)
    known = list(section.model_fields)
    close = difflib.get_close_matches(leaf, known, n=1, cutoff=0.5)
    meant = f"did you mean {'.'.join([*above, *close])}?"
    hint = meant if close else f"known: {', '.join(known)}"
    return f"unknown key {'.'.join([*above, leaf])}; {hint}"


def _section_type(annotation: Any) -> type[BaseModel]:
    if get_origin(annotation) in (tuple, dict):
        annotation = next(a for a in reversed(get_args(annotation)) if a is not Ellipsis)
    if get_origin(annotation) in (Union, types.UnionType):
        annotation = next(a for a in get_args(annotation) if a is not type(None))
    assert issubclass(annotation, BaseModel)
    return cast(type[BaseModel], annotation)


def _is_plain_url(url: str) -> bool:
    try:
        parts = urllib.parse.urlsplit(url)
    except ValueError:
        return False
    hidden = parts.username or parts.password or parts.query
    return parts.scheme in ("http", "https") and bool(parts.hostname) and not hidden
