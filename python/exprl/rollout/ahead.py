"""Sampling and judging that run ahead of the trainer, by rollout.ahead training steps at most.

    data = ahead.next(k)    1. bring the policy's weights to the engine, and prove them by the probe
                            2. start the steps up to k + ahead, each on a thread
                            3. wait for step k

When the policy has learned from k steps, the steps up to k + ahead may be in flight. So no token
is more than `ahead` steps old when the trainer learns from it, and nothing sampled is dropped: a
trainer or a judge that is slow lets the others wait. With ahead = 0 the same code runs everything
in the caller's thread, one after the other.

Each thread consumes its step's rollouts, waits for engine and judge, and ends with its step; an
exception in it is raised by `next` of that step.
"""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError, Future
from contextlib import contextmanager
from typing import Any, Generic, Self, TypeVar

from exprl import config
from exprl.errors import EngineError
from exprl.learn.policy import Policy
from exprl.rollout.engine import Engine
from exprl.rollout.weight_sync import Probe, wake_engine
from exprl.types import Prompt, Rollout

T = TypeVar("T")
Now = Callable[[], float]

JOIN_S = 2.0
"""Longest wait for steps that were given up: a thread may hang in the engine until that ends."""


class BusyTime:
    """Seconds in which at least one of several threads was at work."""

    def __init__(self, now: Now) -> None:
        self._now = now
        self._lock = threading.Lock()
        self._workers = 0
        self._since = 0.0
        self._seconds = 0.0

    @contextmanager
    def working(self) -> Iterator[None]:
        """Count the caller as at work."""
        with self._lock:
            if self._workers == 0:
                self._since = self._now()
            self._workers += 1
        try:
            yield
        finally:
            with self._lock:
                self._workers -= 1
                if self._workers == 0:
                    self._seconds += self._now() - self._since

    def seconds(self) -> float:
        """All of them up to now."""
        with self._lock:
            return self._seconds + (self._now() - self._since if self._workers else 0.0)


