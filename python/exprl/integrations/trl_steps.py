"""exprl's step rewards in TRL's GRPOTrainer (TRL 1.x): each token has the advantage of its step.

    reward = StepReward(JudgeSettings(("http://127.0.0.1:8000/v1",), "Qwen/Qwen3-4B"))
    trainer = StepTrainer(model, reward, advantage="delta", train_dataset=rows)

A reward function of TRL gives one number per completion, which cannot tell its steps apart. TRL's
loss takes one advantage per token from a subclass of its trainer: this is one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from accelerate.utils import gather_object
from trl import GRPOTrainer

from exprl.advantage import ProcessKind, SingleSegment, advantages
from exprl.errors import ConfigError
from exprl.integrations.trl import JudgeReward
from exprl.steps import Splitter


class StepReward(JudgeReward):
    """A JudgeReward that cuts steps between tokens, for a StepTrainer."""

    splitter: Splitter
    tokens: list[list[int]]
    """Of the last batch: how many tokens each step of each completion has."""

    def cut(self, _: Any, completion_ids: Sequence[Sequence[int]]) -> list[tuple[str, ...]]:
        """The texts of the steps of each completion."""
        steps = [self.splitter.split(ids) for ids in completion_ids]
        self.tokens = [[step.end - step.start for step in one] for one in steps]
        return [tuple(step.text for step in one) for one in steps]


class StepTrainer(GRPOTrainer):  # type: ignore[misc]
    """GRPOTrainer with one reward function, a StepReward, and these arguments of its own.

    Args:
        advantage, single_segment: how scores become advantages (`exprl.advantage.advantages`).
    """

    def __init__(
        self,
        model: Any,
        reward: StepReward,
        *,
        advantage: ProcessKind = "delta",
        single_segment: SingleSegment = "zero",
        **trl: Any,
    ) -> None:
        if reward.settings.view == "outcome":
            raise ConfigError('view = "outcome" grades no steps: choose "prefix" or "step"')
        super().__init__(model, reward, **trl)
        self._reward, self._kind, self._single_segment = reward, advantage, single_segment
        tokenizer: Any = getattr(self.processing_class, "tokenizer", self.processing_class)
        vocabulary, thinking = tokenizer.backend_tokenizer.to_str(), reward.settings.show_thinking
        reward.splitter = Splitter(vocabulary, reward.rule, cut_thinking=thinking)

    def _generate_and_score_completions(self, inputs: Any) -> Any:
        output = super()._generate_and_score_completions(inputs)
        # A group may lie in several processes, and its statistics need all of it.
        scores = gather_object([one.scores for one in self._reward.assessed])
        tokens = gather_object(self._reward.tokens)
        group = self.num_generations if self.model.training else self.num_generations_eval
        ends, groups = np.cumsum([0, *map(len, scores)]), np.arange(0, len(scores) + 1, group)
        flat = np.array([s for one in scores for s in one], np.float64)  # a None is a NaN now
        of_steps = advantages(
            flat, ends, groups, self._kind, single_segment=self._single_segment, missing="bridge"
        )
        result = torch.zeros(output["completion_ids"].shape)  # 0 is for what has no grade
        first = self.accelerator.process_index * len(result)
        for row, i in enumerate(range(first, first + len(result))):
            of_tokens = np.repeat(np.nan_to_num(of_steps[ends[i] : ends[i + 1]]), tokens[i])
            result[row, : len(of_tokens)] = torch.from_numpy(of_tokens)
        return {**output, "advantages": result.to(output["completion_ids"].device)}
