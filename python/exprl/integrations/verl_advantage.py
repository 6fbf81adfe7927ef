"""exprl's outcome advantages as verl's estimators (verl 0.9), which keep out what has no score.

    export VERL_USE_EXTERNAL_MODULES=exprl.integrations.verl_advantage
    algorithm.adv_estimator=exprl_grpo    or exprl_dr_grpo, exprl_rloo, exprl_reinforce
    algorithm.use_kl_in_reward=False
    +reward.custom_reward_function.reward_kwargs.missing=nan

A NaN reward is one that nobody gave: it is in no statistic, and its tokens get the advantage 0.
The kinds are those of `exprl.advantage.advantages`.
"""

from __future__ import annotations

from functools import partial
from typing import Any, get_args

import numpy as np
import torch
from verl.trainer.ppo.core_algos import register_adv_est

from exprl.advantage import OutcomeKind, advantages


def estimate(
    token_level_rewards: torch.Tensor,
    response_mask: torch.Tensor,
    index: np.ndarray[Any, Any],
    config: Any = None,
    *,
    kind: OutcomeKind,
    **others: Any,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Advantages and returns, both [B, T]: a response's advantage on each of its tokens.

    Args:
        token_level_rewards: [B, T]; their sum over a response is its reward, in [0, 1] or NaN.
        response_mask: [B, T], 1 for the response's own tokens.
        index: [B], the prompt that each response answers; those of one prompt are a group.
    """
    rewards = token_level_rewards.sum(-1).double().cpu().numpy()
    group = np.unique(index, return_inverse=True)[1]
    order = np.argsort(group, kind="stable")  # groups end to end
    ends = np.cumsum([0, *np.bincount(group)])
    of_responses = np.empty(len(rewards))
    of_responses[order] = advantages(rewards[order], np.arange(len(rewards) + 1), ends, kind)
    values = torch.from_numpy(np.nan_to_num(of_responses)).to(token_level_rewards)
    spread = values.unsqueeze(-1) * response_mask
    return spread, spread


for _kind in get_args(OutcomeKind):
    register_adv_est(f"exprl_{_kind}")(partial(estimate, kind=_kind))
