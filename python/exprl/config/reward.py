"""From rollouts to advantages: judge, verifier and reward, and how each domain is treated."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import (
    Field,
    PlainValidator,
    ValidationInfo,
    WithJsonSchema,
    field_validator,
    model_validator,
)
from pydantic.dataclasses import dataclass as pydantic_dataclass

from exprl.advantage import (
    STD_FLOOR,
    AdvantageKind,
    Compat,
    Missing,
    ProcessKind,
    SingleSegment,
)
from exprl.config.functions import FunctionName, read_name_or_function
from exprl.config.noise import JudgeNoise, Noise
from exprl.config.scale import JudgeServe
from exprl.config.section import STRICT, Section, expand_home, read_none, refuse_truths
from exprl.errors import ConfigError
from exprl.judge.settings import JudgeSettings, View, setting
from exprl.steps import StepRule

RewardSource = Literal["judge", "verifier", "max", "weighted", "none"]
VerifierName = Literal["math", "science", "choice", "exact", "code"]
Verify = Literal["strict", "lenient"]
VERIFIERS: dict[str, VerifierName] = {name: name for name in get_args(VerifierName)}
"""By the name of a domain; every other one has `math`."""
Verifier = Annotated[
    VerifierName | FunctionName,
    PlainValidator(read_name_or_function(get_args(VerifierName))),
    WithJsonSchema({"type": "string"}),
]
"""A built-in one, or a function of the user's."""


def read_verifier(option: str, value: str) -> VerifierName | FunctionName:
    """The verifier that an option names.

    Raises:
        ConfigError: it names none; says what may stand there.
    """
    try:
        read: VerifierName | FunctionName = read_name_or_function(get_args(VerifierName))(value)
    except ValueError as error:
        raise ConfigError(f"{option} = {value!r}: {error}") from None
    return read


Source = Annotated[
    RewardSource | FunctionName,
    PlainValidator(read_name_or_function(get_args(RewardSource))),
    WithJsonSchema({"type": "string"}),
]
Steps = Annotated[
    StepRule | FunctionName,
    PlainValidator(read_name_or_function(get_args(StepRule))),
    WithJsonSchema({"type": "string"}),
]
Condition = Literal["right", "none", "wrong"]
"""Which reference the judge is shown: the problem's, none, or another problem's."""
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
LastScore = Literal["judge", "verifier"]
"""Who gives the score of the last step."""
CONFINEMENTS: tuple[Confinement, ...] = get_args(Confinement)


@pydantic_dataclass(frozen=True, config=STRICT)
class Judge(JudgeSettings):
    """Who grades, what it sees, and what happens when it fails.

    Every setting of the judge, and what a run needs beside them.
    """

    kind: Literal["server", "rules"] = setting(
        "server", "OpenAI-compatible servers, or the built-in rule judge (rehearsals)"
    )
    rules: Literal["division", "numbers"] = setting(
        "numbers", "the rule by which the judge of kind = 'rules' grades"
    )
    condition: Condition = setting(
        "right", "show the right reference, none, or another problem's (calibration)"
    )
    max_missing_rate: float = setting(
        0.3,
        "share of a step's rollouts that may be out because a grade is missing (reward.missing);"
        " the run stops above it",
        ge=0.0,
        le=1.0,
        may_change=True,
    )
    fault_no_grade_rate: float = setting(
        0.0, "kind = rules: share of requests that never get a grade", ge=0.0, le=1.0
    )
    fault_random_rate: float = setting(
        0.0, "kind = rules: share of requests graded at random", ge=0.0, le=1.0
    )

    rubric_dropout: float = setting(
        0.0,
        "with judge.rubrics: probability that a checkpoint of a problem's rubric is left out in a"
        " training step, anew in each step and alike for all rollouts of a problem; one always"
        " stays",
        ge=0.0,
        lt=1.0,
    )

    serve: JudgeServe | None = setting(
        None, "servers of the judge that the run starts itself", may_change=True
    )

    def __post_init__(self) -> None:
        """Leave it to the config to refuse a URL that holds a password: it names the key."""

    @model_validator(mode="before")
    @classmethod
    def _read_none(cls, values: Any) -> Any:
        """What is "none" is unset, and the model's name that of the model that is served."""
        values = read_none(cls, values)
        serve = values.get("serve") if isinstance(values, dict) else None
        if isinstance(serve, dict) and serve.get("model") and not values.get("model"):
            return {**values, "model": serve["model"]}
        return values

    _expand_home = field_validator("rubric", "rubrics", "ledger", "api_key_file", "ca_file")(
        expand_home
    )

    @field_validator("*", mode="before")
    @classmethod
    def _refuse_truths(cls, value: Any, info: ValidationInfo) -> Any:
        return refuse_truths(cls, value, info)

    @model_validator(mode="after")
    def _rubrics_belong_to_their_references(self) -> Self:
        if self.rubrics and self.condition == "wrong":
            raise ValueError(
                "rubrics are written from the right references; leave them out with condition ="
                " 'wrong'"
            )
        if self.rubric_dropout and not self.rubrics:
            raise ValueError(
                f"rubric_dropout = {self.rubric_dropout} leaves out checkpoints of judge.rubrics,"
                " which is not set: write them with `exprl rubric build`, or leave it out"
            )
        return self


