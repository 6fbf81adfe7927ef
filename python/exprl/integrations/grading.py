"""Completions of another trainer, to scores: what the integrations share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from exprl.errors import JudgeError
from exprl.judge import Judge, JudgeItem, JudgeSettings
from exprl.reward.missing import commonest_of
from exprl.thinking import outside_thinking

WINDOW = 64
"""Completions, at least, that the rate of missing grades is taken over."""


@dataclass(frozen=True, slots=True)
class Assessment:
    """What the judge said of one completion.

    scores: in [0, 1]: a single one, or one per step; None = missing.
    errors: why grades are missing, one for each.
    """

    scores: tuple[float | None, ...]
    errors: tuple[str, ...] = ()

    @property
    def ungraded(self) -> bool:
        """Whether the judge failed where its word is needed; a score map may leave a grade out."""
        return self.scores[-1] is None and bool(self.errors)

    @property
    def reward(self) -> float | None:
        """The one number for a trainer that takes no more: the mean over the steps.

        None where the last score is missing. Another step without a score is joined to the next
        one, as with reward.missing = "bridge", and does not count by itself.
        """
        given = [score for score in self.scores if score is not None]
        return None if self.scores[-1] is None else sum(given) / len(given)


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

    async def grade(self, items: Sequence[JudgeItem]) -> list[Assessment]:
        """What the judge says of each item: one score, or one per segment (`settings.view`).

        A completion that shows the judge nothing is no solution: it scores 0, and nobody is asked.

        Raises:
            JudgeError: more grades are missing than `max_missing_rate` allows.
        """
        asked = [i for i, item in enumerate(items) if self._shows_text(item)]
        graded = await self.judge.submit([items[i] for i in asked])
        assessed = [Assessment((0.0,) * self._width(item)) for item in items]
        for i, one in zip(asked, graded, strict=True):
            errors = tuple(v.error or v.status for v in one.verdicts if v.grade is None)
            assessed[i] = Assessment(tuple(v.score for v in one.verdicts), errors)
        self._stop_if_missing(assessed)
        return assessed

    def _shows_text(self, item: JudgeItem) -> bool:
        text = "".join(item.segments)
        shown = [text] if self.settings.show_thinking else outside_thinking(text)
        return bool("".join(shown).strip())

    def _width(self, item: JudgeItem) -> int:
        return 1 if self.settings.view == "outcome" else len(item.segments)

    def _stop_if_missing(self, assessed: Sequence[Assessment]) -> None:
        self._ungraded += [one.ungraded for one in assessed]
        self._ungraded = self._ungraded[-max(WINDOW, len(assessed)) :]
        rate = sum(self._ungraded) / max(1, len(self._ungraded))
        if len(self._ungraded) >= WINDOW and rate > self._max_missing_rate:
            why = commonest_of(error for one in assessed for error in one.errors)
            raise JudgeError(
                f"{rate:.0%} of the last {len(self._ungraded)} completions have no grade, above"
                f" max_missing_rate = {self._max_missing_rate}. {why or ''}"
            )


def open_judge(settings: JudgeSettings, number: int = 1) -> Judge:
    """The judge with the ledger of its settings, or with the first free one after it."""
    ledger = settings.ledger if number == 1 else f"{settings.ledger}-{number}"
    try:
        return Judge(replace(settings, ledger=ledger))
    except JudgeError as error:
        if "in use by another process" not in str(error):
            raise
    return open_judge(settings, number + 1)
