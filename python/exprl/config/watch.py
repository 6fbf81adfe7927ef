"""What is seen of a run: evaluations, alarms, and where its metrics go."""

from __future__ import annotations

from pydantic import Field

from exprl.config.data import Data
from exprl.config.section import Section


class Evaluation(Section):
    """pass@k on held-out problems, before and after training."""

    data: Data | None = Field(None, description="problems with answers; none = no evaluation")
    samples: int = Field(16, gt=0, description="rollouts per problem, the n of pass@k")
    temperature: float = Field(1.0, gt=0.0, description="sampling temperature")
    max_response_tokens: int | None = Field(
        None, gt=0, description="longest rollout; none = rollout.max_response_tokens"
    )
    every: int | None = Field(
        None, gt=0, description="training steps between evaluations; none = before and after only"
    )


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
    logp_gap: float | None = Field(
        0.05, gt=0.0, description="mean |engine - trainer log-prob| per token of a step, in nats"
    )


class Logging(Section):
    """Where metrics go beside RUN/metrics.jsonl."""

    tensorboard: bool = Field(False, description="write RUN/tensorboard")
    wandb_project: str | None = Field(None, description="Weights & Biases project")
    trackio_project: str | None = Field(None, description="trackio project")
    save_rollouts: bool = Field(True, description="write RUN/rollouts/step-NNNNN.parquet")
