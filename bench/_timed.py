"""An engine and a policy that take the time of real ones and compute nothing; what was seen.

The engine is a model of continuous batching: all sequences in flight go forward at one speed, which
is 1 while at most `slots` are in flight, and slots / b with b of them. So a step begins bound by
throughput and ends with a few long rollouts, and two steps in flight fill each other's ends.
"""

from __future__ import annotations

import heapq
import itertools
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from exprl import config
from exprl.judge import JudgeItem
from exprl.learn.loss import LossStats
from exprl.learn.policy import Policy, UpdateStats
from exprl.reward.judges import Judges
from exprl.rollout.engine import NO_POLICY
from exprl.types import Float32Array, Int32Array, Packed, Prompt, Rollout, TrainBatch

EOS, DIGITS, DELIMITER = 2, (3, 13), 20
"""Token ids of the miniature's tokenizer."""
STEP_TOKENS, MEAN_TOKENS, LONGEST, SPREAD = 10, 75, 200, 0.5
"""A rollout: tokens of one of its steps, and its length, lognormal and cut at the longest."""

Span = tuple[float, float]
"""Begin and end, in seconds of time.monotonic."""


def draw_lengths(seed: int, count: int) -> Int32Array:
    """Tokens of a step's rollouts: about one in forty is as long as is allowed."""
    drawn = np.random.default_rng(seed).lognormal(np.log(MEAN_TOKENS), SPREAD, count)
    return drawn.clip(STEP_TOKENS, LONGEST).astype(np.int32)


def time_alone(lengths: Int32Array, slots: int) -> float:
    """How long a step's rollouts take alone; a token takes 1 in a batch of `slots` at most."""
    left = len(lengths) - np.arange(len(lengths))
    return float(np.sum(np.diff(np.sort(lengths), prepend=0) * np.maximum(1.0, left / slots)))


