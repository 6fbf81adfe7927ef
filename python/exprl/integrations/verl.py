"""An LLM judge as verl's custom reward function (verl 0.9).

    reward.custom_reward_function.path=pkg://exprl.integrations.verl
    +reward.custom_reward_function.reward_kwargs.config=judge.toml

judge.toml has a section [judge], as a config of exprl does. In the data, `extra_info` has the
fields `reference` (the hidden solution, which the judge sees and the policy does not) and
`question`; a field `domain` chooses the rubric.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any, Literal

from exprl.config import load_judge
from exprl.errors import ConfigError, JudgeError
from exprl.integrations.grading import Grader
from exprl.judge import JudgeItem, split
from exprl.steps import StepRule


async def compute_score(
    data_source: str,
    solution_str: str,
    ground_truth: Any,
    extra_info: Mapping[str, Any],
    *,
    config: str,
    rule: StepRule = "delimiter",
    reference: str = "reference",
    missing: Literal["stop", "nan"] = "stop",
    **_: Any,
) -> dict[str, float]:
    """The reward of a response, in [0, 1]: the judge's score, or the mean of its steps' scores.

    Args:
        config: the TOML file. judge.view says what is graded: "outcome" the response as a whole,
            "prefix" each beginning that ends with a step, "step" each step alone.
        rule: where steps start (`exprl.steps.split_text`).
        reference: the field of the hidden solution; None in it asks for a grade without one.
        missing: what a response without a score does. "stop" ends the training. "nan" needs the
            estimators of `exprl.integrations.verl_advantage`, which keep the response out; verl's
            own make the whole group NaN.

    Returns:
        score, missing (0 or 1), and steps: how many scores there are. verl logs them.

    Raises:
        ConfigError: `extra_info` lacks a field, or the file cannot be used.
        JudgeError: the response has no score and `missing` is "stop", or more of the last 64
            responses than judge.max_missing_rate allows have none.
    """
    for name in (reference, "question"):
        if name not in extra_info:
            raise ConfigError(f"extra_info has no field {name!r}, only {sorted(extra_info)}")
    grader = open_grader(config)
    steps: tuple[str, ...] = (solution_str,)
    if grader.settings.view != "outcome":
        steps = split(solution_str, rule, cut_thinking=grader.settings.show_thinking)
    domain = extra_info.get("domain") or "math"
    item = JudgeItem("0", extra_info["question"], extra_info[reference], steps, domain)
    [assessed] = await grader.grade([item])
    score = assessed.reward
    if score is None and missing == "stop":
        why = "; ".join(assessed.errors) or f"score_map = {grader.settings.score_map!r}"
        raise JudgeError(f"a response has no score: {why}")
    return {
        "score": float("nan") if score is None else score,
        "missing": float(score is None),
        "steps": float(len(assessed.scores)),
    }


@cache
def open_grader(config: str) -> Grader:
    """The judge of a file: one in each process."""
    judge = load_judge(config)
    return Grader(judge, judge.max_missing_rate)
