"""A judge's ledger, read by key: the judge's words behind a grade."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, NamedTuple

from exprl import _core
from exprl.judge.closing import Closing
from exprl.judge.types import Status

if TYPE_CHECKING:
    from pathlib import Path


class Reply(NamedTuple):
    """What a judge said to one request, as its ledger keeps it.

    Attributes:
        key: of the request: 64 hex digits, as `Verdict.key` and the rollout files have it.
        status: only `ok` and `repaired` carry a grade.
        grade: 1..5, or None. Scores are not kept, as the score map may be another one.
        text: the judge's words.
        answer: its words when it was asked again for the grade alone; None if it was not, or if an
            earlier exprl wrote the reply.
        error: why there is no grade.
        probabilities: of the tokens 1..5 at the grade (readout "expected") or at the first token
            ("direct"); None without them.
        prompt_tokens, completion_tokens, cached_tokens: as the server counted, the second request
            included.
    """

    key: str
    status: Status
    grade: int | None
    text: str
    answer: str | None
    error: str | None
    probabilities: tuple[float, ...] | None
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int


class LedgerReader(Closing):
    """Looks up replies in a ledger, without its lock: also while a run writes to it.

    A ledger of more than 32 MB gets an index on disk, `replies.index` beside it, 16 bytes a reply.
    A thread of its own writes that; `get` waits for it, and `is_ready` tells. Where the folder is
    read-only the index is a temporary file.

    Args:
        folder: of the ledger, such as RUN/ledger.

    Raises:
        JudgeError: the folder holds no ledger.
    """

    def __init__(self, folder: Path | str) -> None:
        self._core = _core.LedgerReader(folder)

    def get(self, key: str) -> Reply | None:
        """The newest reply under a key, from any thread; None where the ledger has none.

        Args:
            key: 64 hex digits.

        Raises:
            DataError: that is no key.
            JudgeError: the ledger cannot be read, or the reader is closed.
        """
        line = self._core.get(key)
        if line is None:
            return None
        kept = json.loads(line)
        usage = kept.get("usage") or {}
        probabilities = kept.get("probabilities")
        return Reply(
            key=kept["key"],
            status=kept["status"],
            grade=kept["grade"],
            text=kept["text"],
            answer=kept.get("answer"),
            error=kept.get("error"),
            probabilities=tuple(probabilities) if probabilities else None,
            prompt_tokens=usage.get("prompt", 0),
            completion_tokens=usage.get("completion", 0),
            cached_tokens=usage.get("cached", 0),
        )

    def is_ready(self) -> bool:
        """Whether `get` would not wait. A call begins to index a ledger that needs it.

        Raises:
            JudgeError: the index could not be written, or the reader is closed.
        """
        return self._core.is_ready()

    def close(self) -> None:
        """Give up the files; a second call does nothing."""
        self._core.close()
