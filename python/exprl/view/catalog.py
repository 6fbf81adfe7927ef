"""What the pages know of every step: a few numbers per rollout, read once and kept in memory.

Texts and tokens stay on the disk until a page shows them. A thread reads the steps, the newest one
first, while pages are served already; a page that needs all steps says how many are read.
"""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from exprl.errors import DataError
from exprl.monitor.rollout_reader import Rollouts
from exprl.types import Int64Array
from exprl.view.links import NotThereError
from exprl.view.step_index import Group, StepIndex, read_index

Place = tuple[int, int]
"""Step and row of a rollout."""

LOOK_S = 1.0
"""Seconds between two looks for new steps."""
YIELD_S = 0.01
"""While a page is made, the thread looks so often whether it may go on."""


@dataclass(frozen=True, slots=True, eq=False)
class Selection:
    """Rollouts in an order: steps and rows, both [n]."""

    steps: Int64Array
    rows: Int64Array

    def __len__(self) -> int:
        return len(self.rows)

    def place(self, i: int) -> Place:
        """Step and row of the i-th."""
        return int(self.steps[i]), int(self.rows[i])

    def find(self, place: Place) -> int | None:
        """Which one a rollout is; None where it is none of them."""
        found = np.flatnonzero((self.steps == place[0]) & (self.rows == place[1]))
        return int(found[0]) if len(found) else None


class Catalog:
    """The steps of a run, those that are still to come included."""

    def __init__(self, run_dir: Path) -> None:
        self.rollouts = Rollouts(run_dir)
        self._known: dict[int, tuple[int, StepIndex]] = {}
        self._broken: dict[int, tuple[int, str]] = {}
        self._lock = threading.Lock()
        self._lock_pages = threading.Lock()
        self._ended = threading.Event()
        self._pages = 0
        self._thread = threading.Thread(target=self._read_all, name="catalog", daemon=True)

    def start(self) -> None:
        """Read the newest step, then on a thread all others, and new ones, until `stop`."""
        for step in self.steps()[-1:]:
            self._try(step)
        self._thread.start()

    def stop(self) -> None:
        """End the thread."""
        self._ended.set()
        self._thread.join()

    @contextmanager
    def page_first(self) -> Iterator[None]:
        """While a page is made, the thread reads no further step: readers do not wait for it."""
        with self._lock_pages:
            self._pages += 1
        try:
            yield
        finally:
            with self._lock_pages:
                self._pages -= 1

    def steps(self) -> list[int]:
        """The steps that have rollouts, in order."""
        return self.rollouts.steps()

    def step(self, number: int) -> StepIndex:
        """One step; read anew where its file is another one, since a resumed run repeats steps.

        Raises:
            NotThereError: the run has no rollouts of it.
            DataError: the file cannot be read.
        """
        try:
            written = self.rollouts.path(number).stat().st_mtime_ns
        except FileNotFoundError:
            self._known.pop(number, None)
            raise NotThereError(
                f"the run has no rollouts of step {number}{self._range()}"
            ) from None
        known = self._known.get(number)
        if known is None or known[0] != written:
            with self._lock:  # one file at a time: two readers would not be faster
                known = self._known[number] = (written, read_index(self.rollouts, number))
        return known[1]

    def known(self) -> list[StepIndex]:
        """The steps that are read so far, in order."""
        return [index for _, (_, index) in sorted(self._known.copy().items())]

    def broken(self) -> list[str]:
        """Why files of steps cannot be read, one line each."""
        return [message for _, (_, message) in sorted(self._broken.copy().items())]

    def groups(self) -> dict[str, list[Group]]:
        """The groups of each problem, in the order of the steps, as far as they are read."""
        found: dict[str, list[Group]] = defaultdict(list)
        for index in self.known():
            for group in index.groups:
                found[group.problem_id].append(group)
        return found

    def select(
        self, step: int | None, pick: str | None, domain: str | None, problem: str | None
    ) -> Selection:
        """The rollouts of a selection, the strongest first: of a step, or of all read so far.

        Raises:
            NotThereError, DataError: as `step`.
        """
        indices = self.known() if step is None else [self.step(step)]
        parts = [index.select(pick, domain, problem) for index in indices]
        steps = np.repeat([index.step for index in indices], [len(rows) for rows, _ in parts])
        rows = np.concatenate([np.empty(0, np.int64), *(rows for rows, _ in parts)])
        if pick is None or step is not None:
            return Selection(steps, rows)
        order = np.argsort(-np.concatenate([strength for _, strength in parts]), kind="stable")
        return Selection(steps[order], rows[order])

    def _range(self) -> str:
        steps = self.steps()
        return f"; it has {steps[0]} to {steps[-1]}" if steps else ", and of no other step yet"

    def _read_all(self) -> None:
        """Reads files; waits for new ones; ends with `stop`."""
        while not self._ended.is_set():
            steps = self.steps()
            for gone in set(self._known) - set(steps):
                self._known.pop(gone, None)
            for step in reversed(steps):
                while self._pages and not self._ended.wait(YIELD_S):
                    pass
                if self._ended.is_set():
                    return
                self._try(step)
            self._ended.wait(LOOK_S)

    def _try(self, step: int) -> None:
        """Read a step unless it is known; remember a file that cannot be read until it changes."""
        try:
            written = self.rollouts.path(step).stat().st_mtime_ns
            if self._broken.get(step, (0, ""))[0] != written:
                self.step(step)
                self._broken.pop(step, None)
        except (NotThereError, FileNotFoundError):  # it has just been taken away
            self._broken.pop(step, None)
        except DataError as error:
            self._broken[step] = (written, str(error))
