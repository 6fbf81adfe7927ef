"""The token-level process-reward GRPO loss. Depends on torch alone; the Triton kernels come later.

N tokens, H hidden size, V vocabulary, S segments.
"""

from exprl_kernels.reference import (
    ClipCode,
    GrpoOutput,
    LogpOutput,
    grpo_loss_from_logits,
    linear_grpo_loss,
    linear_logp,
)

__all__ = [
    "ClipCode",
    "GrpoOutput",
    "LogpOutput",
    "grpo_loss_from_logits",
    "linear_grpo_loss",
    "linear_logp",
]
