"""Grade many model outputs with an LLM judge behind OpenAI-compatible servers.

Needs neither torch nor vLLM. Requests, retries and the ledger are the Rust crate exprl-judge.

    settings = JudgeSettings(("http://127.0.0.1:8000/v1",), "Qwen/Qwen3-4B", view="outcome")
    with Judge(settings) as judge:
        job = judge.submit([JudgeItem("0", "What is 2 + 2?", "2 + 2 = 4", split("It is 4."))])
        for graded in job:
            print(graded.id, graded.verdicts[0].status, graded.verdicts[0].score)

A missing grade is None with a status that says why; it is never a made-up number.
"""

from exprl._core import JudgeStats
from exprl.judge.client import Job, Judge, split
from exprl.judge.forecast import Forecast, Forecaster
from exprl.judge.ledger import LedgerReader, Reply
from exprl.judge.rule_judge import Faults, RuleJudge
from exprl.judge.settings import (
    SOLUTION_VIEW,
    JudgeSettings,
    Layout,
    Prices,
    Readout,
    ScoreMap,
    View,
    score_grade,
)
from exprl.judge.types import Graded, GradedArrays, JudgeItem, Status, Verdict

__all__ = [
    "SOLUTION_VIEW",
    "Faults",
    "Forecast",
    "Forecaster",
    "Graded",
    "GradedArrays",
    "Job",
    "Judge",
    "JudgeItem",
    "JudgeSettings",
    "JudgeStats",
    "Layout",
    "LedgerReader",
    "Prices",
    "Readout",
    "Reply",
    "RuleJudge",
    "ScoreMap",
    "Status",
    "Verdict",
    "View",
    "score_grade",
    "split",
]
