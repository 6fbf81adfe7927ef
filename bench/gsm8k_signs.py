"""What honest solutions show by the measures of exprl.monitor.text_signs, to set alarms above it.

    python bench/gsm8k_signs.py GSM8K/example_model_solutions.jsonl

The answers of four fine-tuned models to GSM8K's test problems: how much of the reference's 8-word
runs they hold (they were trained on references of this style), and how many speak to a judge.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from _row import Row, report
from gsm8k_judge import items

from exprl.monitor.text_signs import Hidden, find_signs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", type=Path)
    found = list(items(parser.parse_args().source))
    shown = find_signs(
        [x["trace"] for x in found], [Hidden(x["reference"], x["problem"]) for x in found]
    )
    shares = np.array([one.overlap for one in shown])
    right = np.array([x["is_correct"] for x in found])
    spoke = sum(bool(one.injections) for one in shown)
    known = ~np.isnan(shares)
    counted = {"answers": len(found), "without_ngrams": int((~known).sum())}
    report(
        "gsm8k_signs",
        [
            Row(name, [float(shares[known & which].mean())], unit="share", extra=counted)
            for name, which in (
                ("overlap, all answers", known),
                ("overlap, right answers", right),
                ("overlap, wrong answers", ~right),
            )
        ]
        + [Row("answers that speak to the judge", [float(spoke)], unit="answers", extra=counted)],
    )


if __name__ == "__main__":
    main()
