"""vLLM's engine, one step at a time: requests of token ids go in, samples come out.

Used in the trainer's process (vllm_engine.py) and in one of its own (child_process.py). What goes
in and comes out are numbers only, so that it can cross a pipe as JSON.
"""

from __future__ import annotations

import gc
import logging
import os
import warnings
from collections.abc import Collection, Iterable, Iterator
from typing import Any, NamedTuple

from exprl import config
from exprl.errors import EngineError
from exprl.rollout.engine import NO_VLLM


class Sampling(NamedTuple):
    """What the requests of one call share (config.Truncation has the meaning of the last three)."""

    temperature: float
    top_p: float
    top_k: int
    min_p: float


class Sample(NamedTuple):
    """What became of a request.

    token_ids: those that were sampled.
    logp: their log-probs, or those of the prompt's tokens but the first (`VllmCore.add_logp`).
    finish_reason: vLLM's own word.
    versions: (policy version, how many tokens it sampled), in the tokens' order.
    """

    token_ids: list[int]
    logp: list[float]
    finish_reason: str | None
    versions: list[tuple[int, int]]


class VllmCore:
    """One engine; not safe for threads."""

    def __init__(
        self,
        model: config.Model,
        rollout: config.Rollout,
        *,
        weights: str,
        stops: Iterable[int],
        sleeps: bool,
    ) -> None:
        """Start the engine on the weights in the folder or hub id `weights`, named version 0.

        Args:
            stops: token ids that end a rollout.
            sleeps: whether it can leave its GPU to another (`sleep`).

        Raises:
            EngineError: vLLM is not installed or did not start.
        """
        self._stops = list(stops)
        self._llm = _start(model, rollout, weights, sleeps=sleeps)
        self.set_version(0)

    @property
    def busy(self) -> bool:
        """Whether a request is unfinished."""
        return bool(self._llm.has_unfinished_requests())

    def add(self, key: str, ids: list[int], max_tokens: int, seed: int, how: Sampling) -> None:
        """Ask for at most `max_tokens` tokens after `ids`; `step` gives them back under `key`."""
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        params = SamplingParams(
            temperature=how.temperature,
            top_p=how.top_p,
            top_k=how.top_k,
            min_p=how.min_p,
            stop_token_ids=self._stops,
            max_tokens=max_tokens,
            seed=seed,
            logprobs=0,  # of the sampled token alone: one number for each
            flat_logprobs=True,
            detokenize=False,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )
        self._llm.add_request(key, {"prompt_token_ids": ids}, params)

    def add_logp(self, key: str, ids: list[int]) -> None:
        """Ask for the log-probs of `ids` at temperature 1.

        vLLM neither scales a prompt's logits nor takes them from its cache.
        """
        from vllm import SamplingParams

        params = SamplingParams(temperature=0, max_tokens=1, prompt_logprobs=0, detokenize=False)
        self._llm.add_request(key, {"prompt_token_ids": ids}, params)

    def abort(self, keys: Collection[str]) -> None:
        """Drop requests that nobody waits for any more."""
        if keys:
            self._llm.abort_request(list(keys))

    def step(self) -> Iterator[tuple[str, Sample]]:
        """One forward of every request that runs; those that it finished."""
        import torch

        # vLLM compiles one small function of its sampler even in eager mode: on a CPU that costs
        # more than it ever saves.
        stance = "default" if torch.cuda.is_available() else "force_eager"
        with torch.compiler.set_stance(stance):
            outputs = self._llm.step()
        for output in outputs:
            if output.finished:
                yield output.request_id, _read(output)

    def load_weights(self, weights: Iterable[tuple[str, Any]], version: int) -> None:
        """Replace the weights between two steps; running requests go on with the new ones.

        What they computed with the old ones is dropped: their KV is computed anew, so that each
        token is sampled by the policy that its version names.
        """
        self._llm.collective_rpc("reload_weights", kwargs={"weights_iterator": iter(weights)})
        self._llm.reset_prefix_cache(reset_running_requests=True)
        self.set_version(version)

    def set_version(self, version: int) -> None:
        """Name the weights that it holds."""
        self._llm.set_weight_version(str(version))

    @property
    def sleeping(self) -> bool:
        """Whether it has left its GPU."""
        return bool(self._sleeps and self._llm.is_sleeping())

    def sleep(self) -> bool:
        """Drop weights and KV cache; False where it cannot, or has already."""
        if not self._sleeps or self.sleeping:
            return False
        self._llm.sleep(level=2)
        return True

    def wake(self, part: str) -> None:
        """See Engine.wake."""
        if self.sleeping:
            self._llm.wake_up([part])

    @property
    def _sleeps(self) -> bool:
        return bool(self._llm.vllm_config.model_config.enable_sleep_mode)


def _read(output: Any) -> Sample:
    out = output.outputs[0]
    if output.prompt_logprobs is not None:
        pairs = zip(output.prompt_logprobs[1:], output.prompt_token_ids[1:], strict=True)
        return Sample([], [at[token].logprob for at, token in pairs], out.finish_reason, [])
    return Sample(
        list(out.token_ids),
        list(out.logprobs.logprobs) if out.logprobs else [],
        out.finish_reason,
        [(int(span.version), span.end - span.start) for span in out.weight_versions or ()],
    )


def _start(model: config.Model, rollout: config.Rollout, weights: str, *, sleeps: bool) -> Any:
    import torch

    cuda = torch.cuda.is_available()
    _quiet()
    os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    max_len = rollout.max_prompt_tokens + rollout.max_response_tokens
    special: dict[str, Any]
    if cuda:
        special = {"enable_sleep_mode": sleeps, "enforce_eager": rollout.enforce_eager}
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
    # vLLM's process groups belong to the process, and an engine that is collected ends them. An
    # earlier engine of this process, which vLLM has frozen, goes now and not under the new one.
    gc.unfreeze()
    gc.collect()
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
