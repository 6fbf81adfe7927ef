"""Tokens in the colour of their log-probability or of their lag."""

from __future__ import annotations

import math
from bisect import bisect_left
from dataclasses import dataclass

from exprl.monitor.rollout_reader import RecordedRollout, RecordedStep
from exprl.types import Int32Array
from exprl.view.tokens import Tokens

RARE = (0.1, 1.0, 2.0, 5.0)
"""Where the colours of log-probabilities change: 90 %, 37 %, 14 % and 0.7 % likely."""


@dataclass(frozen=True, slots=True)
class ShownToken:
    """A token. level: the class of its colour; says: its numbers, in words."""

    text: str
    level: str
    says: str


def show_tokens(
    tokens: Tokens, rollout: RecordedRollout, step: RecordedStep, shown: int, colour: str
) -> list[ShownToken]:
    """The first tokens of a step; by their ids where there is no tokenizer."""
    ids = rollout.token_ids[step.start : step.start + shown].tolist()
    texts = tokens.decode(ids) or [f"[{one}]" for one in ids]
    lags = rollout.lag
    found = []
    for place, (one, text) in enumerate(zip(ids, texts, strict=True), step.start):
        logp = float(rollout.generator_logp[place]) if len(rollout.generator_logp) else None
        lag = None if lags is None else int(lags[place])
        level = logp_level(logp) if colour == "logp" else lag_level(lag)
        found.append(ShownToken(text, level, _describe(place, one, logp, lag, rollout.versions)))
    return found


def _describe(
    place: int,
    token: int,
    logp: float | None,
    lag: int | None,
    versions: Int32Array,
) -> str:
    parts = [f"token {place + 1}", f"id {token}"]
    if logp is not None and not math.isnan(logp):
        parts.append(f"log-prob {logp:.3f} ({math.exp(logp):.2%})")
    if len(versions):
        parts.append(f"policy version {int(versions[place])}")
    if lag is not None:
        parts.append(f"lag {lag}")
    return " · ".join(parts)


def logp_level(logp: float | None) -> str:
    """The class of a token's log-probability: the less likely, the stronger.

    >>> [logp_level(value) for value in (-0.01, -0.5, -1.5, -3.0, -9.0, None)]
    ['rare-0', 'rare-1', 'rare-2', 'rare-3', 'rare-4', '']
    """
    if logp is None or math.isnan(logp):
        return ""
    return f"rare-{bisect_left(RARE, -logp)}"


def lag_level(lag: int | None) -> str:
    """The class of a token's lag, in optimizer steps.

    >>> [lag_level(value) for value in (0, 1, 2, 3, 9, None)]
    ['rare-0', 'rare-1', 'rare-2', 'rare-3', 'rare-4', '']
    """
    return "" if lag is None else f"rare-{min(4, max(0, lag))}"
