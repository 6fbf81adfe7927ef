"""Scored rollouts and their advantages, packed into micro-batches without padding.

A training step is cut into mini-batches (one optimizer step each) of whole rollouts, and those
into micro-batches (one forward and backward each) of at most `micro_batch_tokens` tokens. The
mask and the aggregation over the *mini-batch* are folded into each token's weight here, so the
losses of its micro-batches add up to the loss of the optimizer step.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from exprl.types import Float32Array, Float64Array, Scored, TrainBatch

Aggregation = Literal["token_mean", "sequence_mean", "sequence_sum"]


@dataclass(frozen=True, slots=True, eq=False)
class Weighted:
    """A rollout with one advantage per segment [T] and one loss weight per response token [n]."""

    scored: Scored
    advantages: Float64Array
    token_weight: Float32Array


def pack(
    scored: Sequence[Scored],
    advantages: Sequence[Float64Array],
    *,
    mini_batches: int,
    micro_batch_tokens: int,
    aggregation: Aggregation,
    max_response_tokens: int,
) -> list[list[TrainBatch]]:
    """Pack the rollouts of a step: a list of mini-batches, each a list of micro-batches.

    Args:
        scored: rollouts of the step, groups together.
        advantages: per rollout [T], or [1] where one number holds for the whole rollout; NaN
            marks a rollout that is out of the loss.
        max_response_tokens: the constant divisor of `sequence_sum` (Dr. GRPO).

    Returns:
        At most `mini_batches` lists; fewer where rollouts are out. Empty if all are.
    """
    kept = [
        (s, a)
        for s, a in zip(scored, advantages, strict=True)
        if not s.masked and not np.isnan(a).any()
    ]
    chunks = np.array_split(np.arange(len(kept)), mini_batches)
    result = []
    for chunk in chunks:
        mini = [kept[i] for i in chunk]
        weighted = list(_weigh(mini, aggregation, max_response_tokens))
        if weighted:
            result.append([_concatenate(m) for m in _micro_batches(weighted, micro_batch_tokens)])
    return result


def _weigh(
    mini: Sequence[tuple[Scored, Float64Array]], aggregation: Aggregation, max_tokens: int
) -> Iterator[Weighted]:
    lengths = [len(s.rollout.token_ids) for s, _ in mini]
    for (scored, advantages), length in zip(mini, lengths, strict=True):
        match aggregation:
            case "token_mean":
                weight = 1.0 / sum(lengths)
            case "sequence_mean":
                weight = 1.0 / (len(mini) * length)
            case "sequence_sum":
                weight = 1.0 / (len(mini) * max_tokens)
        yield Weighted(scored, advantages, np.full(length, weight, dtype=np.float32))


def _micro_batches(weighted: Sequence[Weighted], max_tokens: int) -> Iterator[list[Weighted]]:
    """First come, first packed: a rollout that no longer fits opens the next micro-batch."""
    current: list[Weighted] = []
    size = 0
    for item in weighted:
        rollout = item.scored.rollout
        length = len(rollout.prompt_ids) + len(rollout.token_ids)
        if current and size + length > max_tokens:
            yield current
            current, size = [], 0
        current.append(item)
        size += length
    if current:
        yield current


def _concatenate(items: Sequence[Weighted]) -> TrainBatch:
    rollouts = [item.scored.rollout for item in items]
    lengths = np.array([len(r.prompt_ids) + len(r.token_ids) for r in rollouts])
    cu_seqlens = np.concatenate([[0], np.cumsum(lengths)])
    segment_tokens = [_segment_tokens(item) for item in items]
    seg_off = np.cumsum([0, *(len(t) for t in segment_tokens)])
    return TrainBatch(
        input_ids=np.concatenate(
            [ids for r in rollouts for ids in (r.prompt_ids, r.token_ids)]
        ).astype(np.int64),
        position_ids=np.concatenate([np.arange(n) for n in lengths]),
        cu_seqlens=cu_seqlens.astype(np.int32),
        target_pos=np.concatenate(
            [
                np.arange(start + len(r.prompt_ids), end)
                for r, start, end in zip(rollouts, cu_seqlens, cu_seqlens[1:], strict=False)
            ]
        ),
        generator_logp=np.concatenate([r.generator_logp for r in rollouts]),
        token_weight=np.concatenate([item.token_weight for item in items]),
        seg_adv=np.concatenate([item.advantages for item in items]).astype(np.float32),
        seg_id=np.concatenate(
            [
                np.repeat(np.arange(first, first + len(tokens)), tokens)
                for first, tokens in zip(seg_off, segment_tokens, strict=False)
            ]
        ).astype(np.int32),
    )


def _segment_tokens(item: Weighted) -> list[int]:
    """Tokens under each advantage: one count per segment, or all of them for a single one."""
    if len(item.advantages) == 1:
        return [len(item.scored.rollout.token_ids)]
    if len(item.advantages) != len(item.scored.segments):
        raise ValueError(
            f"{len(item.advantages)} advantages for the {len(item.scored.segments)} segments of"
            f" rollout {item.scored.rollout.index} of {item.scored.rollout.problem_id!r}"
        )
    return [segment.end - segment.start for segment in item.scored.segments]
