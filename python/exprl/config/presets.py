"""Each method of the paper as plain data: the settings in which it differs from the defaults.

A config names one with `method = "..."`; whatever the config sets itself wins. Values are the
paper's (section 4 and appendix A) where it states them.
"""

from __future__ import annotations

from typing import Any, Literal, get_args

from exprl.advantage import OutcomeKind, ProcessKind

MethodName = Literal["exprl-outcome", "exprl-process", "sparse-grpo", "sft", "self-distillation"]

OUTCOME_ADVANTAGES = get_args(OutcomeKind)
PROCESS_ADVANTAGES = get_args(ProcessKind)


def kinds_for(per_segment: bool) -> tuple[str, ...]:
    """Kinds of advantage for one score per segment, or one per rollout."""
    return PROCESS_ADVANTAGES if per_segment else OUTCOME_ADVANTAGES


PRESETS: dict[str, dict[str, Any]] = {
    # One grade per rollout; the batch is used for two optimizer steps, the second off-policy.
    "exprl-outcome": {
        "rollout": {"problems_per_step": 36, "group_size": 10},
        "judge": {"view": "outcome"},
        "advantage": {"kind": "grpo"},
        "loss": {"clip_low": 0.2, "clip_high": 0.28},
        "optim": {"mini_batches": 2},
    },
    # One grade per prefix of steps; fully on-policy.
    "exprl-process": {
        "rollout": {"problems_per_step": 36, "group_size": 16},
        "judge": {"view": "prefix"},
        "advantage": {"kind": "delta"},
        "loss": {"clip_low": 0.2, "clip_high": 0.26},
        "optim": {"mini_batches": 1},
    },
    # 0/1 by the verifier: the baseline, and Stage II, where init_from names the Stage-I run. The
    # references are not read.
    "sparse-grpo": {
        "rollout": {"problems_per_step": 32, "group_size": 16},
        "reward": {"source": "verifier"},
        "advantage": {"kind": "grpo"},
        "loss": {"clip_low": 0.2, "clip_high": 0.26},
        "optim": {"mini_batches": 1},
        "train": {"steps": 500},
    },
    # Cross-entropy on the reference solutions; nothing is sampled.
    "sft": {
        "reward": {"source": "none"},
        "loss": {"objective": "cross_entropy", "kl_coef": 0.0},
    },
    # Reverse KL to the initial policy that is shown the reference, on the student's own samples.
    "self-distillation": {
        "reward": {"source": "none"},
        "loss": {"objective": "reverse_kl", "kl_coef": 0.0},
        "optim": {"lr": 1e-7},
    },
}

AHEAD: dict[str, Any] = {"loss": {"importance_cap": 2.0}}
"""With rollout.ahead: tokens of an older policy need a bounded importance weight."""

assert set(PRESETS) == set(get_args(MethodName))
