"""What a loss is made of: per-token tensors, numbers, and what comes out.

N tokens, H hidden size, V vocabulary, S segments. Logarithms are natural.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable
from typing import NamedTuple, Self

from torch import Tensor

# A log-ratio past this is not a policy that drifted but a broken row: weight 0, and counted.
MAX_LOG_RATIO = 20.0
# A logit that is not above this is masked: -inf, or the least number of fp32 or bf16.
MASKED = -(2.0**100)


class ClipCode(enum.IntEnum):
    """Which side of the clip held a token, so that its gradient through the ratio is 0."""

    NONE = 0
    LOW = 1
    HIGH = 2
    DUAL = 3


class LogpOutput(NamedTuple):
    """logp, entropy, lse: [N], at the temperature.

    A row that is all masked, holds NaN or +inf, or overflows fp32 has NaN in all three, gradient 0.
    """

    logp: Tensor
    entropy: Tensor
    lse: Tensor


class GrpoOutput(NamedTuple):
    """The loss, and what was measured on the way for each token, [N] and detached.

    Attributes:
        loss: a differentiable scalar.
        logp: log-probs at the temperature; NaN where token_weight is 0.
        entropy: entropy at the temperature, in nats; NaN where token_weight is 0.
        k3: KL estimate to the initial policy, 0 without initial_logp; NaN where the row was left
            out, be it for weight 0 or as a bad row.
        clip_code: int8, a `ClipCode`.
        ratio: probability ratio; NaN where k3 is.
        bad_rows: number of tokens with a weight that were left out because a value was not finite,
            an index was out of range, or a log-ratio lay beyond MAX_LOG_RATIO.
    """

    loss: Tensor
    logp: Tensor
    entropy: Tensor
    k3: Tensor
    clip_code: Tensor
    ratio: Tensor
    bad_rows: Tensor

    @classmethod
    def of(cls, loss: Tensor, per_token: Iterable[Tensor], bad_rows: Tensor) -> Self:
        """per_token: logp, entropy, k3, clip_code, ratio."""
        return cls._make((loss, *per_token, bad_rows))


class Rows(NamedTuple):
    """The loss's tensors beside logits: checked, detached, contiguous; [N], and seg_adv [S]."""

    targets: Tensor
    seg_adv: Tensor
    seg_id: Tensor
    token_weight: Tensor
    trainer_logp: Tensor | None
    initial_logp: Tensor | None
    generator_logp: Tensor | None
    temperatures: Tensor | None  # per token; None = the scalar of Terms


class Shape(NamedTuple):
    """How raw logits x become z: cap * tanh(scale x / cap) / temperature, cap = inf where None."""

    temperature: float
    logit_scale: float
    softcap: float | None


class Terms(NamedTuple):
    """The numbers of the loss. clip_low = clip_high = None: REINFORCE."""

    clip_low: float | None
    clip_high: float | None
    dual_clip: float | None
    kl_coef: float
    entropy_coef: float
    importance_cap: float | None


# The same as schemas of custom operators, in the same order.
ROWS_SCHEMA = (
    "Tensor targets, Tensor seg_adv, Tensor seg_id, Tensor token_weight, Tensor? trainer_logp, "
    "Tensor? initial_logp, Tensor? generator_logp, Tensor? temperatures"
)
SHAPE_SCHEMA = "float temperature, float logit_scale, float? softcap"
TERMS_SCHEMA = (
    "float? clip_low, float? clip_high, float? dual_clip, float kl_coef, float entropy_coef, "
    "float? importance_cap"
)
