"""What a judge would be asked, and what that would cost, without asking."""

from __future__ import annotations

from typing import NamedTuple

from exprl import _core
from exprl.judge.settings import JudgeSettings
from exprl.judge.types import JudgeItem


class Forecast(NamedTuple):
    """What would be sent. Tokens are estimates: four bytes each, and replies of the usual length.

    Re-asks and retries come on top.

    Attributes:
        requests: to be sent.
        from_ledger: requests that the ledger answers.
        repeated: requests that are equal to an earlier one, which are sent once.
        prompt_tokens: of the requests to be sent.
        cached_tokens: of these, what a prefix cache that forgets nothing would hold.
        completion_tokens: of the replies.
        most_completion_tokens: of the replies, if each is as long as `max_tokens` allows.
        cost: by `JudgeSettings.prices`, in their currency; None without prices.
        most_cost: the same with the longest replies.
    """

    requests: int = 0
    from_ledger: int = 0
    repeated: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    most_completion_tokens: int = 0
    cost: float | None = None
    most_cost: float | None = None

    def plus(self, other: Forecast) -> Forecast:
        """The sum of both; a cost that one of them does not know is not known."""
        pairs = zip(self, other, strict=True)
        return Forecast._make([None if a is None or b is None else a + b for a, b in pairs])


class Forecaster:
    """Renders items as a judge would, looks into its ledger, and counts.

    It sends nothing, and locks nothing: a run that has the ledger open goes on.
    """

    def __init__(self, settings: JudgeSettings) -> None:
        """Read the ledger, if there is one.

        Raises:
            ConfigError: a setting or the rubric cannot be used.
            JudgeError: the ledger cannot be read.
        """
        self._core = _core.Forecaster(settings.to_json())

    def add(self, item: JudgeItem) -> None:
        """Count the requests about an item.

        Raises:
            DataError: the item has no segments.
            ConfigError: there is no rubric for its domain.
        """
        self._core.add(item)

    def prompts(self, item: JudgeItem) -> list[str]:
        """The text of each request about an item, in order; raises what `add` does."""
        return self._core.prompts(item)

    def forecast(self) -> Forecast:
        """What has been counted so far."""
        return Forecast._make(self._core.sums())
