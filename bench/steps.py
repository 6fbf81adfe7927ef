"""Steps of 576 rollouts of 6,500 tokens: exprl.steps against a window decoded per token.

The rival is the straightforward way, written from the description of the published code: after
every token, decode the last ten tokens and look whether the delimiter has just been completed.
The bar is for transformers' tokenizer on a tensor of ids, which is what a trainer's batch holds;
the same loop over Python lists, and over lists with the bare `tokenizers` library, is faster.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Sequence

import numpy as np
import torch
from _row import Row, report, seconds
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from exprl.steps import Splitter

ROLLOUTS = 576
TOKENS = 6_500
VOCABULARY = 50_000
WINDOW = 10
# The rival is measured on these many rollouts and scaled.
RIVAL_ROLLOUTS = 4
DELIMITER = "###"
BAR = 500


def words(count: int, rng: random.Random) -> list[str]:
    vowels = ("a", "e", "i", "o", "u", "an", "er")
    syllables = [consonant + vowel for consonant in "bcdfghjklmnpqrstvwxz" for vowel in vowels]
    return ["".join(rng.choices(syllables, k=rng.randint(1, 5))) for _ in range(count)]


def trace(vocabulary: list[str], weights: list[float], steps: int, rng: random.Random) -> str:
    """Steps of prose and arithmetic under `###` headings."""
    parts = []
    for step in range(steps):
        body = rng.choices(vocabulary, cum_weights=weights, k=rng.randint(80, 160))
        for _ in range(12):
            a, b = rng.randint(2, 999), rng.randint(2, 999)
            body.insert(rng.randrange(len(body)), f"{a} * {b} = {a * b}.\n")
        parts.append(f"### Step {step + 1}\n{' '.join(body)}\n\n")
    return "".join(parts)


def train_tokenizer(texts: list[str]) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=["<eos>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def workload() -> tuple[Tokenizer, list[list[int]]]:
    rng = random.Random(0)
    vocabulary = words(120_000, rng)
    total, weights = 0.0, []
    for rank in range(len(vocabulary)):
        total += 1 / (rank + 10)
        weights.append(total)
    texts = [trace(vocabulary, weights, 40, rng) for _ in range(ROLLOUTS)]
    tokenizer = train_tokenizer([*texts[:64], " ".join(vocabulary)])
    rollouts = [encoding.ids for encoding in tokenizer.encode_batch_fast(texts)]
    shortest = min(map(len, rollouts))
    if shortest < TOKENS:
        raise SystemExit(f"a trace has {shortest} tokens, not {TOKENS}: write more steps")
    return tokenizer, [ids[:TOKENS] for ids in rollouts]


def completed_delimiters(decode: Callable[[Sequence[int]], str], ids: Sequence[int]) -> list[int]:
    """Indices of the tokens that complete a delimiter."""
    return [
        end - 1
        for end in range(1, len(ids) + 1)
        if decode(ids[max(0, end - WINDOW) : end]).endswith(DELIMITER)
    ]


def main() -> None:
    torch.set_num_threads(1)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    tokenizer, rollouts = workload()
    transformers_decode = PreTrainedTokenizerFast(tokenizer_object=tokenizer).decode
    splitter = Splitter(tokenizer.to_str(), delimiter=DELIMITER)
    subset = rollouts[:RIVAL_ROLLOUTS]
    for ids in subset:
        starts = [segment.start for segment in splitter.split(ids)]
        assert starts == completed_delimiters(tokenizer.decode, ids), "the outputs differ"

    arrays = [np.array(ids, dtype=np.int32) for ids in rollouts]
    tensors = [torch.tensor(ids) for ids in subset]
    ours = Row("exprl.steps", seconds(lambda: [splitter.split(ids) for ids in arrays], repeats=15))
    ours.extra.update(
        rollouts=ROLLOUTS,
        tokens=ROLLOUTS * TOKENS,
        vocabulary=VOCABULARY,
        segments=sum(len(splitter.split(ids)) for ids in arrays),
    )
    rows = [ours]
    scale = ROLLOUTS / RIVAL_ROLLOUTS
    for name, decode, inputs in (
        ("window of a tensor, transformers", transformers_decode, tensors),
        ("window of a list, transformers", transformers_decode, subset),
        ("window of a list, tokenizers", tokenizer.decode, subset),
    ):
        taken = seconds(
            lambda decode=decode, inputs=inputs: [completed_delimiters(decode, i) for i in inputs],
            repeats=3,
            warmups=0,
        )
        note = f"measured on {RIVAL_ROLLOUTS} rollouts, times {scale:g}"
        row = Row(name, [scale * second for second in taken], note=note)
        row.extra.update(ours.extra, exprl_times_faster=row.median / ours.median)
        rows.append(row)
    report("steps", rows, ["tokenizers", "torch", "transformers"])
    for row in rows[1:]:
        print(f"{row.extra['exprl_times_faster']:,.0f} times faster than {row.name}")
    build = seconds(lambda: Splitter(tokenizer.to_str(), delimiter=DELIMITER), repeats=3)
    print(f"once per run: {min(build):.2f} s to build the table of {VOCABULARY:,} entries")
    short = [row.name for row in rows[1:] if row.extra["exprl_times_faster"] < BAR]
    if short:
        raise SystemExit(f"below the bar of {BAR} times: {', '.join(short)}")


if __name__ == "__main__":
    main()