class StepSampler:
    """The engine, as one step sees it.

    What a checkpoint holds of the step's rollouts comes from there, and is not sampled again.

    step: number of the step, from 0.
    rollouts: what it has given so far.
    seconds: what the step has spent on what, by name.
    sampled: set once the step samples nothing more.
    """

    def __init__(
        self,
        step: int,
        engine: Engine | None,
        policy: Policy,
        recorded: Sequence[Rollout],
        busy: BusyTime,
        now: Now,
        *,
        samples_once: bool,
    ) -> None:
        """Made by `Ahead`, in the trainer's thread.

        Args:
            recorded: of this step, by a checkpoint; whole groups.
            samples_once: whether nothing more is sampled after the first call of `sample`.
        """
        self.step = step
        self.rollouts: list[Rollout] = []
        self.seconds = defaultdict[str, float](float)
        self.sampled = threading.Event()
        self._engine = engine
        self._policy = policy
        self._oldest = engine.policy_version if engine else 0
        self._recorded: dict[str, list[Rollout]] = {}
        for rollout in recorded:
            self._recorded.setdefault(rollout.problem_id, []).append(rollout)
        self._busy = busy
        self._now = now
        self._samples_once = samples_once
        self._lock = threading.Lock()
        self._cancelled = False
        self._on_cancel: list[Callable[[], object]] = []

    def sample(
        self,
        prompts: Sequence[Prompt],
        n: int,
        seed: int,
        temperature: float,
        max_response_tokens: int,
    ) -> Generator[Rollout]:
        """Sample n solutions of each prompt, yielded as they finish; see Engine.sample.

        Raises:
            EngineError: a rollout names weights that the engine cannot have had.
        """
        assert self._engine is not None, "this run samples nothing"
        with self.timed("rollout"):
            left = []
            for prompt in prompts:
                recorded = self._recorded.pop(prompt.problem_id, [])
                if len(recorded) == n:
                    yield from map(self._take, recorded)
                else:
                    left.append(prompt)
            if left:
                with self._busy.working():
                    for rollout in self._engine.sample(
                        left, n, seed, temperature, max_response_tokens
                    ):
                        self._check(rollout)
                        yield self._take(rollout)
        if self._samples_once:
            self.sampled.set()

    def _take(self, rollout: Rollout) -> Rollout:
        if self._cancelled:
            raise CancelledError
        self.rollouts.append(rollout)
        return rollout

    def _check(self, rollout: Rollout) -> None:
        """Versions rise: no token is older than what the engine held at the step's start."""
        versions = rollout.versions
        newest = self._policy.version
        if len(versions) and not self._oldest <= versions.min() <= versions.max() <= newest:
            raise EngineError(
                f"the engine says that it sampled step {self.step + 1} with the policy versions"
                f" {versions.min()} to {versions.max()}, and it had {self._oldest} when the step"
                f" began; the trainer is at version {newest}"
            )

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Add the seconds of the block to `seconds[name]`."""
        start = self._now()
        try:
            yield
        finally:
            self.seconds[name] += self._now() - start

    def on_cancel(self, call: Callable[[], object]) -> None:
        """Have `call` called, from another thread, when the step is given up."""
        with self._lock:
            self._on_cancel.append(call)
            late = self._cancelled
        if late:
            call()

    def cancel(self) -> None:
        """Give the step up: it ends at its next rollout, or when what it waits for is cancelled."""
        with self._lock:
            self._cancelled = True
            calls = list(self._on_cancel)
        for call in calls:
            call()


class _Step(Generic[T]):
    """A step in flight."""

    def __init__(self, sampler: StepSampler, gather: Callable[[StepSampler], T]) -> None:
        self.sampler = sampler
        self.result: Future[T] = Future()
        self.thread = threading.Thread(
            target=self.run, name=f"step-{sampler.step + 1}", daemon=True
        )
        self._gather = gather

    def run(self) -> None:
        """Keep what `gather` returns or raises."""
        try:
            self.result.set_result(self._gather(self.sampler))
        except BaseException as error:
            self.result.set_exception(error)
        finally:
            self.sampler.sampled.set()


class Ahead(Generic[T]):
    """The steps of a run, in order, of which some are in flight before they are asked for.

    Use it as a context manager: at its end what is still in flight is given up.

    seconds: of the last `next`, by name: sync, trainer_wait, and what the step itself spent.
    """

    def __init__(
        self,
        gather: Callable[[StepSampler], T],
        policy: Policy,
        engine: Engine | None,
        probe: Probe | None,
        settings: config.Rollout,
        *,
        steps: int,
        samples: bool = True,
        recorded: Mapping[int, Sequence[Rollout]] | None = None,
        now: Now = time.monotonic,
    ) -> None:
        """Start nothing yet.

        Args:
            gather: makes a step's data with its sampler. With rollout.redraw = 0 it samples once.
            steps: of the whole run.
            samples: whether the steps sample anything; SFT does not.
            recorded: the rollouts of steps that were in flight at the checkpoint, by step.
            now: seconds of a clock.
        """
        self.seconds = defaultdict[str, float](float)
        self._gather = gather
        self._policy, self._engine, self._probe = policy, engine, probe
        self._settings = settings
        self._steps = steps
        self._samples = samples
        self._recorded = dict(recorded or {})
        self._now = now
        self._busy = BusyTime(now)
        self._in_flight: dict[int, _Step[T]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for one in self._in_flight.values():
            one.sampler.cancel()
        deadline = time.monotonic() + JOIN_S
        for one in self._in_flight.values():
            if one.thread.is_alive():
                one.thread.join(max(0.0, deadline - time.monotonic()))
        self._in_flight.clear()

    def next(self, step: int) -> T:
        """The data of a step; call it for each step in turn, from one thread.

        Raises:
            EngineError: the engine has other weights than the policy.
            Exception: what `gather` raised for this step.
        """
        self.seconds = defaultdict(float)
        if self._samples:
            self.sync()
        with self._timed("trainer_wait"):
            for number in range(step, min(step + self._settings.ahead + 1, self._steps)):
                if number not in self._in_flight:
                    self._start(number)
            one = self._in_flight[step]
            data = one.result.result()
        del self._in_flight[step]
        self.seconds.update(one.sampler.seconds)
        return data

    def sync(self) -> Engine:
        """Bring the policy's weights to the engine where its own are older, and prove them.

        With rollout.in_flight = false this waits until everything in flight is sampled.

        Raises:
            EngineError: the engine has other weights than the policy.
        """
        assert self._engine is not None, "this run samples nothing"
        if not self._settings.in_flight and self._engine.policy_version != self._policy.version:
            with self._timed("trainer_wait"):
                self._wait_until_sampled()
        with self._timed("sync"):
            return wake_engine(self._policy, self._engine, self._probe)

    def collect_rollouts(self) -> dict[int, list[Rollout]]:
        """Wait until the steps in flight are sampled; their rollouts, by step, for a checkpoint.

        A step that failed is left out, and so is a problem of which the engine gave up a rollout:
        both are sampled again by the run that goes on.
        """
        self._wait_until_sampled()
        whole = [one for one in self._in_flight.values() if not _failed(one.result)]
        found = {one.sampler.step: _whole_groups(one.sampler.rollouts) for one in whole}
        return {step: rollouts for step, rollouts in found.items() if rollouts}

    def engine_seconds(self) -> float:
        """Seconds in which at least one step was being sampled, since the beginning."""
        return self._busy.seconds()

    def _start(self, number: int) -> None:
        sampler = StepSampler(
            number,
            self._engine,
            self._policy,
            self._recorded.pop(number, ()),
            self._busy,
            self._now,
            samples_once=self._settings.redraw == 0,
        )
        one = self._in_flight[number] = _Step(sampler, self._gather)
        if self._settings.ahead:
            one.thread.start()
        else:
            one.run()

    def _wait_until_sampled(self) -> None:
        for one in self._in_flight.values():
            one.sampler.sampled.wait()

    @contextmanager
    def _timed(self, name: str) -> Iterator[None]:
        start = self._now()
        try:
            yield
        finally:
            self.seconds[name] += self._now() - start


def _failed(result: Future[Any]) -> bool:
    return result.done() and result.exception() is not None


def _whole_groups(rollouts: Sequence[Rollout]) -> list[Rollout]:
    """Without the problems of which a rollout failed; in one order, whichever finished first."""
    broken = {r.problem_id for r in rollouts if r.finish_reason == "failed"}
    whole = [r for r in rollouts if r.problem_id not in broken]
    return sorted(whole, key=lambda r: (r.problem_id, r.index))
