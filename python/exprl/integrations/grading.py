"""Completions of another trainer, to scores: what the integrations share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from exprl.errors import JudgeError
from exprl.judge import Graded, Judge, JudgeItem, JudgeSettings
from exprl.reward.missing import commonest_of
from exprl.thinking import outside_thinking

Scores = tuple[float | None, ...]
"""Of one completion, in [0, 1]: a single one, or one per step; None = missing."""
WINDOW = 64
"""Completions, at least, that the rate of missing grades is taken over."""


class Grader:
    """A judge for a trainer that is not ours: too many missing grades end the training.

    Args:
        settings: of the judge. A ledger serves one process at a time: the second process that names
            the same one gets LEDGER-2, the third LEDGER-3.
        max_missing_rate: the largest share of completions that may have no grade, of those asked
            for together, and of the last 64 where those are fewer.
    """

    def __init__(self, settings: JudgeSettings, max_missing_rate: float = 0.3) -> None:
        self.settings = settings
        self.judge = open_judge(settings)
        self._max_missing_rate = max_missing_rate
        self._ungraded: list[bool] = []

    async def grade(self, items: Sequence[JudgeItem]) -> list[Scores]:
        """The scores of each item: one, or one per segment, as `settings.view` says.

        A completion that shows the judge nothing is no solution: it scores 0, and nobody is asked.

        Raises:
            JudgeError: more grades are missing than `max_missing_rate` allows.
        """
        asked = [i for i, item in enumerate(items) if self._shows_text(item)]
        graded = dict(zip(asked, await self.judge.submit([items[i] for i in asked]), strict=True))
        self._stop_if_missing(len(items), list(graded.values()))
        return [
            tuple(v.score for v in graded[i].verdicts) if i in graded else self._zeros(item)
            for i, item in enumerate(items)
        ]

    def _shows_text(self, item: JudgeItem) -> bool:
        text = "".join(item.segments)
        shown = [text] if self.settings.show_thinking else outside_thinking(text)
        return bool("".join(shown).strip())

    def _zeros(self, item: JudgeItem) -> Scores:
        return (0.0,) * (1 if self.settings.view == "outcome" else len(item.segments))

    def _stop_if_missing(self, asked_for: int, graded: Sequence[Graded]) -> None:
        missing = [one.verdicts[-1].grade is None for one in graded]
        self._ungraded += missing + [False] * (asked_for - len(missing))
        self._ungraded = self._ungraded[-max(WINDOW, asked_for) :]
        rate = sum(self._ungraded) / max(1, len(self._ungraded))
        if len(self._ungraded) >= WINDOW and rate > self._max_missing_rate:
            errors = [v.error or v.status for g in graded for v in g.verdicts if v.grade is None]
            raise JudgeError(
                f"{rate:.0%} of the last {len(self._ungraded)} completions have no grade, above"
                f" max_missing_rate = {self._max_missing_rate}. {commonest_of(errors) or ''}"
            )


def one_score(scores: Scores) -> float | None:
    """The one number of a completion for a trainer that takes no more: the mean of its steps.

    None where the last score is missing. A step without a score is joined to the next one that has
    one (reward.missing = "bridge"), so that it does not count by itself.
    """
    given = [score for score in scores if score is not None]
    return None if scores[-1] is None else sum(given) / len(given)


def open_judge(settings: JudgeSettings, number: int = 1) -> Judge:
    """The judge with the ledger of its settings, or with the first free one after it."""
    ledger = settings.ledger if number == 1 else f"{settings.ledger}-{number}"
    try:
        return Judge(replace(settings, ledger=ledger))
    except JudgeError as error:
        if "in use by another process" not in str(error):
            raise
    return open_judge(settings, number + 1)
