"""A judge's jobs: push items, take graded items as they finish."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Generator, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

from exprl import _core
from exprl.errors import JudgeError
from exprl.judge.closing import Closing
from exprl.judge.settings import JudgeSettings
from exprl.judge.types import Graded, GradedArrays, JudgeItem, Verdict, by_index
from exprl.steps import StepRule, split_text


class Judge(Closing):
    """Servers, queues and ledger; jobs share them. Closing it cancels its jobs.

    Raises:
        ConfigError: a setting, the rubric or the key cannot be used.
        JudgeError: the ledger cannot be used, for example because another process has it open.
    """

    def __init__(self, settings: JudgeSettings) -> None:
        self.settings = settings
        self._core = _core.Judge(settings.to_json())
        self._last_stats: _core.JudgeStats | None = None

    def submit(self, items: Iterable[JudgeItem] | None = None) -> Job:
        """Start a job; its deadline runs from now.

        Args:
            items: queued as far as there is room, and the rest as results are taken; None leaves
                the job open for `push`.
        """
        return Job(self._core.submit(), self, items)

    def stats(self) -> _core.JudgeStats:
        """The counters; after `close`, as they were then."""
        if self._last_stats is not None:
            return self._last_stats
        return self._core.stats()

    def prometheus(self) -> str:
        """The counters and more, per server, in Prometheus' text format 0.0.4."""
        return self._core.prometheus()

    def serve_metrics(self, port: int = 0) -> str:
        """Serve `prometheus` on 127.0.0.1 until `close`; returns the page's URL.

        Args:
            port: 0 takes a free one.
        """
        return self._core.serve_metrics(port)

    def close(self) -> None:
        """Cancel what is unfinished and free the ledger; a second call does nothing."""
        if self._last_stats is None:
            self._last_stats = self.stats()
            self._core.close()

    def __reduce__(self) -> NoReturn:
        raise JudgeError("a Judge cannot be pickled; send its settings and open one there")


class Job:
    """A batch: push items, take graded items as they finish.

    One consumer at a time: `for`, `async for`, `result()` and `await` all take from one stream.
    Dropping the last reference cancels what is unfinished.
    """

    def __init__(
        self, core: _core.Job, judge: Judge, items: Iterable[JudgeItem] | None = None
    ) -> None:
        """Made by `Judge.submit`."""
        self._core = core
        # A job whose judge nobody else holds must not lose it.
        self._judge = judge
        # Those that were not queued yet.
        self._items = None if items is None else iter(items)
        self._ready: deque[Graded] = deque()
        self._finished = False
        if self._items is not None:
            self._core.feed(self._items)

    def push(self, item: JudgeItem) -> None:
        """Queue an item; waits while too much text is queued.

        Raises:
            DataError: the item has no segments.
            ConfigError: there is no rubric for its domain.
            JudgeError: the job or the judge is closed.
        """
        if self._items is not None:
            raise JudgeError(
                "a job that was given its items takes no more and is closed after the last;"
                " submit without any to push"
            )
        self._core.push(item)

    def close(self) -> None:
        """No more items will come; a second call does nothing."""
        # A job that was given its items closes after the last one.
        if self._items is None:
            self._core.close()

    def cancel(self) -> None:
        """End now: sockets are dropped, and what is unfinished ends as `cancelled`.

        Items given to `submit` that were not queued yet are not taken, and have no result.
        """
        self._items = None
        self._core.cancel()

    def result(self) -> list[Graded]:
        """Close, and wait for all items that were not taken yet, in the order of pushes.

        Interrupted, by Ctrl-C for example, it takes none: a later call gives all of them.
        """
        self.close()
        with self._untaken() as taken:
            taken.extend(self)
        return sorted(taken, key=by_index)

    def arrays(self) -> GradedArrays:
        """Like `result`, as NumPy columns."""
        return GradedArrays.of(self.result())

    def __iter__(self) -> Iterator[Graded]:
        return self

    def __next__(self) -> Graded:
        while not self._ready and not self._finished:
            self._absorb(*self._core.wait(self._items))
        return self._pop(StopIteration)

    def __aiter__(self) -> AsyncIterator[Graded]:
        return self

    async def __anext__(self) -> Graded:
        while not self._ready and not self._finished:
            descriptor = self._core.fileno()
            self._absorb(*self._core.take(self._items))
            if not self._ready and not self._finished:
                await _readable(descriptor)
        return self._pop(StopAsyncIteration)

    def __await__(self) -> Generator[Any, None, list[Graded]]:
        return self._gather().__await__()

    async def _gather(self) -> list[Graded]:
        self.close()
        with self._untaken() as taken:
            async for graded in self:
                taken.append(graded)
        return sorted(taken, key=by_index)

    @contextmanager
    def _untaken(self) -> Iterator[list[Graded]]:
        """A list for what is taken; taken back if that ends early."""
        taken: list[Graded] = []
        try:
            yield taken
        except BaseException:
            self._ready.extendleft(reversed(taken))
            raise

    def _absorb(self, rows: list[tuple[int, str, list[Any]]], finished: bool) -> None:
        # `_make` would count the fields again.
        make = tuple.__new__
        self._ready.extend(
            Graded(index, name, tuple([make(Verdict, row) for row in verdicts]))
            for index, name, verdicts in rows
        )
        self._finished = finished

    def _pop(self, end: type[Exception]) -> Graded:
        if not self._ready:
            raise end
        return self._ready.popleft()

    def __reduce__(self) -> NoReturn:
        raise JudgeError("a Job cannot be pickled; send its items, or its results")


def split(
    trace: str,
    rule: StepRule = "delimiter",
    *,
    delimiter: str = "###",
    min_step_words: int = 1,
    max_steps: int | None = None,
    cut_thinking: bool = True,
) -> tuple[str, ...]:
    """Cut a plain text into segments; joined, they are the text. An empty text is one segment.

    The arguments are those of `exprl.steps.split_text`.
    """
    steps = split_text(
        trace,
        rule,
        delimiter=delimiter,
        min_step_words=min_step_words,
        max_steps=max_steps,
        cut_thinking=cut_thinking,
    )
    return steps or (trace,)


async def _readable(descriptor: int) -> None:
    """Sleep until a descriptor has something to read."""
    import asyncio  # half of this module's import time, and most callers iterate plainly

    loop = asyncio.get_running_loop()
    rung = asyncio.Event()
    loop.add_reader(descriptor, rung.set)
    try:
        await rung.wait()
    finally:
        loop.remove_reader(descriptor)
