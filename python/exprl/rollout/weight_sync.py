"""The policy's weights, into the engine: versioned, and proven by a probe after every update.

One GPU holds trainer and engine in turn; the order of calls here is what frees the memory at the
right moments.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from torch import Tensor

from exprl import config
from exprl.data.tokenizer import prompt_ids
from exprl.errors import EngineError
from exprl.learn.policy import Policy
from exprl.rollout.engine import Engine
from exprl.types import Float32Array, Int32Array, Packed, Problem

PROBE_TOKENS = 128
# Two fp32 forwards differ by about u * sqrt(k) * |logit|: the unit roundoff u = 6e-8, some k = 250
# matrix products one after the other (36 layers), logits up to 30. That is 3e-5 nats.
FP32_NOISE = 1e-4
# Rounding grows while a policy sharpens, but not by more than this.
ROUNDING_GROWTH = 10.0


class PolicyWeights:
    """The policy's weights for an engine, gathered anew each time they are walked."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy

    def __iter__(self) -> Iterator[tuple[str, Tensor]]:
        return self._policy.weights()


class Probe:
    """A short row of tokens that trainer and engine score alike, if they hold the same weights.

    Every check costs each of them one forward of the row. The row is the same in a whole run, so
    that a resumed run measures what an uninterrupted one does.

    gap: mean |engine - trainer log-prob| of the last check, in nats per token, of the copy that is
        furthest off; NaN before it.
    limit: largest gap that passes, set by the first check; None before it. Both sides then hold
        what they read from one checkpoint, so that only rounding lies between them.
    """

    def __init__(self, token_ids: Int32Array, ceiling: float) -> None:
        """Make a probe of the row [L], L >= 2, at temperature 1.

        Args:
            ceiling: rollout.sync_gap_limit; no limit is above it.
        """
        self.gap = float("nan")
        self.limit: float | None = None
        self._token_ids = token_ids
        self._ceiling = ceiling
        self._expected: Float32Array | None = None
        self._version: int | None = None
        self._heard: Sequence[Float32Array] | None = None

    def score_by_engine(self, engine: Engine) -> None:
        """Have the engine score the row, while it holds the checkpoint that the policy will load.

        It then sleeps to make room for the policy, and a sleeping engine drops its weights. What it
        said is compared by the first `score_by_policy`.
        """
        self._heard = engine.logp(self._token_ids)

    def score_by_policy(self, policy: Policy) -> None:
        """Have the policy score the row while it is on its device.

        Raises:
            EngineError: the engine said otherwise before (`score_by_engine`).
        """
        n = len(self._token_ids)
        row = Packed(
            input_ids=self._token_ids.astype(np.int64),
            position_ids=np.arange(n),
            cu_seqlens=np.array([0, n], dtype=np.int32),
            target_pos=np.arange(1, n),
        )
        self._expected = policy.logp(row, temperature=1.0).float().cpu().numpy()
        self._version = policy.version
        if self._heard is not None:
            self._compare(self._heard, self._expected)
            self._heard = None

    def check(self, engine: Engine) -> None:
        """Compare the engine with what the policy was remembered to say.

        Raises:
            EngineError: they differ by more than the limit, or the engine names another version.
        """
        assert self._expected is not None, "the policy has not scored the row"
        if engine.policy_version != self._version:
            raise EngineError(
                f"the engine says that it samples with policy version {engine.policy_version}, the"
                f" trainer is at version {self._version}"
            )
        self._compare(engine.logp(self._token_ids), self._expected)

    def _compare(self, found: Sequence[Float32Array], expected: Float32Array) -> None:
        # max of Python would drop a NaN
        self.gap = float(np.max([np.abs(one - expected).mean() for one in found]))
        limit = self._ceiling if self.limit is None else self.limit
        if not self.gap <= limit:  # nor is NaN
            raise EngineError(
                f"engine and trainer differ by {self.gap:.3g} nats per token with the weights of"
                f" policy version {self._version}; at most {limit:.3g} is rounding: the weights did"
                " not reach the engine, or it computes otherwise (model.dtype, attention, a head"
                " that it keeps a copy of). rollout.sync_gap_limit bounds what passes"
            )
        if self.limit is None:
            self.limit = min(self._ceiling, max(FP32_NOISE, ROUNDING_GROWTH * self.gap))

    def row(self) -> dict[str, float]:
        """The last gap as a metric."""
        return {"sync/probe_gap": self.gap}


def open_probe(
    problems: Sequence[Problem], tokenizer: Any, model: config.Model, rollout: config.Rollout
) -> Probe:
    """A probe of the first problems' prompts, one after the other."""
    ids: list[int] = []
    for problem in problems:
        if len(ids) < PROBE_TOKENS:
            ids += prompt_ids(tokenizer, problem.prompt, model)
    room = rollout.max_prompt_tokens + rollout.max_response_tokens - 1  # vLLM adds a token
    row = np.resize(np.array(ids, dtype=np.int32), min(PROBE_TOKENS, room))
    return Probe(row, rollout.sync_gap_limit)


@contextmanager
def lend_gpu(policy: Policy, engine: Engine | None, probe: Probe | None) -> Iterator[None]:
    """Have the engine sleep while the trainer works on the same GPU."""
    if engine is not None:
        engine.sleep()
    policy.to_device()
    yield
    if probe is not None:
        probe.score_by_policy(policy)
    policy.to_host()


def wake_engine(policy: Policy, engine: Engine | None, probe: Probe | None) -> Engine:
    """Give the engine the policy's weights where its own are older, and prove that it has them.

    Raises:
        EngineError: it has other weights.
    """
    assert engine is not None and probe is not None, "this run samples nothing"
    stale = engine.policy_version != policy.version
    if stale:
        engine.wake("weights")
        engine.load_weights(PolicyWeights(policy), policy.version)
        engine.wake("kv_cache")
    if stale or probe.limit is None:
        probe.check(engine)
    return engine
