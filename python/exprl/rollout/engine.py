"""Prompts, to rollouts: what every engine does, and what prompts and seeds are to all of them.

Only Prompts enter an engine, so no reference can reach the policy. Text never enters either:
prompts go in as token ids and solutions come out as token ids, with the engine's own log-probs.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from exprl import config
from exprl.data.tokenizer import prompt_ids
from exprl.data.turns import thinking_opened
from exprl.types import (
    Float32Array,
    Int32Array,
    Prompt,
    Rollout,
)

NO_VLLM = (
    "vLLM is not installed: install the extra `cpu` or `gpu` (docs/start/install.md), or set"
    ' rollout.engine = "transformers", which is slow'
)
# No policy has this version: the engine holds the weights of another run, or none.
NO_POLICY = -1


@dataclass(frozen=True, slots=True)
class EngineStats:
    """What an engine of servers has counted since it was opened.

    retried: rollouts that were asked again.   lost: servers that ended or took no weights.
    pause_s, send_s: of weight updates, seconds in which nothing was sampled, and of sending.
    tokens: sampled tokens.   busy_s: seconds in which a server had something to sample.
    """

    retried: int = 0
    lost: int = 0
    pause_s: float = 0.0
    send_s: float = 0.0
    tokens: int = 0
    busy_s: float = 0.0

    def since(self, before: EngineStats) -> EngineStats:
        """What was counted after `before`."""
        return EngineStats(
            retried=self.retried - before.retried,
            lost=self.lost - before.lost,
            pause_s=self.pause_s - before.pause_s,
            send_s=self.send_s - before.send_s,
            tokens=self.tokens - before.tokens,
            busy_s=self.busy_s - before.busy_s,
        )

    def row(self) -> dict[str, float]:
        """The counts as metrics."""
        return {
            "engine/retried": self.retried,
            "engine/lost": self.lost,
            "sync/pause_s": self.pause_s,
            "sync/send_s": self.send_s,
            "rollout/tokens_per_s": self.tokens / self.busy_s if self.busy_s else float("nan"),
        }


class Engine(Protocol):
    """What samples from the policy: vllm_engine.py, transformers_engine.py or child.py.

    policy_version: of the weights it samples with. An engine is opened with version 0.
    """

    policy_version: int

    def sample(
        self,
        prompts: Sequence[Prompt],
        n: int,
        seed: int,
        temperature: float,
        max_response_tokens: int,
        truncation: config.Truncation = config.ALL_TOKENS,
    ) -> Iterator[Rollout]:
        """Sample n solutions of each prompt, yielded as they finish.

        The same call on the same weights gives the same rollouts.

        Args:
            truncation: for evaluations; a rollout to train on is sampled from all tokens.
        """
        ...

    def sample_continuations(
        self,
        beginnings: Sequence[tuple[str, Prompt, Int32Array]],
        n: int,
        seed: int,
        temperature: float,
        max_response_tokens: int,
    ) -> Iterator[Rollout]:
        """Sample n continuations of each beginning of a solution, yielded as they finish.

        Args:
            beginnings: a name, the prompt, and the tokens that stand already; the name becomes the
                rollouts' problem_id, and the tokens the end of their prompt_ids.
            max_response_tokens: of beginning and continuation together.
        """
        ...

    def logp(self, token_ids: Int32Array) -> Sequence[Float32Array]:
        """Log-probs [L-1] of the tokens of one sequence [L] but the first, at temperature 1.

        Returns:
            What each copy of the policy says; an engine in one process holds one.
        """
        ...

    def load_weights(self, weights: Iterable[tuple[str, Any]], version: int) -> None:
        """Replace the weights in place; nothing computed with the old ones is kept.

        Args:
            weights: names and tensors as a Hugging Face checkpoint has them; they can be walked
                again, as an update that failed is repeated.

        Raises:
            EngineError: the engine could not take all of them.
        """
        ...

    def sleep(self) -> None:
        """Free the GPU for the trainer. An engine that has to be woken holds NO_POLICY."""
        ...

    def wake(self, part: str) -> None:
        """Take memory back for `weights` (before load_weights) or `kv_cache` (after it)."""
        ...

    def stats(self) -> EngineStats | None:
        """What servers have counted since they were opened; None = there are none."""
        ...

    def close(self) -> None:
        """End what the engine started: threads, processes. Nothing may be sampled any more."""
        ...


def announce_engine(rollout: config.Rollout, weights: str) -> str:
    """What to tell a user who waits for `open_engine`."""
    name = "vLLM" if rollout.engine == "vllm" else "transformers"
    return f"starting the engine: {name} loads {weights}; a large model takes minutes"


def open_engine(
    model: config.Model,
    rollout: config.Rollout,
    *,
    tokenizer: Any,
    weights: str,
    beside: bool = False,
) -> Engine:
    """Start the engine that rollout.engine names, on the weights in the folder or hub id `weights`.

    Args:
        beside: in a second process (engine.kind = child), which runs vLLM.

    Raises:
        EngineError: vLLM is not installed or did not start.
        ConfigError: transformers cannot load the model; or a second process has no GPU for itself.
    """
    if beside:
        from exprl.rollout.child import ChildEngine

        return ChildEngine(model, rollout, tokenizer=tokenizer, weights=weights)
    match rollout.engine:
        case "vllm":
            from exprl.rollout.vllm_engine import VllmEngine

            return VllmEngine(model, rollout, tokenizer=tokenizer, weights=weights)
        case "transformers":
            from exprl.rollout.transformers_engine import TransformersEngine

            return TransformersEngine(model, rollout, tokenizer=tokenizer, weights=weights)


@dataclass(frozen=True, slots=True)
class Start:
    """Where an engine begins: a prompt, and perhaps the first tokens of its solution.

    ids: of the prompt and the `given` response tokens that stand already.
    opening: of the thinking block that the prompt ends in (`Rollout.opening`).
    """

    name: str
    ids: list[int]
    given: int = 0
    opening: str = ""


def prompt_starts(tokenizer: Any, model: config.Model, prompts: Sequence[Prompt]) -> list[Start]:
    """Where solutions of the prompts begin."""
    nothing = np.empty(0, np.int32)
    return continuation_starts(tokenizer, model, [(p.problem_id, p, nothing) for p in prompts])


def continuation_starts(
    tokenizer: Any, model: config.Model, beginnings: Sequence[tuple[str, Prompt, Int32Array]]
) -> list[Start]:
    """Where continuations of beginnings begin (`Engine.sample_continuations`)."""
    return [
        Start(
            name,
            prompt_ids(tokenizer, prompt, model) + tokens.tolist(),
            len(tokens),
            thinking_opened(tokenizer, prompt, model),
        )
        for name, prompt, tokens in beginnings
    ]


def step_seed(seed: int, step: int) -> int:
    """The seed of a training step's rollouts."""
    return _hashed(f"{seed}/{step}")


def rollout_seed(seed: int, problem_id: str, index: int) -> int:
    """The seed of one rollout."""
    return _hashed(f"{seed}/{problem_id}/{index}")


def _hashed(text: str) -> int:
    """63 bits: a pure function of the text, on every machine."""
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1
