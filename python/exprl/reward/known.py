"""What is known of a rollout before it is scored, and need not be found out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from exprl.judge import Verdict
from exprl.types import Segment
from exprl.verify.verifiers import Verdict as Verification


class OwnScores(NamedTuple):
    """What a function of the user's said of a rollout.

    reasons: one for each score that is missing, or one for all.
    """

    scores: tuple[float | None, ...]
    reasons: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Known:
    """What is known of a rollout before it is scored: `exprl whatif` has it from a run's file.

    segments: its steps; None has it cut into steps.
    blank: whether it shows the judge nothing; None has that looked up in the segments.
    uncut: why it could not be cut into steps; empty where it could.
    verified: the verifier's word; None has the verifier asked.
    verdicts: the judge's; None has it asked.
    own: what a function of the user's said; None has it asked.
    """

    segments: tuple[Segment, ...] | None = None
    blank: bool | None = None
    uncut: str = ""
    verified: Verification | None = None
    verdicts: tuple[Verdict, ...] | None = None
    own: OwnScores | None = None


NOTHING = Known()
