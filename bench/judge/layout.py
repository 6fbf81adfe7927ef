"""What the place of the reference costs: prompt tokens that a judge must compute in one step.

    python bench/judge layout

36 problems x 16 rollouts of about 8 steps, rendered as the judge would send them and counted with a
prefix cache that forgets nothing (`exprl.judge.Forecaster`). `python bench/judge cache` has it for
four servers with caches of some size. docs/guides/paper-settings.md has what was seen.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from typing import get_args

import numpy as np
from _row import Row, report
from workload import text

from exprl.judge import Forecaster, JudgeItem, JudgeSettings, Layout, View

PROBLEMS, ROLLOUTS, BYTES_PER_TOKEN = 36, 16, 4
SEEDS = range(3)


def main(arguments: Sequence[str] | None = None) -> None:
    argparse.ArgumentParser("layout", description=__doc__.splitlines()[0]).parse_args(arguments)
    rows = [row(view, layout) for view in get_args(View) for layout in get_args(Layout)]
    report("judge_layout", rows)
    for first, last in zip(rows[::2], rows[1::2], strict=True):
        print(f"{first.extra['view']}: {last.median / first.median:.2f} times as many")


def row(view: View, layout: Layout) -> Row:
    sums = []
    for seed in SEEDS:
        settings = JudgeSettings(("http://127.0.0.1:9/v1",), "m", view=view, layout=layout)
        forecaster = Forecaster(settings)
        for item in training_step(seed):
            forecaster.add(item)
        sums.append(forecaster.forecast())
    fresh = [(one.prompt_tokens - one.cached_tokens) / 1e6 for one in sums]
    extra = {"view": view, "layout": layout, "requests": [one.requests for one in sums]}
    note = f"of {np.mean([one.prompt_tokens for one in sums]) / 1e6:.1f} M sent"
    return Row(f"{view}, {layout}", fresh, "M", note, extra)


def training_step(seed: int) -> Iterator[JudgeItem]:
    """Rollouts with log-normal lengths of steps and references, as bench/judge/cache.py has."""
    random = np.random.default_rng(seed)

    def about(tokens: float, sigma: float, start: str) -> str:
        size = BYTES_PER_TOKEN * tokens * random.lognormal(0.0, sigma)
        return start + text(max(int(size) - len(start), 0))

    for p in range(PROBLEMS):
        problem, reference = about(200, 0.5, f"Problem {p}: "), about(1000, 0.6, f"Solution {p}: ")
        for r in range(ROLLOUTS):
            steps = int(np.clip(round(8 * random.lognormal(0.0, 0.25)), 4, 12))
            segments = tuple(about(600, 0.7, f"### {p} {r} {t} ") for t in range(steps))
            yield JudgeItem(f"{p}/{r}", problem, reference, segments)


if __name__ == "__main__":
    main()
