"""Why grades are missing: the commonest reason, for those who must mend it."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from exprl.types import Scored

LONGEST_REASON = 400


@dataclass(frozen=True, slots=True)
class Reason:
    """The commonest reason of missing grades.

    text: in the words of the first grade that is missing for it, with the remedy.
    count, of: so many of so many missing grades have it.
    """

    text: str
    count: int
    of: int

    def __str__(self) -> str:
        return f"The commonest reason ({self.count} of {self.of} missing grades): {self.text}"


def commonest_reason(scored: Iterable[Scored]) -> Reason | None:
    """What most of the missing grades have in common; None where no reason is known."""
    return commonest_of(reason for one in scored for reason in one.reasons)


def commonest_of(reasons: Iterable[str]) -> Reason | None:
    """The commonest of these reasons, one for each missing grade; None where there is none.

    Reasons that differ only in words with digits, such as the tokens or the id of a request, are
    the same.
    """
    alike: dict[str, list[str]] = {}
    for reason in reasons:
        alike.setdefault(re.sub(r"\w*\d\w*", "0", reason), []).append(reason)
    if not alike:
        return None
    most = max(alike.values(), key=len)
    # A model may write what it likes into a refusal, and this goes to the terminal.
    text = "".join(c if c.isprintable() else " " for c in most[0][:LONGEST_REASON])
    return Reason(text, len(most), sum(map(len, alike.values())))
