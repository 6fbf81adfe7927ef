"""What if the advantage, the score map, the rubric or the judge had been another?

    from exprl.study.whatif import Request, what_if

    result = what_if(Request("runs/a", ["advantage.kind=end"]))
    print(result.flipped, result.token_correlation, result.forecast.requests)

The rollouts of a finished run are scored again under other settings, by the scorer and the
equations of training. Grades that the run has are taken from its files, replies from its ledger.
"""

from exprl.study.whatif.differences import (
    SIGNS,
    Counts,
    Pair,
    ProblemDifference,
    RolloutDifference,
)
from exprl.study.whatif.whatif import Request, WhatIf, what_if

__all__ = [
    "SIGNS",
    "Counts",
    "Pair",
    "ProblemDifference",
    "Request",
    "RolloutDifference",
    "WhatIf",
    "what_if",
]
