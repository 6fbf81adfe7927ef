"""Settings that change what a score or a token counts: `reward.noise`, `loss.teacher_weight`.

    python bench/noise.py                         # six arms, three seeds
    python bench/noise.py --report-only

The miniature, eight steps. With `end` the last step keeps its score as it is, so that a judge with
20 % random grades is told apart from one whose rates are corrected; with `grpo` the correction must
change next to nothing. The rates are those that `bench/paper/run.py` measured of that judge, with
the right reference (bench/results/paper_judge.jsonl). RLSD's arms have the judge without errors.
"""

from __future__ import annotations

import json
import os
from statistics import mean
from typing import Any

import _arms

from exprl import config

NOISY = ("judge.fault_random_rate=0.2",)
RATES = ("reward.noise=[0.08, 0.001]",)
END = ("advantage.kind=end",)
OUTCOME = ("judge.view=outcome", "advantage.kind=grpo")
# The prompt of the miniature's teacher: its tokenizer knows no words.
TEACHER = config.read(_arms.CONFIG.with_name("division_distill.toml"))["teacher"]
HINT = f"teacher.prompt={json.dumps(TEACHER['prompt'])}"
ARMS = {
    "end, noisy": (*END, *NOISY),
    "end, noisy, corrected": (*END, *NOISY, *RATES),
    "grpo, noisy": (*OUTCOME, *NOISY),
    "grpo, noisy, corrected": (*OUTCOME, *NOISY, *RATES),
    "delta": (),
    "delta, RLSD": ("loss.teacher_weight=1.0", HINT),
}
COMMON = ("train.steps=8", "rollout.engine=transformers", "eval.samples=16")
COLUMNS = {
    "right": "reward/correct_rate",
    "reward": "reward/mean",
    "teacher_gap": "policy/teacher_gap",
}


def table(found: list[dict[str, Any]]) -> None:
    """pass@1 on the held-out problems, and the last steps of training."""
    for one in sorted(found, key=lambda one: (list(ARMS).index(one["arm"]), one["seed"])):
        gaps = [x for x in one["teacher_gap"] if x is not None]
        print(
            f"{one['arm']:22} seed {one['seed']}  pass@1 {one['pass_at_1']:.3f}"
            f"  right in the last step {one['right'][-1]:.3f}"
            f"  mean reward there {one['reward'][-1]:.3f}"
            + (f"  teacher gap {mean(gaps):.3f}" if gaps else "")
        )


def main() -> None:
    parser = _arms.make_parser(__doc__, "noise", ARMS)
    options = parser.parse_args()
    os.chdir(_arms.REPOSITORY)
    arms = {arm: ARMS[arm] for arm in options.arms}
    runs = _arms.plan(arms, options.seeds, COMMON, options.out.resolve(), evaluated=True)
    if not options.report_only:
        _arms.work(runs)
    table(_arms.save("noise", _arms.rows("noise", runs, COLUMNS)))


if __name__ == "__main__":
    main()