@dataclass(slots=True)
class Seen:
    """What happened when. A step of sampling is named by the ids of its problems.

    loads: new weights going into the engine.   trains: the policy's updates.
    sampled, graded: when the last rollout of a step was there, and its last grade.
    engine: the engine had something in flight.   judge: samples of (when, requests in flight).
    steps: the names of the steps, in order.
    """

    loads: list[Span] = field(default_factory=list)
    trains: list[Span] = field(default_factory=list)
    sampled: dict[frozenset[str], float] = field(default_factory=dict)
    graded: dict[frozenset[str], float] = field(default_factory=dict)
    engine: list[Span] = field(default_factory=list)
    judge: list[tuple[float, int]] = field(default_factory=list)
    steps: list[frozenset[str]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Step:
    """Where a step's time went, as shares of it; the first five add up to 1.

    for_sampling, for_grades: the trainer waits for rollouts; for grades, once all are sampled.
    host: the loop's own work, and what threads take to answer each other.
    stuck: the trainer waits for grades while the engine, too, has nothing to do.
    """

    seconds: float
    trains: float
    syncs: float
    for_sampling: float
    for_grades: float
    host: float
    engine_idle: float
    judge_idle: float
    stuck: float


def split_steps(seen: Seen, measured: range) -> list[Step]:
    """Where the time of each of these steps went, from one weight update to the next."""
    found = []
    for i in measured:
        (begin, free), (trains, trained) = seen.loads[i], seen.trains[i]
        whole = (begin, seen.loads[i + 1][0])
        sampled = max(free, seen.sampled[seen.steps[i]])
        grades = (sampled, max(sampled, seen.graded[seen.steps[i]]))
        waits, seconds = grades[1] - grades[0], whole[1] - begin
        busy = [n > 0 for when, n in seen.judge if whole[0] <= when < whole[1]]
        step = Step(
            seconds=seconds,
            trains=(trained - trains) / seconds,
            syncs=(free - begin) / seconds,
            for_sampling=(sampled - free) / seconds,
            for_grades=waits / seconds,
            host=(trains - grades[1] + whole[1] - trained) / seconds,
            engine_idle=1 - overlap(whole, seen.engine) / seconds,
            judge_idle=1 - float(np.mean(busy)),
            stuck=(waits - overlap(grades, seen.engine)) / seconds,
        )
        found.append(step)
    return found


def overlap(span: Span, others: Sequence[Span]) -> float:
    """Seconds of `span` that lie in one of the others, which do not overlap each other."""
    return sum(max(0.0, min(span[1], end) - max(span[0], begin)) for begin, end in others)


class TimedEngine:
    """Samples by the clock; see the head of this file. Several threads may sample at once."""

    def __init__(self, seen: Seen, token_s: float, slots: int, sync_s: float) -> None:
        """`token_s`: of one token of one sequence at speed 1. `sync_s`: of a weight update."""
        self.policy_version = NO_POLICY
        self.policy: Policy | None = None
        self._seen, self._token_s, self._slots, self._sync_s = seen, token_s, slots, sync_s
        self._changed = threading.Condition()
        self._numbers = itertools.count()
        self._live: list[tuple[float, int, Callable[[], object]]] = []
        self._work, self._then = 0.0, time.monotonic()
        self._paused = False
        self._begun = 0.0
        self._updates: list[tuple[float, int]] = []

    def sample(
        self,
        prompts: Sequence[Prompt],
        n: int,
        seed: int,
        temperature: float,
        max_response_tokens: int,
        truncation: config.Truncation = config.ALL_TOKENS,
    ) -> Iterator[Rollout]:
        """See Engine.sample: random digits, in steps, of the lengths of `draw_lengths`."""
        lengths = iter(draw_lengths(seed, len(prompts) * n))
        generator = np.random.default_rng(seed)
        done: list[Rollout] = []
        with self._changed:
            self._advance()
            start = self._work
            for prompt in prompts:
                for index in range(n):
                    tokens = random_solution(generator, int(next(lengths)))
                    end = start + len(tokens) * self._token_s
                    name = (prompt.problem_id, index)
                    self._push(end, lambda *_, a=(name, tokens, start): done.append(self._made(*a)))
            self._changed.notify_all()
        for _ in range(len(prompts) * n):
            with self._changed:
                self._advance()
                while not done:
                    self._changed.wait(self._seconds_to_next())
                    self._advance()
                rollout = done.pop(0)
            yield rollout
        self._seen.sampled[frozenset(p.problem_id for p in prompts)] = time.monotonic()

    def sample_continuations(self, *arguments: object) -> Iterator[Rollout]:
        """Nothing in a training run asks for continuations."""
        raise NotImplementedError("a training run asks for no continuations")

    def logp(self, token_ids: Int32Array) -> Sequence[Float32Array]:
        """See Engine.logp: what the policy says, as if its weights had come over."""
        assert self.policy is not None
        n = len(token_ids)
        ids, ends = token_ids.astype(np.int64), np.array([0, n], np.int32)
        row = Packed(ids, np.arange(n), ends, np.arange(1, n))
        return [self.policy.logp(row, temperature=1.0).float().cpu().numpy()]

    def load_weights(self, weights: Iterator[tuple[str, Any]], version: int) -> None:
        """See Engine.load_weights: what is in flight pauses, and goes on with the new version."""
        begin = time.monotonic()
        with self._changed:
            self._advance()
            self._paused = True
        for _ in weights:
            pass
        time.sleep(self._sync_s)
        with self._changed:
            self._advance()
            self._paused = False
            self._updates.append((self._work, version))
            self.policy_version = version
            self._changed.notify_all()
        self._seen.loads.append((begin, time.monotonic()))

    def sleep(self) -> None:
        """It shares no GPU with the trainer."""

    def wake(self, part: str) -> None:
        """See `sleep`."""

    def stats(self) -> None:
        """It has no servers."""

    def close(self) -> None:
        """It has started nothing."""

    def _push(self, end: float, finish: Callable[[], object]) -> None:
        if not self._live:
            self._begun = self._then
        heapq.heappush(self._live, (end, next(self._numbers), finish))

    def _speed(self) -> float:
        return 0.0 if self._paused else min(1.0, self._slots / max(1, len(self._live)))

    def _seconds_to_next(self) -> float | None:
        if not self._live or self._paused:
            return None
        return max(0.0, (self._live[0][0] - self._work) / self._speed())

    def _advance(self) -> None:
        """Finish what is due by now, one by one, since each end makes the others faster."""
        now = time.monotonic()
        while (wait := self._seconds_to_next()) is not None and self._then + wait <= now:
            self._work, self._then = self._live[0][0], self._then + wait
            heapq.heappop(self._live)[2]()
            if not self._live:
                self._seen.engine.append((self._begun, self._then))
            self._changed.notify_all()
        self._work, self._then = self._work + (now - self._then) * self._speed(), now

    def _made(self, name: tuple[str, int], tokens: Int32Array, start: float) -> Rollout:
        """A rollout whose tokens name the version that was there when each was sampled."""
        when = start + self._token_s * np.arange(1, len(tokens) + 1)
        boundaries, versions = zip(*self._updates, strict=True)
        at = np.searchsorted(boundaries, when, side="left") - 1
        own = np.array(versions, np.int32)[at.clip(0)]
        logp = np.full(len(tokens), -2.3, np.float32)
        return Rollout(*name, np.ones(8, np.int32), tokens, logp, "stop", own)


def random_solution(generator: np.random.Generator, length: int) -> Int32Array:
    """Digits in steps of STEP_TOKENS, and the end of the text."""
    tokens = generator.integers(*DIGITS, length).astype(np.int32)
    tokens[::STEP_TOKENS] = DELIMITER
    tokens[-1] = EOS
    return tokens


def timed_step(policy: Policy, seen: Seen, train_s: float) -> Callable[..., list[UpdateStats]]:
    """A `Policy.step` that takes `train_s` and changes the version alone."""

    def step(
        batches: Sequence[Sequence[TrainBatch]], *arguments: object, **named: object
    ) -> list[UpdateStats]:
        begin = time.monotonic()
        time.sleep(train_s)
        policy.version += len(batches)
        seen.trains.append((begin, time.monotonic()))
        tokens = [sum(len(b.target_pos) for b in mini) for mini in batches]
        return [UpdateStats(LossStats(tokens=n), 0.0, 0.0, skipped=False) for n in tokens]

    return step


class SeenSession:
    """A session of the judges that notes when its last grade came."""

    def __init__(self, session: Any, seen: Seen) -> None:
        self._session, self._seen = session, seen
        self._problems: set[str] = set()

    def push(self, item: JudgeItem) -> None:
        self._problems.add(item.id.rpartition("/")[0])
        self._session.push(item)

    def __iter__(self) -> Iterator[Any]:
        yield from self._session
        self._seen.graded[frozenset(self._problems)] = time.monotonic()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)


class SeenJudges:
    """The judges of a run, whose sessions are seen."""

    def __init__(self, judges: Judges, seen: Seen) -> None:
        self._judges, self._seen = judges, seen

    def submit(self) -> SeenSession:
        return SeenSession(self._judges.submit(), self._seen)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._judges, name)
