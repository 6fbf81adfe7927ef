"""An LLM judge as the reward function of TRL's GRPOTrainer and RLOOTrainer (TRL 1.x).

    settings = JudgeSettings(("http://127.0.0.1:8000/v1",), "Qwen/Qwen3-4B", view="outcome")
    trainer = GRPOTrainer(model, JudgeReward(settings), train_dataset=rows)

The rows have the columns `prompt` and `reference`: the hidden solution, which the judge sees and
the policy does not. `exprl.integrations.trl_steps` gives each step an advantage of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from exprl.integrations.grading import Assessment, Grader
from exprl.integrations.messages import Text, as_items, as_text
from exprl.judge import JudgeSettings, split
from exprl.steps import StepRule


class JudgeReward:
    """A reward in [0, 1] for each completion: the judge's score, or the mean of its steps' scores.

    Args:
        settings: of the judge. Its view says which: "outcome" grades each completion as a whole,
            "prefix" each beginning that ends with a step, "step" each step alone.
        rule: where steps start (`exprl.steps.split_text`).
        reference: the column of the hidden solution; None in a row asks for a grade without one.
        max_missing_rate: above this share of completions without a grade, training ends with a
            JudgeError.

    Two more columns are read where the rows have them: `problem`, which the judge is shown as the
    problem (else the last message of the prompt), and `domain`, which chooses the rubric.
    """

    def __init__(
        self,
        settings: JudgeSettings,
        rule: StepRule = "delimiter",
        reference: str = "reference",
        max_missing_rate: float = 0.3,
    ) -> None:
        self.settings, self.rule, self._reference = settings, rule, reference
        self._grader = Grader(settings, max_missing_rate)
        self.assessed: list[Assessment] = []
        """The completions of the last batch."""

    async def __call__(
        self,
        prompts: Sequence[Text],
        completions: Sequence[Text],
        completion_ids: Sequence[Sequence[int]] = (),
        log_metric: Callable[[str, float], None] | None = None,
        **columns: Any,
    ) -> list[float | None]:
        """The rewards, in order; None without a grade, which TRL leaves out of its statistics."""
        segments = self.cut(completions, completion_ids)
        items = as_items(prompts, segments, columns, self._reference)
        self.assessed = await self._grader.grade(items)
        rewards = [one.reward for one in self.assessed]
        if log_metric:
            log_metric("judge/missing_rate", rewards.count(None) / len(rewards))
        return rewards

    def cut(
        self, completions: Sequence[Text], completion_ids: Sequence[Sequence[int]]
    ) -> list[tuple[str, ...]]:
        """The texts of the steps of each completion; one where it is graded as a whole."""
        texts = [as_text(completion) for completion in completions]
        if self.settings.view == "outcome":
            return [(text,) for text in texts]
        thinking = self.settings.show_thinking
        return [split(text, self.rule, cut_thinking=thinking) for text in texts]
