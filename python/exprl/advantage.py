"""Scores to advantages: one number per segment, which each of its tokens carries."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from exprl import _core

if TYPE_CHECKING:
    import numpy.typing as npt

    from exprl.types import Float64Array, Int64Array

OutcomeKind = Literal["grpo", "dr_grpo", "rloo", "reinforce"]
"""Kinds for one score per rollout."""
ProcessKind = Literal["delta", "end", "group", "batch", "raw", "first_error", "step+outcome"]
"""Kinds for one score per step."""
AdvantageKind = Literal[OutcomeKind, ProcessKind]
SingleSegment = Literal["zero", "score", "group"]
Compat = Literal["published"]
Missing = Literal["bridge", "drop"]
"""What a missing step score does: join the step to the next one, or take the rollout out."""
STD_FLOOR = 0.05
"""A fifth of the distance between two grades: a smaller spread is the judge's noise."""


def advantages(
    scores: npt.ArrayLike,
    seg_off: npt.ArrayLike,
    group_off: npt.ArrayLike,
    kind: AdvantageKind,
    *,
    single_segment: SingleSegment = "zero",
    compat: Compat | None = None,
    response_width: int | None = None,
    std_floor: float = STD_FLOOR,
    outcome_weight: float = 1.0,
    missing: Missing = "drop",
    overlong: npt.ArrayLike | None = None,
    bounds: tuple[float, float] = (0.0, 1.0),
) -> Float64Array:
    """Advantages of a batch: G groups of R rollouts of S segments.

    A rollout with a missing score, or without segments, is out: its advantages are NaN, and it is
    in no statistic. The others are valid. With missing = `bridge` a step without a score is first
    joined to the next step that has one, and only a missing last score takes the rollout out.
    Equation numbers are those of arXiv 2606.17024 (docs/concepts/method.md).

    Outcome kinds, one score s_i per rollout; over the valid rollouts of the group:

    - `grpo`: (s_i - mean) / (max(std, std_floor) + 1e-6), std with n - 1; 0 in a group of one.
    - `dr_grpo`: s_i - mean.
    - `rloo`: s_i - mean of the others; 0 in a group of one.
    - `reinforce`: s_i - mean over the valid rollouts of the whole batch.

    Process kinds, scores s_1..s_T of a rollout:

    - `delta`: A_1 = s_1 - s_T, A_t = s_t - s_{t-1}; they sum to 0 (eq. 2 and 5).
    - `end`: A_t = s_t - s_T for t < T, A_T = s_T (eq. 4).
    - `group`: A_t = s_t - b, b the mean over the group's rollouts of their mean score (eq. 6).
    - `batch`: like `group`, with the rollouts of the whole batch.
    - `raw`: A_t = s_t.
    - `first_error`: 1 for each step before the first score below 0.75 (a grade of 4), -1 for that
      step, 0 for all that follow; scores say where the error is and nothing else. This is the idea
      of VPPO (arXiv 2601.18984), without its reward of the whole solution.
    - `step+outcome`: (s_t - m) / (max(d, std_floor) + 1e-6), with m and d the mean and the standard
      deviation (n - 1) of all steps of the group's valid rollouts, plus outcome_weight times the
      `grpo` of their last scores s_T. The two parts have a baseline each, as in arXiv 2605.17291;
      there each rubric item is standardised by itself, here all steps of a group are.

    Args:
        scores: [S] float within `bounds`; NaN = missing.
        seg_off: [R+1] int; rollout r has scores[seg_off[r]:seg_off[r+1]].
        group_off: [G+1] int; group g has the rollouts group_off[g]..group_off[g+1]-1.
        kind: the equation.
        single_segment: what `delta` gives where T = 1: `zero` (the equation), `score` (s_1), or
            `group` (s_1 - mean of the group's final scores).
        compat: `published` reproduces the paper's published code where it differs: `delta` gives
            s_1 where T = 1, `end` gives s_t - s_T for t = T too, `group` divides b by
            response_width, and std_floor is read as 0.
        response_width: padded width of the response tensor in tokens, >= 1; read by `group` with
            compat = `published` only.
        std_floor: smallest spread of scores that is divided by, >= 0. Scores that differ by the
            judge's noise alone then have advantages near 0.
        outcome_weight: weight of the outcome part of `step+outcome`, >= 0.
        missing: `drop` takes a rollout with any missing score out, `bridge` joins as said above.
        overlong: [R] bool, the rollouts that were cut by length; read by `end` with compat =
            `published` only, which gives all their tokens 0 - s_T.
        bounds: lowest and highest score that there can be. Others than 0 and 1 are for scores that
            were corrected (reward.noise); `first_error` still asks whether a score is below 0.75.

    Returns:
        [S] float64. Steps that were joined have the same advantage.

    Raises:
        ValueError: a score is infinite or outside `bounds` (named with its index), the offsets do
            not fit, an outcome kind got a rollout without exactly one score, or a name is unknown.
        TypeError: offsets are not integers.

    >>> advantages([0.5, float("nan"), 1.0], [0, 3], [0, 1], "delta", missing="bridge").tolist()
    [-0.5, 0.5, 0.5]
    """
    import numpy as np  # a config names the kinds, and needs no numpy

    if missing not in ("bridge", "drop"):
        raise ValueError(f'unknown missing "{missing}"; choose one of bridge, drop')
    values = np.asarray(scores, dtype=np.float64)
    segments = np.asarray(seg_off).astype(np.int64, casting="same_kind", copy=False)
    source = None
    if missing == "bridge" and np.isnan(values).any():
        values, segments, source = _bridged(values, segments)
    result = _core.advantages(
        values,
        segments,
        np.asarray(group_off).astype(np.int64, casting="same_kind", copy=False),
        kind,
        single_segment,
        compat,
        response_width,
        std_floor,
        outcome_weight,
        None if overlong is None else np.asarray(overlong, dtype=np.bool_),
        bounds,
    )
    return result if source is None else result[source]


def _bridged(
    scores: Float64Array, seg_off: Int64Array
) -> tuple[Float64Array, Int64Array, Int64Array]:
    """Take the missing scores out that have a score after them in their rollout.

    Returns:
        Scores [S'], seg_off [R+1], and for each of the S scores the one of S' that it is joined to.
    """
    import numpy as np

    counts, positions = np.diff(seg_off), np.arange(len(scores))
    if len(seg_off) == 0 or seg_off[0] != 0 or seg_off[-1] != len(scores) or (counts < 0).any():
        return scores, seg_off, positions  # the core says what does not fit
    ends = np.repeat(seg_off[1:], counts)  # [S], where the rollout of each score ends
    given = np.where(np.isnan(scores), len(scores), positions)
    after = np.minimum.accumulate(given[::-1])[::-1]  # the next score that is there, maybe itself
    joined = np.isnan(scores) & (after < ends)
    kept = np.concatenate([[0], np.cumsum(~joined)])
    return scores[~joined], kept[seg_off], kept[np.where(joined, after, positions)]