class Reward(Section):
    """From grades to scores."""

    source: Source = Field(
        "judge",
        description="where scores come from: the judge's grades; the verifier's 0 or 1 (sparse"
        " reward); the larger of both; their weighted mean; none (SFT and self-distillation); or a"
        " function of your own, such as mypkg.rewards:score",
    )
    verifier_weight: float = Field(
        0.5, ge=0.0, le=1.0, description="weight of the verifier with source = 'weighted'"
    )
    overlong: Literal["zero", "mask", "none"] = Field(
        "zero",
        description="a rollout cut by length scores 0, is masked out of the loss, or is judged as"
        " it is (none)",
    )
    steps: Steps = Field(
        "delimiter",
        description="where a rollout is cut into steps: at reward.delimiter; at a heading (### at"
        " the start of a line, outside code fences); after the blank lines of a paragraph; after"
        " every line; or as a function of your own says, such as mypkg.rewards:cut. Choose the one"
        " that the prompt asks for, or that the model writes anyway",
    )
    delimiter: str = Field(
        "###", min_length=1, description="text that starts a step with steps = 'delimiter'"
    )
    min_step_tokens: int = Field(
        1, gt=0, description="a step of fewer tokens is joined to the next one"
    )
    max_steps: int | None = Field(
        None,
        gt=0,
        description="join neighbouring steps so that at most so many are left, which bounds what"
        " judging costs; none = all",
    )
    missing: Missing = Field(
        "bridge",
        description="a step that got no grade is joined to the next graded one (bridge), or takes"
        " its rollout out (drop); a missing last grade takes it out either way. Rewards of one"
        " score per rollout do not read this",
    )
    verify: Verify = Field(
        "strict",
        description="which final answers the verifier accepts: only those that a rollout marks, in"
        " \\boxed{}, after #### or by a sentence such as `The answer is 5.` (strict); or also one"
        " that is found near its end, for base models (lenient)",
    )
    shuffle: bool = Field(
        False,
        description="control of an experiment: deal the scores of a problem's rollouts anew at"
        " random among them and their steps, so that they say nothing about the text. What a run"
        " gains even so, it does not owe to the grades; `exprl prove` trains such an arm",
    )
    noise: JudgeNoise | None = Field(
        None,
        description="correct the judge's scores for how often it is wrong: (score - FPR) / (1 - FPR"
        " - FNR), arXiv 2510.18924. The rates, as { false_positive = 0.1, false_negative = 0.2 },"
        " or the calibration.json of `exprl calibrate`, whose rates for judge.condition are taken."
        " none = no correction. Refused where 1 - FPR - FNR is below 0.2",
    )


