"""RLSD: token advantages, reweighted by what the reference tells the policy of each token.

    gain_k   = log pi(y_k | x, reference, y_<k) - log pi(y_k | x, y_<k)           (eq. 13)
    w_k      = clip(exp(sign(A_k) gain_k), 1 - 0.2, 1 + 0.2)                      (eq. 14 and 15)
    A'_k     = ((1 - weight) + weight w_k) A_k

of arXiv 2604.03128; `weight` is loss.teacher_weight, there called lambda. Both log-probs are those
of the policy before the step, without gradient. No weight is negative, so that the reward alone
says whether a token becomes more or less likely; the teacher says how much it matters.
"""

from __future__ import annotations

from torch import Tensor

BOUND = 0.2
"""How far a token's weight may be from 1: the paper's value."""


def reweight(advantages: Tensor, gain: Tensor, weight: float) -> Tensor:
    """The advantages A' [N] of tokens.

    Args:
        advantages: [N], A, each token's own.
        gain: [N], nats: log-prob of the token with the reference less the one without.
        weight: in [0, 1]; 0 leaves the advantages as they are.
    """
    evidence = (advantages.sign() * gain).exp().clamp(1.0 - BOUND, 1.0 + BOUND)
    return advantages * ((1.0 - weight) + weight * evidence)
