"""Which sequences share a micro-batch: as few micro-batches as two simple rules find.

That is bin packing. Best fit, longest first, is good where a micro-batch holds many sequences or
two; where it holds three or four, looking for the best pair of last ones is better. Both are tried.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections.abc import Sequence

CLOSE = 0.01
"""A share of the limit: a micro-batch that lacks no more is full."""

Sized = tuple[int, int]  # (tokens, index): ties have one order, so the result is always the same


def pack_bins(lengths: Sequence[int], limit: int) -> list[list[int]]:
    """The indices of the sequences in each micro-batch; every index is in one of them.

    The lengths in a micro-batch add up to at most `limit`; only a sequence that is longer has one
    of its own. The micro-batch of the longest sequence comes first.

    >>> bins([5, 9, 4, 1, 30], 10)
    [[4], [1, 3], [0, 2]]
    """
    ascending = sorted((length, -i) for i, length in enumerate(lengths))
    packed = min(_best_fit(ascending, limit), _best_pairs(ascending, limit), key=len)
    return [[-i for _, i in sequences] for sequences in packed]


def _best_fit(ascending: Sequence[Sized], limit: int) -> list[list[Sized]]:
    """Each sequence, longest first, to the micro-batch that it fills best."""
    packed: list[list[Sized]] = []
    rooms: list[Sized] = []  # (tokens, number of the micro-batch), ascending
    for sequence in reversed(ascending):
        length = sequence[0]
        at = bisect_left(rooms, (length, 0))
        if at == len(rooms):
            rooms.append((limit, len(packed)))
            packed.append([])
        room, number = rooms.pop(at)
        packed[number].append(sequence)
        insort(rooms, (room - length, number))
    return packed


def _best_pairs(ascending: Sequence[Sized], limit: int) -> list[list[Sized]]:
    """One micro-batch after the other: the longest sequence, then what fills the rest best."""
    left = list(ascending)
    packed = []
    while left:
        sequences = [left.pop()]
        room = limit - sequences[0][0]
        while (fitting := bisect_right(left, (room, 0))) > 0:
            for at in _next(left, fitting, room, close=round(CLOSE * limit)):
                sequences.append(left.pop(at))
                room -= sequences[-1][0]
        packed.append(sequences)
    return packed


def _next(left: Sequence[Sized], fitting: int, room: int, close: int) -> tuple[int, ...]:
    """The longest of the first `fitting` sequences, or the pair that fills `room` better."""
    longest = left[fitting - 1][0]
    if room - longest <= close or room > 2 * longest:
        return (fitting - 1,)
    best: tuple[int, ...] = (fitting - 1,)
    filled = longest
    low, high = 0, fitting - 1
    while low < high:
        together = left[low][0] + left[high][0]
        if filled < together <= room:
            best, filled = (high, low), together
        if together > room:
            high -= 1
        else:
            low += 1
    return best
