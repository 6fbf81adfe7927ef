"""An LLM judge as a reward of verifiers' tasks (verifiers 0.4), for prime-rl and others.

    # my_rewards.py
    settings = JudgeSettings(("http://127.0.0.1:8000/v1",), "Qwen/Qwen3-4B", view="outcome")
    judged = JudgeReward(settings)

    # the environment's settings
    [env.taskset.task.rewards.judged]
    fn = "my_rewards:judged"

The task's data has the field `reference`: the hidden solution, which the judge sees and the policy
does not. A task may also call the function itself, in a method marked `@vf.reward`.
"""

from __future__ import annotations

from typing import Any

from exprl.errors import ConfigError, JudgeError
from exprl.integrations.grading import Grader
from exprl.judge import JudgeItem, JudgeSettings, split
from exprl.steps import StepRule


class JudgeReward:
    """A reward in [0, 1]: the judge's score of the last reply, or the mean of its steps' scores.

    Args:
        settings: of the judge. Its view says which: "outcome" grades the reply as a whole,
            "prefix" each beginning that ends with a step, "step" each step alone.
        rule: where steps start (`exprl.steps.split_text`).
        reference: the field of the task's data that holds the hidden solution; None in it asks for
            a grade without one.

    Two more fields are read where the data has them: `problem`, which the judge is shown as the
    problem (else the prompt), and `domain`, which chooses the rubric.
    """

    def __init__(
        self, settings: JudgeSettings, rule: StepRule = "delimiter", reference: str = "reference"
    ) -> None:
        # A rollout without a grade is an error of its own to verifiers, so no rate ends it all.
        self._grader = Grader(settings, max_missing_rate=1.0)
        self._rule, self._reference = rule, reference

    async def __call__(self, task: Any, trace: Any) -> float:
        """The reward; the scores of the steps stay in `trace.info["exprl_scores"]`.

        Args:
            task: the task's data, a `vf.TaskData`.
            trace: the rollout, a `vf.Trace`.

        Raises:
            JudgeError: there is no grade. verifiers records it as the error of this rollout, whose
                reward stays None.
            ConfigError: the data has no such field.
        """
        if not hasattr(task, self._reference):
            raise ConfigError(
                f"the judge needs the hidden solution, and {type(task).__name__} has no field"
                f" {self._reference!r}; name the field in `reference`"
            )
        problem = getattr(task, "problem", None) or task.prompt_text
        domain = getattr(task, "domain", None) or "math"
        reference = getattr(task, self._reference)
        item = JudgeItem(str(task.idx), problem, reference, self._cut(trace.last_reply), domain)
        [assessed] = await self._grader.grade([item])
        trace.info["exprl_scores"] = list(assessed.scores)
        if assessed.reward is None:
            why = "; ".join(assessed.errors) or f"score_map = {self._grader.settings.score_map!r}"
            raise JudgeError(f"the reply has no score: {why}")
        return assessed.reward

    def _cut(self, reply: str) -> tuple[str, ...]:
        """The steps of a reply; one where it is graded as a whole."""
        if self._grader.settings.view == "outcome":
            return (reply,)
        return split(reply, self._rule, cut_thinking=self._grader.settings.show_thinking)
