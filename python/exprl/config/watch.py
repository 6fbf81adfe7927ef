"""What is seen of a run: evaluations, alarms, and where its metrics go."""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import Field, field_validator

from exprl.config.data import Data
from exprl.config.section import Section


@dataclass(frozen=True, slots=True)
class Truncation:
    """Which tokens of the distribution are sampled from; the defaults leave all of them.

    Only evaluations truncate. The log-probs of a training rollout must be those of the whole
    distribution at the sampling temperature, because that is what the trainer computes: with a
    truncated one, the ratio of the first update would not be 1.

    top_p: the likeliest tokens that together have this probability.
    top_k: the likeliest so many; -1 = all.
    min_p: those with at least this share of the likeliest one's probability.

    >>> Truncation(top_k=20) == ALL_TOKENS
    False
    """

    top_p: float = 1.0
    top_k: int = -1
    min_p: float = 0.0


ALL_TOKENS = Truncation()


class Evaluation(Section):
    """pass@k on held-out problems, before and after training."""

    data: Data | None = Field(None, description="problems with answers; none = no evaluation")
    samples: int = Field(16, gt=0, description="rollouts per problem, the n of pass@k")
    temperature: float = Field(1.0, gt=0.0, description="sampling temperature")
    top_p: float = Field(
        1.0,
        gt=0.0,
        le=1.0,
        description="sample from the likeliest tokens that together have this probability. Training"
        " samples from all tokens, since its log-probs must be those of the whole distribution",
    )
    top_k: int = Field(
        -1, description="sample from this many of the likeliest tokens; -1 = from all of them"
    )
    min_p: float = Field(
        0.0,
        ge=0.0,
        le=1.0,
        description="sample from tokens with at least this share of the likeliest one's"
        " probability; 0 = from all of them",
    )
    max_response_tokens: int | None = Field(
        None, gt=0, description="longest rollout; none = rollout.max_response_tokens"
    )
    every: int | None = Field(
        None, gt=0, description="training steps between evaluations; none = before and after only"
    )

    @field_validator("top_k")
    @classmethod
    def _all_or_some(cls, top_k: int) -> int:
        if top_k == 0 or top_k < -1:
            raise ValueError("expected a number of tokens, 1 or more, or -1 for all of them")
        return top_k

    @property
    def truncation(self) -> Truncation:
        """Which tokens an evaluation samples from."""
        return Truncation(self.top_p, self.top_k, self.min_p)


class Alarms(Section):
    """Limits past which a run warns (exprl.monitor.alarms). "none" switches an alarm off."""

    window: int = Field(20, gt=1, description="steps in the means that a trend compares")
    repeat_after: int = Field(
        20, gt=0, description="steps without the alarm after which it is told again"
    )
    score_rise: float | None = Field(
        0.1, gt=0.0, description="rise of the mean score that right answers should follow"
    )
    accuracy_rise: float = Field(
        0.02, description="rise of the share of right rollouts that counts as following"
    )
    stall_rise: float | None = Field(
        0.1,
        gt=0.0,
        description="rise of the mean score over a few steps that is stalling where no more"
        " rollouts are right and they run into the length limit or grow",
    )
    stall_overlong: float = Field(
        0.5, ge=0.0, le=1.0, description="share of rollouts cut by length that counts as that"
    )
    stall_length: float = Field(
        1.25, ge=1.0, description="factor by which rollouts grow that counts as that"
    )
    single_rate: float | None = Field(
        0.5,
        ge=0.0,
        le=1.0,
        description="share of rollouts of one step, which `delta` teaches nothing",
    )
    delimiter_factor: float | None = Field(
        3.0, gt=1.0, description="factor by which steps per token may grow since the start"
    )
    reference_overlap: float | None = Field(
        0.4, ge=0.0, le=1.0, description="mean share of a reference's 8-word runs in rollouts"
    )
    injection_rate: float | None = Field(
        0.01, ge=0.0, le=1.0, description="share of rollouts that speak to the judge"
    )
    missing_rate: float | None = Field(
        0.05, ge=0.0, le=1.0, description="share of rollouts without a grade"
    )
    missing_length: float | None = Field(
        1.25,
        ge=1.0,
        description="length of rollouts without a grade, in lengths of graded ones; 1 / sqrt(n) is"
        " added for n rollouts without a grade, as chance",
    )
    over_context: int | None = Field(
        0, ge=0, description="requests of a step that the judge's context does not hold"
    )
    repaired_rate: float | None = Field(
        0.5,
        ge=0.0,
        le=1.0,
        description="share of grades that only a re-ask gave; no reasoning stands behind those",
    )
    disagreement: float | None = Field(
        0.7,
        ge=0.0,
        le=1.0,
        description="difference of the mean final score and the share of right rollouts; 0.7 is"
        " beyond what partial credit explains, since a grade of 3 scores 0.5",
    )
    logp_gap: float | None = Field(
        0.05, gt=0.0, description="mean |engine - trainer log-prob| per token of a step, in nats"
    )


class Logging(Section):
    """Where metrics go beside RUN/metrics.jsonl."""

    tensorboard: bool = Field(False, description="write RUN/tensorboard")
    wandb_project: str | None = Field(None, description="Weights & Biases project")
    trackio_project: str | None = Field(None, description="trackio project")
    samples: int = Field(
        4,
        ge=0,
        description="rollouts of each step that the trackers show as a table, with question, grades"
        " and advantages, and without references; 0 = no rollouts and no report for the trackers",
    )
    report: bool = Field(
        True,
        description="write RUN/report.html when the run ends, and after Ctrl-C; `exprl report RUN`"
        " writes it at any time. Needs the extra `report`",
    )
    save_rollouts: bool = Field(True, description="write RUN/rollouts/step-NNNNN.parquet")
