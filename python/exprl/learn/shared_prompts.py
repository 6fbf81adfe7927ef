"""A packed row in which each prompt lies once, with all its responses behind it.

The rollouts of a group answer the same prompt. In a plain row each of them brings its own copy,
and the model computes every copy. Here a response sees the one prompt and itself, and takes the
positions that it would have had behind its own copy. So the states are the same, and a group of G
rollouts with P prompt and R response tokens costs P + G R tokens, where it cost G (P + R).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from exprl.types import Int64Array, Packed


class Family(NamedTuple):
    """A prompt and the responses that lie behind it in a row: their tokens."""

    prompt: int
    responses: tuple[int, ...]


@dataclass(frozen=True, slots=True, eq=False)
class SharedRow:
    """What the model reads, and where its states are those that a Packed asks for.

    input_ids, position_ids: [L'] int64.
    predicting: [N'] int64, the position whose state predicts each token of Packed.target_pos.
    families: what lies in the row, in order; their tokens add up to L'.
    """

    input_ids: Int64Array
    position_ids: Int64Array
    predicting: Int64Array
    families: tuple[Family, ...]


def share_prompts(batch: Packed) -> SharedRow:
    """The row of a batch, each prompt once; the responses of a prompt keep their order.

    Args:
        batch: each sequence ends in the response tokens that are looked at, one at least.

    >>> ids = np.array([7, 8, 1, 2, 7, 8, 3])  # the prompt 7 8 with the responses 1 2 and 3
    >>> positions = np.array([0, 1, 2, 3, 0, 1, 2])
    >>> row = share_prompts(Packed(ids, positions, np.array([0, 4, 7]), np.array([2, 3, 6])))
    >>> row.input_ids.tolist(), row.predicting.tolist(), row.families
    ([7, 8, 1, 2, 3], [1, 2, 1], (Family(prompt=2, responses=(2, 1)),))
    """
    begins, ends = batch.cu_seqlens[:-1].astype(np.int64), batch.cu_seqlens[1:].astype(np.int64)
    first = np.searchsorted(batch.target_pos, begins)  # target of each sequence
    answers = batch.target_pos[first]  # where each response begins
    of_prompt: dict[bytes, list[int]] = {}
    for i, (begin, answer) in enumerate(zip(begins, answers, strict=True)):
        of_prompt.setdefault(batch.input_ids[begin:answer].tobytes(), []).append(i)
    source: list[Int64Array] = []  # where in the batch each token of the row lies
    predicting = np.empty_like(batch.target_pos)
    families, end = [], 0
    for members in of_prompt.values():
        prompt = np.arange(begins[members[0]], answers[members[0]])
        source.append(prompt)
        end += len(prompt)
        last = end - 1
        for i in members:
            response = np.arange(answers[i], ends[i])
            source.append(response)
            own = np.arange(end - 1, end - 1 + len(response))  # each token by the one before it,
            own[0] = last  # and the first by the prompt
            predicting[first[i] : first[i] + len(response)] = own
            end += len(response)
        families.append(Family(len(prompt), tuple(int(ends[i] - answers[i]) for i in members)))
    at = np.concatenate(source)
    return SharedRow(batch.input_ids[at], batch.position_ids[at], predicting, tuple(families))
