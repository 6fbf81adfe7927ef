"""Examples, packed into micro-batches without padding.

A training step is cut into mini-batches (one optimizer step each) of whole sequences, and those
into micro-batches (one forward and backward each) of at most `micro_batch_tokens` tokens, as few
as `packing` finds. The mask and the aggregation over the *mini-batch* are folded into each token's
weight here, so the losses of its micro-batches add up to the loss of the optimizer step, whichever
sequences share a micro-batch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from exprl.config import Aggregation
from exprl.learn.packing import pack_bins
from exprl.types import (
    BoolArray,
    Example,
    Float64Array,
    Int32Array,
    Packed,
    Scored,
    TrainBatch,
)


def rollout_examples(
    scored: Sequence[Scored],
    advantages: Sequence[Float64Array],
    teacher_prompts: Mapping[str, Int32Array] | None = None,
) -> list[Example]:
    """The rollouts that are in the loss.

    Args:
        scored: rollouts of the step, groups together.
        advantages: per rollout [T], or [1] where one number holds for the whole rollout, or [0]
            where the loss reads none; NaN marks a rollout that is out of the loss.
        teacher_prompts: by problem id, for distillation.
    """
    return [
        Example(
            prompt_ids=s.rollout.prompt_ids,
            token_ids=s.rollout.token_ids,
            generator_logp=s.rollout.generator_logp,
            advantages=a if len(a) else np.zeros(1),
            segment_tokens=_segment_tokens(s, a),
            versions=s.rollout.versions,
            teacher_ids=teacher_prompts[s.rollout.problem_id] if teacher_prompts else None,
        )
        for s, a in zip(scored, advantages, strict=True)
        if not s.masked and not np.isnan(a).any()
    ]


def solution_examples(pairs: Sequence[tuple[Int32Array, Int32Array]]) -> list[Example]:
    """Prompts, each with a solution to imitate: one segment, with advantage 1."""
    return [
        Example(
            prompt_ids=prompt_ids,
            token_ids=token_ids,
            generator_logp=np.full(len(token_ids), np.nan, dtype=np.float32),
            advantages=np.ones(1),
            segment_tokens=(len(token_ids),),
        )
        for prompt_ids, token_ids in pairs
    ]


def pack(
    examples: Sequence[Example],
    *,
    mini_batches: int,
    micro_batch_tokens: int,
    aggregation: Aggregation,
    max_response_tokens: int,
    oldest_version: int | None = None,
) -> list[list[TrainBatch]]:
    """Pack the examples of a step: a list of mini-batches, each a list of micro-batches.

    Within a micro-batch the longest sequence comes first, so those of one length lie together: the
    attention of a CPU is computed once for each run of them (attention.py).

    Args:
        micro_batch_tokens: of prompts and responses, or of the teacher's sequences where those are
            longer. A single longer example has a micro-batch of its own.
        max_response_tokens: the constant divisor of `sequence_sum` (Dr. GRPO).
        oldest_version: tokens that an older policy sampled weigh 0, and the means are taken over
            the others; an example of such tokens alone is left out (rollout.max_lag).

    Returns:
        At most `mini_batches` lists; fewer where there are fewer examples. Empty without any.
    """
    examples = [e for e in examples if find_recent(e, oldest_version).any()]
    result = []
    for chunk in np.array_split(np.arange(len(examples)), mini_batches):
        mini = [examples[i] for i in chunk]
        if mini:
            recent = [find_recent(example, oldest_version) for example in mini]
            weights = _token_weights(recent, aggregation, max_response_tokens)
            result.append(
                [
                    _train_batch([mini[i] for i in part], [weights[i] for i in part])
                    for part in _micro_batches(mini, micro_batch_tokens)
                ]
            )
    return result


def find_recent(example: Example, oldest_version: int | None) -> BoolArray:
    """Which tokens [n] of an example no policy before `oldest_version` sampled; None = all."""
    if oldest_version is None or example.versions is None:
        return np.ones(len(example.token_ids), dtype=np.bool_)
    return example.versions >= oldest_version


def fill_rate(batches: Sequence[Sequence[TrainBatch]], micro_batch_tokens: int) -> float:
    """How full the micro-batches of `pack` are: their tokens by what they may hold; NaN of none."""
    sizes = [
        max(len(b.input_ids), len(b.teacher.input_ids) if b.teacher else 0)
        for mini in batches
        for b in mini
    ]
    room = sum(max(size, micro_batch_tokens) for size in sizes)
    return sum(sizes) / room if room else float("nan")


def _token_weights(
    in_loss: Sequence[BoolArray], aggregation: Aggregation, max_tokens: int
) -> list[Float64Array]:
    """The loss weights [n] of each example's tokens.

    Args:
        in_loss: [n] of each example, which tokens are in the loss; at least one of each.
    """
    lengths = [int(tokens.sum()) for tokens in in_loss]
    count = len(in_loss)
    match aggregation:
        case "token_mean":
            weights = [1.0 / sum(lengths)] * count
        case "sequence_mean":
            weights = [1.0 / (count * length) for length in lengths]
        case "sequence_sum":
            weights = [1.0 / (count * max_tokens)] * count
    return [np.where(tokens, weight, 0.0) for tokens, weight in zip(in_loss, weights, strict=True)]


def _micro_batches(mini: Sequence[Example], max_tokens: int) -> list[list[int]]:
    """Indices into `mini` of each micro-batch, longest sequence first."""
    prompts = [len(e.prompt_ids) for e in mini]
    teachers = [0 if e.teacher_ids is None else len(e.teacher_ids) for e in mini]
    responses = [len(e.token_ids) for e in mini]
    sizes = [max(p, t) + r for p, t, r in zip(prompts, teachers, responses, strict=True)]
    return [
        sorted(part, key=lambda i: (-prompts[i] - responses[i], i))
        for part in pack_bins(sizes, max_tokens)
    ]


def _train_batch(examples: Sequence[Example], weights: Sequence[Float64Array]) -> TrainBatch:
    tokens = [e.token_ids for e in examples]
    segment_tokens = np.concatenate([e.segment_tokens for e in examples])
    teacher_ids = [e.teacher_ids for e in examples if e.teacher_ids is not None]
    return TrainBatch(
        **_packed([e.prompt_ids for e in examples], tokens),
        generator_logp=np.concatenate([e.generator_logp for e in examples]),
        token_weight=np.concatenate(weights).astype(np.float32),
        seg_adv=np.concatenate([e.advantages for e in examples]).astype(np.float32),
        seg_id=np.repeat(np.arange(len(segment_tokens)), segment_tokens).astype(np.int32),
        teacher=Packed(**_packed(teacher_ids, tokens)) if teacher_ids else None,
    )


def _packed(prompts: Sequence[Int32Array], tokens: Sequence[Int32Array]) -> dict[str, Any]:
    """The fields of a Packed."""
    lengths = np.array([len(p) + len(t) for p, t in zip(prompts, tokens, strict=True)])
    cu_seqlens = np.concatenate([[0], np.cumsum(lengths)])
    targets = [np.arange(end - len(t), end) for t, end in zip(tokens, cu_seqlens[1:], strict=True)]
    return {
        "input_ids": np.concatenate(
            [ids for pair in zip(prompts, tokens, strict=True) for ids in pair]
        ).astype(np.int64),
        "position_ids": np.concatenate([np.arange(n) for n in lengths]),
        "cu_seqlens": cu_seqlens.astype(np.int32),
        "target_pos": np.concatenate(targets),
    }


def _segment_tokens(scored: Scored, advantages: Float64Array) -> tuple[int, ...]:
    """Tokens under each advantage: one count per segment, or all of them for a single one."""
    if len(advantages) <= 1:
        return (len(scored.rollout.token_ids),)
    if len(advantages) != len(scored.segments):
        raise ValueError(
            f"{len(advantages)} advantages for the {len(scored.segments)} segments of"
            f" rollout {scored.rollout.index} of {scored.rollout.problem_id!r}"
        )
    return tuple(segment.end - segment.start for segment in scored.segments)
