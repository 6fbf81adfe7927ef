"""What a judge costs that leaves 5 % of its grades out, with `reward.missing` = bridge and drop.

    python bench/missing.py                         # three arms, three seeds
    python bench/missing.py --report-only

The miniature's ExpRL-Process run, 16 steps. A rollout has seven steps, so that with 5 % missing
grades about a third of the rollouts have one: `drop` takes them out, `bridge` joins the step.
"""

from __future__ import annotations

import os
from statistics import mean
from typing import Any

import _arms

FAULT = "judge.fault_no_grade_rate=0.05"
ARMS = {
    "none missing": (),
    "5 % bridge": (FAULT, "reward.missing=bridge"),
    "5 % drop": (FAULT, "reward.missing=drop", "judge.max_missing_rate=1.0"),
}
COLUMNS = {
    "right": "reward/correct_rate",
    "reward": "reward/mean",
    "excluded_rate": "reward/excluded_rate",
    "missing_rate": "judge/missing_rate",
    "missing_steps": "judge/missing_steps",
    "bridged_steps": "judge/bridged_steps",
    "requests": "judge/requests",
}


def table(found: list[dict[str, Any]]) -> None:
    """pass@1 on the held-out problems, and how many rollouts were left out."""
    for one in sorted(found, key=lambda one: (list(ARMS).index(one["arm"]), one["seed"])):
        out = mean(x for x in one["missing_rate"] if x is not None)
        print(
            f"{one['arm']:14} seed {one['seed']}  pass@1 {one['pass_at_1']:.3f}"
            f"  rollouts out {out:.1%}  right in the last step {one['right'][-1]:.3f}"
        )


def main() -> None:
    parser = _arms.make_parser(__doc__, "missing", ARMS)
    options = parser.parse_args()
    os.chdir(_arms.REPOSITORY)
    arms = {arm: ARMS[arm] for arm in options.arms}
    runs = _arms.plan(arms, options.seeds, (), options.out.resolve(), evaluated=True)
    if not options.report_only:
        _arms.work(runs)
    table(_arms.save("missing", _arms.rows("missing", runs, COLUMNS)))


if __name__ == "__main__":
    main()
