"""What is seen of a run: evaluations, alarms, and where its metrics go."""

from __future__ import annotations

from pydantic import Field

from exprl.config.data import Data
from exprl.config.section import Section


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
        0.05, gt=0.0, description="mean |engine - trainer log-prob| per token of a step, in nats"
    )


class Logging(Section):
    """Where metrics go beside RUN/metrics.jsonl."""

    tensorboard: bool = False
    wandb_project: str | None = None
    trackio_project: str | None = None
    save_rollouts: bool = Field(True, description="RUN/rollouts/step-NNNNN.parquet")
