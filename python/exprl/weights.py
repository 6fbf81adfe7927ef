"""The policy's weights, into the engine: versioned, and proven by the log-prob gap.

A sync has arrived when the engine's log-probs of the tokens it samples next equal the trainer's.
The gap after a stale sync is several nats, after a good one rounding noise, so `proven` looks at
nothing else. One GPU holds trainer and engine in turn; the order of calls here is what frees the
memory at the right moments.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from exprl.errors import EngineError
from exprl.policy import Policy
from exprl.rollout import Engine


@contextmanager
def training(policy: Policy, engine: Engine | None) -> Iterator[None]:
    """The engine sleeps while the trainer works."""
    if engine is not None:
        engine.sleep()
    policy.to_device()
    yield
    policy.to_host()


def awake(policy: Policy, engine: Engine | None) -> Engine:
    """The engine, ready to sample from the policy as it is now."""
    assert engine is not None, "this run samples nothing"
    if engine.policy_version != policy.version:
        engine.wake("weights")
        engine.load_weights(policy.weights(), policy.version)
        engine.wake("kv_cache")
    return engine


def prove(gap: float, limit: float, version: int) -> None:
    """Stop the run when the engine did not sample from the trainer's weights.

    Args:
        gap: mean |engine - trainer log-prob| in nats over the tokens of a step.
        limit: rollout.sync_gap_limit.
        version: policy version of those rollouts.

    Raises:
        EngineError: the gap exceeds the limit, or is not a number.
    """
    if not gap <= limit:
        raise EngineError(
            f"engine and trainer disagree by {gap:.4g} nats per token on rollouts of policy version"
            f" {version}, above rollout.sync_gap_limit = {limit}: the weights did not reach the"
            " engine, or the two run different numerics (dtype, temperature, attention)"
        )
