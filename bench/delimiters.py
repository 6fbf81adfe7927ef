r"""Do process rewards drive the step delimiters away, and which rule does it?

    python bench/delimiters.py                      # eight arms, two seeds
    python bench/delimiters.py --seeds 0 --steps 16
    python bench/delimiters.py --report-only

The paper (A.1.1) reports that the number of delimiters falls to 0 under the overlong penalty. Its
published code differs from the paper's `delta` in one more thing: a rollout of one step gets its
score as advantage, not 0. Here both rules are set apart: `advantage.compat` x `reward.overlong`,
and `uncut` is without any limit that a rollout could meet.

The miniature's policy always writes its delimiter, so it could not lose it. So the base is trained
a little further, on chains that double each `###` by the throw of a coin, and the doubled one,
`######`, is the delimiter of the steps. The rule judge reads both alike: to mark a step or not is
a choice of form that costs a token. Hard chains are right in 85 % of their steps, so that a whole
one is right now and then. A rollout has 65 tokens and one more for each mark; the limit of 68 cuts
those with more than three marks of six, which is a third (11/32).
"""

from __future__ import annotations

import json
import os
import random
import sys
from pathlib import Path
from statistics import mean
from typing import Any

import _arms
import torch

EXAMPLES = _arms.REPOSITORY / "examples" / "division"
sys.path.insert(0, str(EXAMPLES))

from division import DELIMITER, HARD_DIGITS, chain, draw_problem  # noqa: E402
from make_base import collate  # noqa: E402
from make_data import split  # noqa: E402
from pyarrow import parquet  # noqa: E402
from tokenizer import build_tokenizer  # noqa: E402
from transformers import AutoModelForCausalLM  # noqa: E402

MARK = 2 * DELIMITER
SLIP_RATE = 0.15
BASE_STEPS, BASE_BATCH, BASE_LR = 400, 64, 1e-3
LIMIT = 68
LENGTHS = {
    **{rule: (f"reward.overlong={rule}",) for rule in ("zero", "mask", "none")},
    "uncut": ("rollout.max_response_tokens=96",),
}
ARMS = {
    f"{compat or 'paper'} {name}": (f"advantage.compat={compat or 'none'}", *length)
    for name, length in LENGTHS.items()
    for compat in ("published", None)
}
FIRST_STEPS = 2  # of which the advantages of marks and of plain joints are measured
COLUMNS = {
    "per_rollout": "steps/per_rollout",
    "single_rate": "steps/single_rate",
    "overlong_rate": "rollout/overlong_rate",
    "length": "rollout/length_mean",
    "right": "reward/correct_rate",
    "reward": "reward/mean",
    "entropy": "policy/entropy",
}


def make_base(folder: Path) -> None:
    """Teach the miniature's base to double a delimiter by the throw of a coin."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    rng = random.Random(0)
    held_out = {problem for problems in split().values() for problem in problems}
    tokenizer = build_tokenizer(256)
    model = AutoModelForCausalLM.from_pretrained(EXAMPLES / "base")
    optimizer = torch.optim.AdamW(model.parameters(), lr=BASE_LR, weight_decay=0.01)
    for step in range(BASE_STEPS):
        examples = []
        while len(examples) < BASE_BATCH:
            problem = draw_problem(rng, HARD_DIGITS)
            if problem not in held_out:
                steps = chain(problem, rng, SLIP_RATE).split(DELIMITER)
                marks = [rng.choice((DELIMITER, MARK)) for _ in steps[1:]]
                text = steps[0] + "".join(m + s for m, s in zip(marks, steps[1:], strict=True))
                examples.append((problem.prompt, text))
        ids, labels = collate(tokenizer, examples)
        loss = model(input_ids=ids, labels=labels).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.param_groups[0]["lr"] = BASE_LR * (1.0 - step / BASE_STEPS)
        optimizer.step()
        optimizer.zero_grad()
        if step % 50 == 0:
            print(f"base: step {step:4d}  loss {loss.item():.4f}", flush=True)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / "done").touch()


def joint_advantages(run: Path) -> dict[str, float]:
    """The mean advantage of a token that marks a step, and of one that joins two without a mark."""
    at_mark: list[float] = []
    plain: list[float] = []
    for file in sorted((run / "rollouts").glob("step-*.parquet"))[:FIRST_STEPS]:
        table = parquet.read_table(file, columns=["segments", "advantages"])
        for one in table.to_pylist():
            for text, value in zip(one["segments"], one["advantages"], strict=True):
                if value is not None:  # None is out of the loss
                    at_mark += [value] * text.startswith(MARK)
                    plain += [value] * text.removeprefix(MARK).count(DELIMITER)
    return {"at_mark": round(mean(at_mark), 4), "at_plain": round(mean(plain), 4)}


def table(found: list[dict[str, Any]]) -> None:
    """Marks and single steps of the first and of the last four steps of training."""
    print(
        f"{'arm':16} seed steps  marks first -> last   T=1 first -> last  overlong  right"
        "  advantage at mark, at plain joint"
    )
    for one in sorted(found, key=lambda one: (list(ARMS).index(one["arm"]), one["seed"])):
        begin, end = (
            {name: mean(x for x in part if x is not None) for name, part in parts.items()}
            for parts in ({n: one[n][:1] for n in COLUMNS}, {n: one[n][-4:] for n in COLUMNS})
        )
        print(
            f"{one['arm']:16} {one['seed']:4} {one['steps']:5}"
            f"  {begin['per_rollout'] - 1:6.2f} -> {end['per_rollout'] - 1:5.2f}    "
            f"  {begin['single_rate']:5.3f} -> {end['single_rate']:5.3f}"
            f"     {end['overlong_rate']:5.3f}  {end['right']:5.3f}"
            f"  {one['at_mark']:8.3f} {one['at_plain']:8.3f}"
        )


def main() -> None:
    parser = _arms.make_parser(__doc__, "delimiters", ARMS, seeds=(0, 1))
    parser.add_argument("--steps", type=int, default=32)
    options = parser.parse_args()
    os.chdir(_arms.REPOSITORY)
    out = options.out.resolve()
    base = out / "base"
    if not (base / "done").exists():
        make_base(base)
    common = (
        f"model.path={json.dumps(str(base))}",
        f"reward.delimiter={json.dumps(MARK)}",
        f"rollout.max_response_tokens={LIMIT}",  # an arm's own setting comes after it
        f"train.steps={options.steps}",
        "eval.data=none",
    )
    arms = {arm: ARMS[arm] for arm in options.arms}
    runs = _arms.plan(arms, options.seeds, common, out, evaluated=False)
    if not options.report_only:
        _arms.work(runs)
    rows = [
        row | joint_advantages(run.folder)
        for run in runs
        if _arms.is_done(run)
        for row in _arms.rows("delimiters", [run], COLUMNS)
    ]
    table(_arms.save("delimiters", rows))


if __name__ == "__main__":
    main()
