"""The rule judge: a server on loopback that grades by rule, for rehearsals and tests."""

from __future__ import annotations

import json
from typing import Any, NoReturn, TypedDict, Unpack

from exprl import _core
from exprl.errors import JudgeError
from exprl.judge.closing import Closing


class Faults(TypedDict, total=False):
    """What goes wrong at a `RuleJudge`, and how slow it is; see there."""

    seed: int
    rate_limit_rate: float
    retry_after_s: int
    error_rate: float
    cut_rate: float
    hang_rate: float
    no_grade_rate: float
    prose_rate: float
    random_rate: float
    doubt: float
    latency_ms: int
    jitter_ms: int
    token_ms: int


class RuleJudge(Closing):
    """A judge that grades by rule, served on loopback by this process: for rehearsals and tests.

    What a request meets is decided by its content and the seed, so every run meets the same.
    Shares are of distinct contents.

    Args:
        rules: `division` or `numbers`.
        port: 0 takes a free one.
        rate_limit_rate: share whose first request is answered 429.
        retry_after_s: the `Retry-After` of a 429.
        error_rate: share answered 500 once.
        cut_rate: share whose answer is cut once, half-way.
        hang_rate: share that once gets no answer, or half of one, for ever.
        no_grade_rate: share that never gets a grade.
        prose_rate: share graded in words, without a score line; a re-ask gets the digit.
        random_rate: share graded at random.
        doubt: probability of the neighbouring grades, seen in log-probabilities alone.
        latency_ms: before an answer.
        jitter_ms: on top of it, at most.
        token_ms: between two tokens of a streamed answer.
        slots: requests answered at once; the others wait. None is no limit.
        max_model_len: tokens of prompt and reply; a request for more is answered 400.
        seed: decides which contents are hit.
    """

    def __init__(
        self,
        rules: str,
        port: int = 0,
        *,
        slots: int | None = None,
        max_model_len: int | None = None,
        **faults: Unpack[Faults],
    ) -> None:
        self._core = _core.RuleJudge(
            rules,
            port=port,
            slots=slots,
            max_model_len=max_model_len,
            faults=json.dumps(faults),
        )

    @property
    def url(self) -> str:
        """Base URL of the server, on 127.0.0.1 and ending in /v1."""
        return self._core.url

    @property
    def model(self) -> str:
        """The model's name there, such as `rules-division`."""
        return self._core.model

    def stats(self) -> dict[str, Any]:
        """What the server has counted, as its `GET /stats` shows it."""
        stats: dict[str, Any] = json.loads(self._core.stats())
        return stats

    def close(self) -> None:
        """Close the listener and every connection; a second call does nothing."""
        self._core.close()

    def __reduce__(self) -> NoReturn:
        raise JudgeError("a RuleJudge cannot be pickled; send its url")