class Advantage(Section):
    """From scores to advantages (docs/concepts/method.md)."""

    kind: AdvantageKind = Field(
        "delta",
        description="grpo, dr_grpo, rloo and reinforce need one score per rollout; the others one"
        " per step",
    )
    single_segment: SingleSegment = Field(
        "zero",
        description="advantage by `delta` of a rollout of one step: 0, its score, or its score"
        " minus the group's mean",
    )
    std_floor: float = Field(
        STD_FLOOR,
        ge=0.0,
        description="smallest spread of scores that grpo and step+outcome divide by: below it the"
        " scores differ by the judge's noise, and are not blown up to full-size advantages. With"
        " compat = published it is 0",
    )
    last: LastScore = Field(
        "judge",
        description="who scores the last step, with which `delta` and `end` compare the others:"
        " the judge, or the verifier with 0 or 1",
    )
    outcome_weight: float = Field(
        1.0, ge=0.0, description="weight of the outcome part of step+outcome"
    )
    compat: Compat | None = Field(
        None, description="published = as the paper's code where it deviates from the paper"
    )


class Sandbox(Section):
    """What a program that the policy wrote may use, and what it must be kept from."""

    timeout_s: float = Field(
        10.0, gt=0.0, description="seconds that a program and its tests may take"
    )
    cpu_s: int = Field(5, gt=0, description="CPU seconds of each process")
    memory_mb: int = Field(1024, ge=64, description="memory of one process, and of all together")
    disk_mb: int = Field(32, gt=0, description="size of all files that a program writes")
    processes: int = Field(16, gt=0, description="processes and threads at the same time")
    open_files: int = Field(64, ge=16, description="files that a process may have open")
    output_kb: int = Field(256, gt=0, description="longest output stream; more ends the program")
    workers: int | None = Field(
        None, gt=0, description="programs at the same time; none = one per core"
    )
    python: str | None = Field(
        None, description="interpreter with the packages that programs may import"
    )
    require: tuple[Confinement, ...] = Field(
        CONFINEMENTS,
        description="kinds of confinement without which a run with code does not start; `exprl"
        " doctor` shows which of them hold",
    )

    _expand_home = field_validator("python")(expand_home)


class Domain(Section):
    """What is different in one domain; a key left out is as in the run's own sections."""

    verifier: Verifier | None = Field(
        None,
        description="how answers are compared, or a function of your own that says what is right,"
        " such as mypkg.rewards:check; none = the one that the domain is named after, else math",
    )
    source: Source | None = Field(None, description="reward.source of the domain")
    verifier_weight: float | None = Field(
        None, ge=0.0, le=1.0, description="reward.verifier_weight of the domain"
    )
    view: View | None = Field(None, description="judge.view of the domain")
    rubric: str | None = Field(None, description="judge.rubric of the domain")
    advantage: AdvantageKind | None = Field(None, description="advantage.kind of the domain")
    verify: Verify | None = Field(None, description="reward.verify of the domain")
    noise: JudgeNoise | None = Field(
        None,
        description="reward.noise of the domain, whose judge may be wrong more or less often than"
        " those of others; [0, 0] corrects nothing",
    )


@dataclass(frozen=True, slots=True)
class Treatment:
    """How the rows of one domain are rewarded: the run's sections with the domain's laid over."""

    verifier: VerifierName | FunctionName
    source: RewardSource | FunctionName
    verifier_weight: float
    view: View
    rubric: str | None
    advantage: AdvantageKind
    last: LastScore = "judge"
    compat: Compat | None = None
    verify: Verify = "strict"
    noise: Noise | None = None

    @property
    def judged(self) -> bool:
        """Whether the judge is asked: not for a part of the reward that has no weight."""
        if self.source == "weighted":
            return self.verifier_weight < 1.0
        return self.source in ("judge", "max")

    @property
    def verified(self) -> bool:
        """Whether the reward needs the verifier."""
        if self.source == "weighted":
            return self.verifier_weight > 0.0
        last = self.per_segment and self.last == "verifier"
        return self.source in ("verifier", "max") or last

    @property
    def judges_overlong(self) -> bool:
        """Whether a rollout is judged whose scores count 0 for its length.

        The published `end` subtracts the judge's last score from those zeros.
        """
        return self.advantage == "end" and self.compat == "published"

    @property
    def per_segment(self) -> bool:
        """Whether every step gets a score of its own, or the rollout one."""
        if self.own_reward:
            return self.advantage in get_args(ProcessKind)
        return self.source == "judge" and self.view != "outcome"

    @property
    def own_reward(self) -> FunctionName | None:
        """The function of the user's that gives the scores."""
        return self.source if isinstance(self.source, FunctionName) else None
