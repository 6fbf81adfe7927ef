"""vLLM in this process; each rollout comes out as soon as it is finished."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import count
from typing import Any

import numpy as np

from exprl import config
from exprl.data.turns import find_stops
from exprl.rollout.engine import (
    NO_POLICY,
    Start,
    continuation_starts,
    prompt_starts,
    rollout_seed,
)
from exprl.rollout.vllm_core import Sample, Sampling, VllmCore
from exprl.types import (
    FinishReason,
    Float32Array,
    Int32Array,
    Prompt,
    Rollout,
)

FINISH_REASONS: dict[str | None, FinishReason] = {"stop": "stop", "length": "length"}


class VllmEngine:
    """The engine that is fast: continuous batches, a paged and shared KV cache.

    Each rollout has a seed of its own, made of the call's seed, the problem's id and its index.
    """

    def __init__(
        self, model: config.Model, rollout: config.Rollout, *, tokenizer: Any, weights: str
    ) -> None:
        """Start the engine on the weights in the folder or hub id `weights`.

        Raises:
            EngineError: vLLM is not installed or did not start.
            ConfigError: nothing says where a rollout ends.
        """
        self.tokenizer = tokenizer
        self._model = model
        self._version = 0
        stops = find_stops(tokenizer, model)
        self._core = VllmCore(model, rollout, weights=weights, stops=stops, sleeps=True)
        self._calls = count()

    @property
    def policy_version(self) -> int:
        """See Engine."""
        return self._version

    @policy_version.setter
    def policy_version(self, version: int) -> None:
        self._core.set_version(version)
        self._version = version

    def sample(
        self,
        prompts: Sequence[Prompt],
        n: int,
        seed: int,
        temperature: float,
        max_response_tokens: int,
        truncation: config.Truncation = config.ALL_TOKENS,
    ) -> Iterator[Rollout]:
        """See Engine.sample."""
        begin = prompt_starts(self.tokenizer, self._model, prompts)
        how = sampling(temperature, truncation)
        return self._generate(begin, n, seed, max_response_tokens, how)

    def sample_continuations(
        self,
        beginnings: Sequence[tuple[str, Prompt, Int32Array]],
        n: int,
        seed: int,
        temperature: float,
        max_response_tokens: int,
    ) -> Iterator[Rollout]:
        """See Engine.sample_continuations."""
        begin = continuation_starts(self.tokenizer, self._model, beginnings)
        return self._generate(begin, n, seed, max_response_tokens, sampling(temperature))

    def logp(self, token_ids: Int32Array) -> Sequence[Float32Array]:
        """See Engine.logp."""
        key = f"{next(self._calls)}"
        self._core.add_logp(key, token_ids.tolist())
        [(_, found)] = self._finish({key})
        return [np.array(found.logp, dtype=np.float32)]

    def _generate(
        self, begin: Sequence[Start], n: int, seed: int, max_response_tokens: int, how: Sampling
    ) -> Iterator[Rollout]:
        call = next(self._calls)
        asked: dict[str, tuple[Start, int]] = {}
        for start in begin:
            for index in range(n):
                key = f"{call}/{len(asked)}"
                asked[key] = (start, index)
                length = max_response_tokens - start.given
                own = rollout_seed(seed, start.name, index)
                self._core.add(key, start.ids, length, own, how)
        for key, sample in self._finish(set(asked)):
            yield make_rollout(*asked[key], sample)

    def _finish(self, waiting: set[str]) -> Iterator[tuple[str, Sample]]:
        """Step until the requests are finished, each as soon as it is."""
        try:
            while waiting:
                for key, sample in self._core.step():
                    waiting.discard(key)
                    yield key, sample
        finally:
            self._core.abort(waiting)  # the caller left early, or the engine failed

    def load_weights(self, weights: Iterable[tuple[str, Any]], version: int) -> None:
        """See Engine.load_weights."""
        self._core.load_weights(weights, version)
        self._version = version

    def sleep(self) -> None:
        """Free the GPU for the trainer: weights and KV cache are dropped."""
        if self._core.sleep():
            self.policy_version = NO_POLICY

    def wake(self, part: str) -> None:
        """See Engine.wake."""
        self._core.wake(part)

    def stats(self) -> None:
        """See Engine.stats."""

    def close(self) -> None:
        """See Engine.close: vLLM ends with this process."""


def sampling(temperature: float, truncation: config.Truncation = config.ALL_TOKENS) -> Sampling:
    """How a call samples."""
    return Sampling(temperature, truncation.top_p, truncation.top_k, truncation.min_p)


def make_rollout(start: Start, index: int, sample: Sample) -> Rollout:
    """A sample, as the rollout that it is; it failed where tokens or log-probs are missing."""
    finish = FINISH_REASONS.get(sample.finish_reason, "failed")
    tokens = np.array(sample.token_ids, dtype=np.int32)
    if len(sample.logp) != len(tokens) or len(tokens) == 0:
        finish = "failed"
    named = np.array(sample.versions, dtype=np.int32).reshape(-1, 2)
    return Rollout(
        problem_id=start.name,
        index=index,
        prompt_ids=np.array(start.ids, dtype=np.int32),
        token_ids=tokens,
        generator_logp=np.array(sample.logp, dtype=np.float32),
        finish_reason=finish,
        versions=np.repeat(named[:, 0], named[:, 1]),
        opening=start.opening,
    )
