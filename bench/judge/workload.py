"""What is graded: traces whose requests have a given size, alone or as a rollout's prefixes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass

SENTENCE = 'We have 12 * 7 = 84, so "x" is 84 / 3 = 28.\nThen 28 + 5 = 33 <= 40 holds.\n'
# What `exprl-judge` adds to a trace: the rubric, the fence, the JSON around them.
RUBRIC = 2400


@dataclass(frozen=True)
class Rollout:
    """A problem, its reference and a trace in segments; one request per prefix."""

    name: str
    problem: str
    reference: str
    segments: tuple[str, ...]

    def prompts(self) -> Iterator[str]:
        """The messages that a client without a rubric of its own sends, of the same sizes."""
        head = f"{'R' * RUBRIC}{self.problem}{self.reference}"
        trace = ""
        for segment in self.segments:
            trace += segment
            yield f"{head}{trace}"


def text(size: int) -> str:
    return (SENTENCE * (size // len(SENTENCE) + 1))[:size]


def rollouts(kb: int, group: int, seconds: float) -> Iterator[Rollout]:
    """Different rollouts until the time is over; their requests have `kb` kB in the mean.

    With `group` > 1 a rollout has that many segments. The shared part is then as long as
    all but the first half of the steps, as in a long trace judged at every step.
    """
    total = kb * 1024
    if group == 1:
        reference, segment = text(1000), text(total - RUBRIC - 1200)
    else:
        segment = text(total // 8)
        reference = text(total - RUBRIC - 200 - len(segment) * (group + 1) // 2)
    segments = (segment,) * (group - 1)
    end = time.perf_counter() + seconds
    number = 0
    while time.perf_counter() < end:
        problem = f"Problem {number}: {SENTENCE}"
        yield Rollout(str(number), problem, reference, (f"{number} {segment}", *segments))
        number += 1
