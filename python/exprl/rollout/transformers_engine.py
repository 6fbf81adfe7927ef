"""The rollout engine for machines without vLLM: transformers' own `generate`, in batches.

A batch lasts as long as its longest rollout, and nothing joins it meanwhile: expect a fraction of
vLLM's speed. What it gives is the same: sampled tokens with their log-probs, from weights of a
known version.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessor

from exprl import config
from exprl.data.turns import find_stops
from exprl.errors import EngineError
from exprl.learn.model import DTYPES, load
from exprl.rollout.engine import NO_POLICY, Start, continuation_starts, prompt_starts, rollout_seed
from exprl.types import Float32Array, Int32Array, Prompt, Rollout

LOG = logging.getLogger(__name__)


class TransformersEngine:
    """A copy of the policy that samples by `generate`.

    A batch has one seed, made of the call's seed and of the batch's first rollout, because
    `generate` draws for all its rows from one random stream. vLLM gives each rollout a seed of its
    own. So here, too, the same call on the same weights gives the same rollouts; but a rollout
    depends on the others of its batch, and so on rollout.max_num_seqs.
    """

    def __init__(
        self, model: config.Model, rollout: config.Rollout, *, tokenizer: Any, weights: str
    ) -> None:
        """Load the weights in the folder or hub id `weights`.

        Raises:
            ConfigError: there is no model that transformers can load.
        """
        LOG.warning(
            'rollout.engine = "transformers" samples in batches that wait for their longest'
            " rollout, without a paged cache: it is slow; use vLLM where it is installed"
        )
        self.tokenizer = tokenizer
        self.policy_version = 0
        self._batch_size = rollout.max_num_seqs
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._sleeps = model.offload and self._device.type == "cuda"
        self._model = load(model, weights, DTYPES[model.dtype], self._device)
        self._model.to(self._device).eval().requires_grad_(False)
        self._model.set_attn_implementation("sdpa")  # the trainer's knows no padding and no cache
        self._settings = model
        self._stops = find_stops(tokenizer, model)
        # A model's own top_p or repetition penalty would make this another policy than the one
        # that the trainer computes the log-probs of.
        self._model.generation_config = GenerationConfig()

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
        begin = prompt_starts(self.tokenizer, self._settings, prompts)
        return self._generate(begin, n, seed, temperature, max_response_tokens, truncation)

    def sample_continuations(
        self,
        beginnings: Sequence[tuple[str, Prompt, Int32Array]],
        n: int,
        seed: int,
        temperature: float,
        max_response_tokens: int,
    ) -> Iterator[Rollout]:
        """See Engine.sample_continuations."""
        begin = continuation_starts(self.tokenizer, self._settings, beginnings)
        return self._generate(begin, n, seed, temperature, max_response_tokens, config.ALL_TOKENS)

    @torch.no_grad()
    def logp(self, token_ids: Int32Array) -> Sequence[Float32Array]:
        """See Engine.logp."""
        row = torch.from_numpy(token_ids).to(self._device, torch.int64)[None]
        scores = self._model(input_ids=row, use_cache=False).logits[0, :-1].float()
        return [scores.log_softmax(-1).gather(1, row[0, 1:, None])[:, 0].cpu().numpy()]

    @torch.no_grad()
    def load_weights(self, weights: Iterable[tuple[str, Any]], version: int) -> None:
        """See Engine.load_weights."""
        own = self._model.state_dict()
        missing = set(own)
        for name, value in weights:
            if name not in own:
                raise EngineError(f"the engine's model has no weight {name!r}")
            own[name].copy_(value)
            missing.discard(name)
        if missing:
            raise EngineError(f"the engine was sent no {', '.join(sorted(missing))}")
        self.policy_version = version

    def stats(self) -> None:
        """See Engine.stats."""

    def close(self) -> None:
        """See Engine.close: it holds nothing but memory."""

    def sleep(self) -> None:
        """See Engine.sleep; the weights stay on the host (model.offload)."""
        if self._sleeps:
            self._model.to("cpu")
            self.policy_version = NO_POLICY

    def wake(self, part: str) -> None:
        """See Engine.wake."""
        if part == "weights":
            self._model.to(self._device)

    def _generate(
        self,
        begin: Sequence[Start],
        n: int,
        seed: int,
        temperature: float,
        max_response_tokens: int,
        truncation: config.Truncation,
    ) -> Iterator[Rollout]:
        """Neighbours in length share a batch: little padding, and a long prompt fails early."""
        rows = [(start, i) for start in begin for i in range(n)]
        rows.sort(key=lambda row: len(row[0].ids), reverse=True)
        for at in range(0, len(rows), self._batch_size):
            batch = rows[at : at + self._batch_size]
            yield from self._batch(batch, seed, temperature, max_response_tokens, truncation)

    def _batch(
        self,
        rows: Sequence[tuple[Start, int]],
        seed: int,
        temperature: float,
        max_response_tokens: int,
        truncation: config.Truncation,
    ) -> Iterator[Rollout]:
        prompts = [np.array(start.ids, dtype=np.int32) for start, _ in rows]
        width = max(map(len, prompts))
        ids, mask = np.zeros((2, len(rows), width), dtype=np.int64)
        for i, prompt in enumerate(prompts):  # to the right, so that all go on at one column
            ids[i, width - len(prompt) :], mask[i, width - len(prompt) :] = prompt, 1
        limits = [max_response_tokens - start.given for start, _ in rows]
        drawn, logps = self._draw(
            torch.from_numpy(ids).to(self._device),
            torch.from_numpy(mask).to(self._device),
            temperature,
            truncation,
            max(limits),
            rollout_seed(seed, rows[0][0].name, rows[0][1]),
        )
        ends = np.isin(drawn, self._stops)
        for (start, index), prompt, tokens, logp, end, limit in zip(
            rows, prompts, drawn, logps, ends, limits, strict=True
        ):
            stopped = end[:limit].any()
            n = int(end.argmax()) + 1 if stopped else limit
            yield Rollout(
                problem_id=start.name,
                index=index,
                prompt_ids=prompt,
                token_ids=tokens[:n].astype(np.int32),
                generator_logp=logp[:n],
                finish_reason="stop" if stopped else "length",
                versions=np.full(n, self.policy_version, dtype=np.int32),
                opening=start.opening,
            )

    def _draw(
        self,
        ids: Tensor,
        mask: Tensor,
        temperature: float,
        truncation: config.Truncation,
        max_tokens: int,
        seed: int,
    ) -> tuple[Any, Any]:
        """Tokens and their log-probs, [B, n] each; what follows a stop token means nothing."""
        sampling = GenerationConfig(
            do_sample=True,
            temperature=1.0,  # _LogProbs divides by it
            top_p=truncation.top_p,
            top_k=max(0, truncation.top_k),  # 0 = all of them, here
            min_p=truncation.min_p or None,
            max_new_tokens=max_tokens,
            eos_token_id=list(self._stops),
            pad_token_id=0,
        )
        logps = _LogProbs(temperature)
        with torch.random.fork_rng([self._device] if self._device.type == "cuda" else []):
            torch.manual_seed(seed)
            sequences = self._model.generate(
                ids, attention_mask=mask, generation_config=sampling, logits_processor=[logps]
            )
        return sequences[:, ids.shape[1] :].cpu().numpy(), logps.of(sequences).cpu().numpy()


class _LogProbs(LogitsProcessor):  # type: ignore[misc]  # transformers is untyped
    """Log-probs of the tokens that `generate` samples, under the distribution it samples from.

    A step's choice is the last column of what the next step is called with, so one step's [B, V]
    is all that is kept.
    """

    def __init__(self, temperature: float) -> None:
        self._temperature = temperature
        self._step: Tensor | None = None
        self._chosen: list[Tensor] = []

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        self._choose(input_ids)
        self._step = (scores / self._temperature).log_softmax(-1)
        return self._step

    def of(self, sequences: Tensor) -> Tensor:
        """All of them [B, n], once `generate` has returned its sequences."""
        self._choose(sequences)
        return torch.stack(self._chosen, dim=1)

    def _choose(self, ids: Tensor) -> None:
        if self._step is not None:
            self._chosen.append(self._step.gather(1, ids[:, -1:])[:, 0])
