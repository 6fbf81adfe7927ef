"""Per-token advantages of 576 rollouts of about 6,500 tokens: exprl.advantage against loops.

The rival is the straightforward way, written from the description of the published code: for each
row, a loop over its tokens that writes each segment's value into a padded [R, width] tensor.
Both end with the advantage of every token, [N].
"""

from __future__ import annotations

import numpy as np
import torch
from _row import Row, report, seconds

from exprl.advantage import advantages

GROUPS, GROUP_SIZE = 36, 16
WIDTH = 16_384
MEAN_TOKENS = 6_500
# The rival is measured on these many groups and scaled.
RIVAL_GROUPS = 3
BAR = 100

Rollout = tuple[list[float], list[int]]  # scores and token counts of its segments


def workload() -> list[list[Rollout]]:
    """Groups of rollouts of 2 to 14 segments, graded 1 to 5."""
    rng = np.random.default_rng(0)

    def rollout() -> Rollout:
        segments = int(rng.integers(2, 15))
        tokens = rng.multinomial(MEAN_TOKENS - segments, rng.dirichlet(np.ones(segments))) + 1
        return (rng.integers(0, 5, segments) / 4).tolist(), tokens.tolist()

    return [[rollout() for _ in range(GROUP_SIZE)] for _ in range(GROUPS)]


def loops(groups: list[list[Rollout]], kind: str) -> list[torch.Tensor]:
    """One padded [G, width] tensor per group."""
    tensors = []
    for group in groups:
        padded = torch.zeros(len(group), WIDTH)
        means = [sum(scores) / len(scores) for scores, _ in group]
        baseline = sum(means) / len(means)
        for row, (scores, counts) in enumerate(group):
            token = 0
            for index, (score, count) in enumerate(zip(scores, counts, strict=True)):
                if kind == "group":
                    value = score - baseline
                else:
                    value = score - (scores[index - 1] if index else scores[-1])
                for _ in range(count):
                    padded[row, token] = value
                    token += 1
        tensors.append(padded)
    return tensors


def arrays(groups: list[list[Rollout]]) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    rollouts = [rollout for group in groups for rollout in group]
    scores = np.concatenate([scores for scores, _ in rollouts])
    counts = np.concatenate([counts for _, counts in rollouts])
    seg_off = np.cumsum([0, *(len(scores) for scores, _ in rollouts)])
    group_off = np.cumsum([0, *(len(group) for group in groups)])
    return scores, counts, seg_off, group_off


def per_token(groups: list[list[Rollout]], kind: str) -> np.ndarray:
    """[N], from the same lists as the rival's."""
    scores, counts, seg_off, group_off = arrays(groups)
    return np.repeat(advantages(scores, seg_off, group_off, kind), counts)


def main() -> None:
    torch.set_num_threads(1)
    groups = workload()
    subset = groups[:RIVAL_GROUPS]
    lengths = [sum(counts) for group in subset for _, counts in group]
    size = {
        "rollouts": GROUPS * GROUP_SIZE,
        "tokens": sum(sum(counts) for group in groups for _, counts in group),
        "segments": sum(len(scores) for group in groups for scores, _ in group),
        "width": WIDTH,
    }
    scale = GROUPS / RIVAL_GROUPS
    note = f"measured on {RIVAL_GROUPS} of {GROUPS} groups, times {scale:g}"
    rows, ratios = [], []
    for kind in ("delta", "group"):
        padded = torch.cat(loops(subset, kind)).numpy()
        flat = np.concatenate([row[:length] for row, length in zip(padded, lengths, strict=True)])
        np.testing.assert_allclose(per_token(subset, kind), flat, atol=1e-6)

        ours = seconds(lambda kind=kind: per_token(groups, kind), repeats=21)
        rival = seconds(lambda kind=kind: loops(subset, kind), repeats=3, warmups=0)
        rows.append(Row(f"exprl.advantage, {kind}", ours, extra=dict(size)))
        scaled = Row(f"loops over tokens, {kind}", [scale * second for second in rival], note=note)
        ratios.append(scaled.median / rows[-1].median)
        scaled.extra.update(size, exprl_times_faster=ratios[-1])
        rows.append(scaled)
    report("advantage", rows, ["torch"])
    print("times faster:", ", ".join(f"{ratio:,.0f}" for ratio in ratios))
    if min(ratios) < BAR:
        raise SystemExit(f"the bar is {BAR} times")


if __name__ == "__main__":
    main()
