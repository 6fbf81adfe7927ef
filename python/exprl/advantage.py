"""Scores to advantages: one number per segment, which each of its tokens carries."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from exprl import _core

if TYPE_CHECKING:
    import numpy.typing as npt

    from exprl.types import Float64Array

OutcomeKind = Literal["grpo", "dr_grpo", "rloo", "reinforce"]
"""Kinds for one score per rollout."""
ProcessKind = Literal["delta", "end", "group"]
"""Kinds for one score per step."""
AdvantageKind = Literal[OutcomeKind, ProcessKind]
SingleSegment = Literal["zero", "score", "group"]
Compat = Literal["published"]


def advantages(
    scores: npt.ArrayLike,
    seg_off: npt.ArrayLike,
    group_off: npt.ArrayLike,
    kind: AdvantageKind,
    *,
    single_segment: SingleSegment = "zero",
    compat: Compat | None = None,
    response_width: int | None = None,
) -> Float64Array:
    """Advantages of a batch: G groups of R rollouts of S segments.

    A rollout with a missing score, or without segments, is out: its advantages are NaN, and it is
    in no statistic. The others are valid. Equation numbers are those of arXiv 2606.17024
    (docs/concepts/method.md).

    Outcome kinds, one score s_i per rollout; over the valid rollouts of the group:

    - `grpo`: (s_i - mean) / (std + 1e-6), std with n - 1; 0 in a group of one.
    - `dr_grpo`: s_i - mean.
    - `rloo`: s_i - mean of the others; 0 in a group of one.
    - `reinforce`: s_i - mean over the valid rollouts of the whole batch.

    Process kinds, scores s_1..s_T of a rollout:

    - `delta`: A_1 = s_1 - s_T, A_t = s_t - s_{t-1}; they sum to 0 (eq. 2 and 5).
    - `end`: A_t = s_t - s_T for t < T, A_T = s_T (eq. 4).
    - `group`: A_t = s_t - b, b the mean over the group's rollouts of their mean score (eq. 6).

    Args:
        scores: [S] float in [0, 1]; NaN = missing.
        seg_off: [R+1] int; rollout r has scores[seg_off[r]:seg_off[r+1]].
        group_off: [G+1] int; group g has the rollouts group_off[g]..group_off[g+1]-1.
        kind: the equation.
        single_segment: what `delta` gives where T = 1: `zero` (the equation), `score` (s_1), or
            `group` (s_1 - mean of the group's final scores).
        compat: `published` reproduces the paper's published code where it differs: `delta` gives
            s_1 where T = 1, and `group` divides b by response_width.
        response_width: padded width of the response tensor in tokens, >= 1; read by `group` with
            compat = `published` only.

    Returns:
        [S] float64.

    Raises:
        ValueError: a score is infinite or outside [0, 1] (named with its index), the offsets do not
            fit, an outcome kind got a rollout without exactly one score, or a name is unknown.
        TypeError: offsets are not integers.
    """
    import numpy as np  # a config names the kinds, and needs no numpy

    return _core.advantages(
        np.asarray(scores, dtype=np.float64),
        np.asarray(seg_off).astype(np.int64, casting="same_kind", copy=False),
        np.asarray(group_off).astype(np.int64, casting="same_kind", copy=False),
        kind,
        single_segment,
        compat,
        response_width,
    )
