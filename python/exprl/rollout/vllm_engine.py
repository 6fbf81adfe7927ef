"""vLLM in this process; each rollout comes out as soon as it is finished."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from exprl import config
from exprl.data.turns import find_stops
from exprl.errors import EngineError
from exprl.rollout.engine import (
    NO_POLICY,
    NO_VLLM,
    Start,
    continuation_starts,
    prompt_starts,
    rollout_seed,
)
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
        self.policy_version = 0
        self._model = model
        self._stops = find_stops(tokenizer, model)
        self._llm = _start(model, rollout, weights)

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
        begin = continuation_starts(self.tokenizer, self._model, beginnings)
        return self._generate(begin, n, seed, temperature, max_response_tokens, config.ALL_TOKENS)

    def logp(self, token_ids: Int32Array) -> Sequence[Float32Array]:
        """See Engine.logp. vLLM neither scales a prompt's logits nor takes them from its cache."""
        from vllm import SamplingParams

        params = SamplingParams(temperature=0, max_tokens=1, prompt_logprobs=0, detokenize=False)
        self._llm.add_request("logp", {"prompt_token_ids": token_ids.tolist()}, params)
        outputs = []
        while self._llm.has_unfinished_requests():
            outputs += self._step()
        found = outputs[-1].prompt_logprobs[1:]
        pairs = zip(found, token_ids[1:].tolist(), strict=True)
        return [np.array([at[token].logprob for at, token in pairs], dtype=np.float32)]

    def _generate(
        self,
        begin: Sequence[Start],
        n: int,
        seed: int,
        temperature: float,
        max_response_tokens: int,
        truncation: config.Truncation,
    ) -> Iterator[Rollout]:
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        waiting: dict[str, tuple[Start, int]] = {}
        for start in begin:
            for index in range(n):
                key = f"{len(waiting)}"
                waiting[key] = (start, index)
                params = SamplingParams(
                    temperature=temperature,
                    top_p=truncation.top_p,
                    top_k=truncation.top_k,
                    min_p=truncation.min_p,
                    stop_token_ids=list(self._stops),
                    max_tokens=max_response_tokens - start.given,
                    seed=rollout_seed(seed, start.name, index),
                    logprobs=0,
                    detokenize=False,
                    output_kind=RequestOutputKind.FINAL_ONLY,
                )
                self._llm.add_request(key, {"prompt_token_ids": start.ids}, params)
        try:
            while self._llm.has_unfinished_requests():
                for output in self._step():
                    if output.finished:
                        yield self._rollout(*waiting.pop(output.request_id), output.outputs[0])
        finally:
            if waiting:  # the caller left early, or the engine failed
                self._llm.abort_request(list(waiting))

    def load_weights(self, weights: Iterable[tuple[str, Any]], version: int) -> None:
        """See Engine.load_weights."""
        self._llm.collective_rpc("reload_weights", kwargs={"weights_iterator": iter(weights)})
        if not self._llm.reset_prefix_cache():
            raise EngineError(
                "vLLM kept its prefix cache after a weight update: requests in flight"
            )
        self.policy_version = version

    def sleep(self) -> None:
        """Free the GPU for the trainer: weights and KV cache are dropped."""
        sleeps = self._llm.vllm_config.model_config.enable_sleep_mode
        if sleeps and not self._llm.is_sleeping():
            self._llm.sleep(level=2)
            self.policy_version = NO_POLICY

    def wake(self, part: str) -> None:
        """See Engine.wake."""
        sleeps = self._llm.vllm_config.model_config.enable_sleep_mode
        if sleeps and self._llm.is_sleeping():
            self._llm.wake_up([part])

    def stats(self) -> None:
        """See Engine.stats."""

    def close(self) -> None:
        """See Engine.close: vLLM ends with this process."""

    def _step(self) -> Any:
        import torch

        # vLLM compiles one small function of its sampler even in eager mode: on a CPU that costs
        # more than it ever saves.
        stance = "default" if torch.cuda.is_available() else "force_eager"
        with torch.compiler.set_stance(stance):
            return self._llm.step()

    def _rollout(self, start: Start, index: int, out: Any) -> Rollout:
        finish = FINISH_REASONS.get(out.finish_reason, "failed")
        tokens = np.array(out.token_ids, dtype=np.int32)
        logp = [
            at[token].logprob for at, token in zip(out.logprobs or (), out.token_ids, strict=False)
        ]
        if len(logp) != len(tokens) or len(tokens) == 0:
            finish = "failed"
        return Rollout(
            problem_id=start.name,
            index=index,
            prompt_ids=np.array(start.ids, dtype=np.int32),
            token_ids=tokens,
            generator_logp=np.array(logp, dtype=np.float32),
            finish_reason=finish,
            versions=np.full(len(tokens), self.policy_version, dtype=np.int32),
            opening=start.opening,
        )


def _start(model: config.Model, rollout: config.Rollout, weights: str) -> Any:
    import torch

    cuda = torch.cuda.is_available()
    _quiet()
    os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    max_len = rollout.max_prompt_tokens + rollout.max_response_tokens
    special: dict[str, Any]
    if cuda:
        special = {"enable_sleep_mode": True, "enforce_eager": rollout.enforce_eager}
    else:
        os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
        # A prompt cut over two steps would need a seeded CPU generator's offset, which torch lacks.
        special = {
            "enforce_eager": True,
            "enable_chunked_prefill": False,
            "max_num_batched_tokens": max(2048, max_len),
        }
    try:
        from vllm import EngineArgs, LLMEngine
    except ImportError as error:
        raise EngineError(NO_VLLM) from error
    try:
        return LLMEngine.from_engine_args(
            EngineArgs(
                model=weights,
                tokenizer=weights,
                dtype=model.dtype,
                trust_remote_code=model.trust_remote_code,
                max_model_len=max_len,
                max_num_seqs=rollout.max_num_seqs,
                gpu_memory_utilization=rollout.gpu_memory_utilization,
                # The log-probs of the distribution that was sampled from, temperature included.
                logprobs_mode="processed_logprobs",
                disable_log_stats=True,
                use_tqdm_on_load=False,
                seed=0,
                **special,
            )
        )
    except Exception as error:  # vLLM raises what it likes
        raise EngineError(
            f"vLLM did not start on {weights!r} for {max_len} tokens: {_reason(error)}; where"
            " memory is short, change rollout.gpu_memory_utilization, or lower"
            " rollout.max_response_tokens or rollout.max_num_seqs"
        ) from error


def _reason(error: BaseException) -> str:
    """The first lines of an error, which may go on for pages."""
    said = str(error).strip().splitlines() or [""]
    return " ".join(f"{type(error).__name__}: {' '.join(said[:4])}".split())[:600]


def _quiet() -> None:
    """Errors only: vLLM's notes would drown the run's own lines. VLLM_LOGGING_LEVEL overrides."""
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    logging.getLogger("vllm").setLevel(os.environ["VLLM_LOGGING_LEVEL"])
    warnings.filterwarnings("ignore", category=FutureWarning, module="vllm")
