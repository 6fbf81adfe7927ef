"""Measure a division policy through vLLM: what it can do on easy and on hard problems.

The fields that matter for the base: easy pass@1 about .8, hard solved 0, valid samples near 1.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
from dataclasses import dataclass
from pathlib import Path

# vLLM reads these at import: the engine lives in this process, with 1 GiB for its KV cache.
os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")

from division import DELIMITER, EASY_DIGITS, HARD_DIGITS, Problem, chain, draw_problem
from transformers import AutoTokenizer
from vllm import EngineArgs, LLMEngine, SamplingParams
from vllm.sampling_params import RequestOutputKind

MAX_NEW_TOKENS = 80
STEP = re.compile(r"\d\d/\d=\dr\d")
BOX = re.compile(r"\\boxed\{(\d+r\d)\}")


@dataclass(frozen=True, slots=True)
class Sample:
    """One sampled solution; `text` has no end-of-sequence mark, `stopped` says that it came."""

    problem: Problem
    text: str
    stopped: bool

    @property
    def solved(self) -> bool:
        """Whether the last box holds the answer."""
        boxes = BOX.findall(self.text)
        return self.stopped and bool(boxes) and boxes[-1] == self.problem.answer

    @property
    def valid(self) -> bool:
        """Whether the text has one well-formed step per digit, then the box, then the end."""
        *steps, box = self.text.split(DELIMITER)
        return (
            self.stopped
            and len(steps) == len(self.problem.digits)
            and all(STEP.fullmatch(step) for step in steps)
            and BOX.fullmatch(box) is not None
        )

    @property
    def good_steps(self) -> int:
        """Number of segments before the first one that differs from the right chain's."""
        right = chain(self.problem).split(DELIMITER)
        pairs = list(zip(right, self.text.split(DELIMITER), strict=False))
        return next((i for i, (want, got) in enumerate(pairs) if want != got), len(pairs))


def sample(
    engine: LLMEngine, path: str, problems: list[Problem], n: int, seed: int
) -> list[Sample]:
    """Draw `n` samples of every problem at temperature 1, each request with its own seed."""
    tokenizer = AutoTokenizer.from_pretrained(path)
    jobs = [problem for problem in problems for _ in range(n)]
    for index, problem in enumerate(jobs):
        params = SamplingParams(
            temperature=1.0,
            max_tokens=MAX_NEW_TOKENS,
            seed=seed + index,
            detokenize=False,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )
        ids = tokenizer.encode(tokenizer.bos_token + problem.prompt)
        engine.add_request(str(index), {"prompt_token_ids": ids}, params)
    samples = []
    while engine.has_unfinished_requests():
        for finished in engine.step():
            output = finished.outputs[0]
            text = tokenizer.decode(list(output.token_ids)).removesuffix(tokenizer.eos_token)
            stopped = output.finish_reason == "stop"
            samples.append(Sample(jobs[int(finished.request_id)], text, stopped))
    return samples


def mean(values: list[bool]) -> float:
    return sum(values) / len(values)


def measure(path: str, n_problems: int, n_samples: int, seed: int) -> dict[str, float]:
    """Sample `n_problems` fresh easy and hard problems, and count."""
    engine = LLMEngine.from_engine_args(
        EngineArgs(
            model=path,
            dtype="float32",
            max_model_len=128,
            max_num_seqs=256,
            enforce_eager=True,
            logprobs_mode="processed_logprobs",
            # A prompt cut in two by chunked prefill breaks seeded requests on the CPU.
            enable_chunked_prefill=False,
            max_num_batched_tokens=2048,
            disable_log_stats=True,
        )
    )
    rng = random.Random(seed)
    easy = [draw_problem(rng, rng.choice(EASY_DIGITS)) for _ in range(n_problems)]
    hard = [draw_problem(rng, HARD_DIGITS) for _ in range(n_problems)]
    easy_samples = sample(engine, path, easy, 16, seed)
    hard_samples = sample(engine, path, hard, n_samples, seed)
    good = [s.good_steps for s in hard_samples]
    tried = [(i, g) for g in good for i in range(HARD_DIGITS) if g >= i]
    return {
        "easy_pass_at_1": mean([s.solved for s in easy_samples]),
        "easy_valid": mean([s.valid for s in easy_samples]),
        "hard_samples": len(hard_samples),
        "hard_solved": sum(s.solved for s in hard_samples),
        "hard_problems_solved": len({s.problem for s in hard_samples if s.solved}),
        "hard_valid": mean([s.valid for s in hard_samples]),
        "hard_stopped": mean([s.stopped for s in hard_samples]),
        "first_step_right": mean([g >= 1 for g in good]),
        # Of the steps whose predecessors were all right: how many are right too.
        "step_right": mean([g > i for i, g in tried]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("path", nargs="?", default=str(Path(__file__).parent / "base"))
    parser.add_argument("--problems", type=int, default=64)
    parser.add_argument("--samples", type=int, default=128, help="samples per hard problem")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    figures = measure(options.path, options.problems, options.samples, options.seed)
    print(json.dumps({key: round(value, 4) for key, value in figures.items()}, indent=1))


if __name__ == "__main__":
    main()
