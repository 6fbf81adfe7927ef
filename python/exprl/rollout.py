"""Prompts, to rollouts, by vLLM in this process; each comes out as soon as it is finished.

Only Prompts enter here, so no reference can reach the policy. Text never enters either: prompts
go in as token ids and solutions come out as token ids, with the engine's own log-probs.
"""

from __future__ import annotations

import hashlib
import logging
import os
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from exprl import config
from exprl.errors import ConfigError, DataError, EngineError
from exprl.types import FinishReason, Int32Array, Message, Prompt, Rollout

# No policy has this version: the engine holds the weights of another run, or none.
NO_POLICY = -1
FINISH_REASONS: dict[str | None, FinishReason] = {"stop": "stop", "length": "length"}


class Engine:
    """vLLM behind the few words that the loop says to it.

    policy_version: of the weights it samples with; weights.py sets it.
    """

    def __init__(
        self, model: config.Model, rollout: config.Rollout, *, tokenizer: Any, weights: str
    ) -> None:
        """Start the engine on the weights in the folder or hub id `weights`.

        Raises:
            EngineError: vLLM is not installed or did not start.
        """
        self.tokenizer = tokenizer
        self.policy_version = 0
        self._llm = _start(model, rollout, weights)

    def sample(
        self,
        prompts: Sequence[Prompt],
        n: int,
        seed: int,
        temperature: float,
        max_response_tokens: int,
    ) -> Iterator[Rollout]:
        """Sample n solutions of each prompt, yielded as they finish.

        Each rollout has a seed of its own, made of `seed`, the problem's id and its index, so the
        same call on the same weights gives the same rollouts.
        """
        starts = [(p.problem_id, prompt_ids(self.tokenizer, p), 0) for p in prompts]
        return self._generate(starts, n, seed, temperature, max_response_tokens)

    def go_on(
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
        starts = [
            (name, prompt_ids(self.tokenizer, prompt) + tokens.tolist(), len(tokens))
            for name, prompt, tokens in beginnings
        ]
        return self._generate(starts, n, seed, temperature, max_response_tokens)

    def _generate(
        self,
        starts: Sequence[tuple[str, list[int], int]],
        n: int,
        seed: int,
        temperature: float,
        max_response_tokens: int,
    ) -> Iterator[Rollout]:
        """Sample from token ids, the last of which may be response tokens already (their count)."""
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        waiting: dict[str, tuple[str, int, Int32Array]] = {}
        for name, ids, already in starts:
            for index in range(n):
                key = f"{len(waiting)}"
                waiting[key] = (name, index, np.array(ids, dtype=np.int32))
                params = SamplingParams(
                    temperature=temperature,
                    top_p=1.0,
                    top_k=-1,
                    max_tokens=max_response_tokens - already,
                    seed=rollout_seed(seed, name, index),
                    logprobs=0,
                    detokenize=False,
                    output_kind=RequestOutputKind.FINAL_ONLY,
                )
                self._llm.add_request(key, {"prompt_token_ids": ids}, params)
        try:
            while self._llm.has_unfinished_requests():
                for output in self._step():
                    if output.finished:
                        yield self._rollout(*waiting.pop(output.request_id), output.outputs[0])
        finally:
            if waiting:  # the caller left early, or the engine failed
                self._llm.abort_request(list(waiting))

    def load_weights(self, weights: Iterator[tuple[str, Any]], version: int) -> None:
        """Replace the weights in place; nothing computed with the old ones is kept."""
        self._llm.collective_rpc("reload_weights", kwargs={"weights_iterator": weights})
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
        """Take memory back for `weights` (before a sync) or `kv_cache` (after it)."""
        sleeps = self._llm.vllm_config.model_config.enable_sleep_mode
        if sleeps and self._llm.is_sleeping():
            self._llm.wake_up([part])

    def _step(self) -> Any:
        import torch

        # vLLM compiles one small function of its sampler even in eager mode: on a CPU that costs
        # more than it ever saves.
        stance = "default" if torch.cuda.is_available() else "force_eager"
        with torch.compiler.set_stance(stance):
            return self._llm.step()

    def _rollout(self, problem_id: str, index: int, prompt_ids: Int32Array, out: Any) -> Rollout:
        finish = FINISH_REASONS.get(out.finish_reason, "failed")
        tokens = np.array(out.token_ids, dtype=np.int32)
        logp = [
            at[token].logprob for at, token in zip(out.logprobs or (), out.token_ids, strict=False)
        ]
        if len(logp) != len(tokens) or len(tokens) == 0:
            finish = "failed"
        return Rollout(
            problem_id=problem_id,
            index=index,
            prompt_ids=prompt_ids,
            token_ids=tokens,
            generator_logp=np.array(logp, dtype=np.float32),
            finish_reason=finish,
            versions=np.full(len(tokens), self.policy_version, dtype=np.int32),
        )


def prompt_ids(tokenizer: Any, prompt: Prompt) -> list[int]:
    """The tokens that the policy is given."""
    return chat_ids(tokenizer, prompt.messages)


def chat_ids(tokenizer: Any, messages: Sequence[Message]) -> list[int]:
    """The chat template up to the assistant's turn.

    Raises:
        DataError: template or tokenizer refuse the messages.
    """
    try:
        ids: list[int] = tokenizer.apply_chat_template(
            [{"role": m.role, "content": m.content} for m in messages],
            add_generation_prompt=True,
            tokenize=True,
            return_dict=False,
        )
    except Exception as error:  # `tokenizers` raises nothing narrower, templates what they like
        raise DataError(
            "the model's chat template or tokenizer refuses the prompt"
            f" {messages[-1].content[:80]!r}: {error}"
        ) from error
    return ids


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


def load_tokenizer(model: config.Model) -> Any:
    """The policy's tokenizer, with a chat template.

    Raises:
        ConfigError: no tokenizer there, a slow one, or one without a chat template.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(
            model.path, trust_remote_code=model.trust_remote_code
        )
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"model.path = {model.path!r} has no usable tokenizer: {error}"
        ) from error
    if not tokenizer.is_fast:
        raise ConfigError(
            f"the tokenizer of {model.path!r} has no tokenizer.json; convert it to a fast tokenizer"
        )
    if model.chat_template is not None:
        try:
            tokenizer.chat_template = Path(model.chat_template).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(
                f"model.chat_template = {model.chat_template!r} cannot be read: {error}"
            ) from None
    if not tokenizer.chat_template:
        raise ConfigError(
            f"the tokenizer of {model.path!r} has no chat template; set model.chat_template to a"
            " Jinja file"
        )
    return tokenizer


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
        raise EngineError(
            "vLLM is not installed: install the extra `cpu` or `gpu` (docs/install.md)"
        ) from error
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


def _quiet() -> None:
    """Errors only: vLLM's notes would drown the run's own lines. VLLM_LOGGING_LEVEL overrides."""
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    logging.getLogger("vllm").setLevel(os.environ["VLLM_LOGGING_LEVEL"])
    warnings.filterwarnings("ignore", category=FutureWarning, module="vllm")
