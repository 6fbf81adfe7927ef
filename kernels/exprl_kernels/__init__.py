"""The token-level process-reward GRPO loss. Depends on torch; the kernels also on triton.

N tokens, H hidden size, V vocabulary, S segments.
"""

from exprl_kernels.linear_logp import linear_logp
from exprl_kernels.linear_loss import linear_grpo_loss
from exprl_kernels.logits_loss import grpo_loss_from_logits
from exprl_kernels.terms import ClipCode, GrpoOutput, LogpOutput

__all__ = [
    "ClipCode",
    "GrpoOutput",
    "LogpOutput",
    "grpo_loss_from_logits",
    "linear_grpo_loss",
    "linear_logp",
]
