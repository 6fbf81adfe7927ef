"""Rubric dropout: a training step grades a problem by some of its checkpoints only.

A policy that is graded by the same few checkpoints for hundreds of steps may learn to please them.
So each checkpoint of judge.rubrics is left out with probability judge.rubric_dropout, anew in each
step (docs/concepts/method.md, Rubric dropout). All rollouts of a problem in a step are graded by
the same ones, so that they stay comparable.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence

from exprl import _core, config
from exprl.data.mixture import make_generator
from exprl.judge import Graded, JudgeItem
from exprl.reward.judges import Asking, Asks

Checkpoints = tuple[tuple[str, int], ...]
"""Text and weight of each. The judge reads weights as shares of those it is shown."""


def keep_checkpoints(
    checkpoints: Sequence[tuple[str, int]], rate: float, seed: int, step: int, problem: str
) -> Checkpoints:
    """The checkpoints by which a problem is graded in a step; at least one, in their order.

    Args:
        rate: probability of each to be left out, in [0, 1).
        seed, step, problem: the same ones keep the same checkpoints.
    """
    name = f"rubric dropout {step} {problem}".encode()
    stream = int.from_bytes(hashlib.blake2b(name, digest_size=8).digest(), "little")
    drawn = make_generator(seed, stream).random(len(checkpoints))
    kept = drawn >= min(rate, drawn.max())
    return tuple(c for c, stays in zip(checkpoints, kept, strict=True) if stays)


class RubricDropout:
    """The rubrics of the problems, of which each step leaves out a part."""

    def __init__(self, rubrics: str, rate: float, seed: int) -> None:
        """Read the rubrics.

        Args:
            rubrics: JSONL file, as `exprl rubric build` writes it.

        Raises:
            ConfigError: the file cannot be read.
        """
        self._checklists = _core.Checklists(rubrics)
        self._rate = rate
        self._seed = seed

    def at_step(self, judges: Asks, step: int) -> Asks:
        """The judges, asked by the checkpoints that this step keeps.

        Args:
            step: its number, as in the names of the rollout files.
        """
        return _AskByPart(judges, self, step)

    def give_part(self, item: JudgeItem, step: int) -> JudgeItem:
        """The item with the checkpoints that the step keeps.

        An item without a reference is graded without a rubric, and for one whose rubric is not in
        the file the judge says so.
        """
        if item.reference is None:
            return item
        found = self._checklists.find(item.problem, item.reference)
        if found is None:
            return item
        kept = keep_checkpoints(found, self._rate, self._seed, step, item.problem)
        return item._replace(checklist=kept)


def open_dropout(section: config.Judge, seed: int) -> RubricDropout | None:
    """What the section asks for; None where every checkpoint stays."""
    if not section.rubric_dropout or section.rubrics is None:
        return None
    return RubricDropout(section.rubrics, section.rubric_dropout, seed)


class _AskByPart:
    """Judges of one step."""

    def __init__(self, judges: Asks, dropout: RubricDropout, step: int) -> None:
        self._judges = judges
        self._dropout = dropout
        self._step = step

    def submit(self) -> Asking:
        """Open a batch."""
        return _Batch(self._judges.submit(), self._dropout, self._step)


class _Batch:
    """A batch of them."""

    def __init__(self, batch: Asking, dropout: RubricDropout, step: int) -> None:
        self._batch = batch
        self._dropout = dropout
        self._step = step

    def push(self, item: JudgeItem) -> None:
        """Queue an item."""
        self._batch.push(self._dropout.give_part(item, self._step))

    def close(self) -> None:
        """No more items will come."""
        self._batch.close()

    def cancel(self) -> None:
        """End now."""
        self._batch.cancel()

    def __iter__(self) -> Iterator[Graded]:
        """Items as they finish."""
        return iter(self._batch)
