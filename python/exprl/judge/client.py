"""Grade many model outputs with an LLM judge behind OpenAI-compatible servers.

Needs neither torch nor vLLM. Requests, retries and the ledger are the Rust crate exprl-judge. For
example::

    settings = JudgeSettings(("http://127.0.0.1:8000/v1",), "Qwen/Qwen3-4B", view="outcome")
    with Judge(settings) as judge:
        job = judge.submit([JudgeItem("0", "What is 2 + 2?", "2 + 2 = 4", split("It is 4."))])
        for graded in job:
            print(graded.id, graded.verdicts[0].status, graded.verdicts[0].score)

A missing grade is None with a status that says why; it is never a made-up number.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import AsyncIterator, Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, NoReturn, Self, TypedDict, Unpack

from exprl import _core
from exprl.errors import ConfigError, JudgeError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from exprl.types import Float64Array, Int64Array

View = Literal["outcome", "prefix", "step"]
Readout = Literal["text", "expected"]
ScoreMap = Literal["linear", "binary", "extremes", "extremes_soft"]
# The first result of a burst waits so long for others: Python wakes once for all of them.
BURST_S = 0.002
# So often a coroutine that waits for results looks whether there is room for more items.
ROOM_CHECK_S = 0.05

Status = Literal[
    "ok", "repaired", "unparseable", "refused", "truncated", "timeout", "http_error", "cancelled"
]


@dataclass(frozen=True, slots=True)
class Prices:
    """What a million tokens cost, in any currency.

    Attributes:
        prompt: prompt tokens that were not cached.
        cached: prompt tokens found in the server's prefix cache.
        completion: tokens of replies.
    """

    prompt: float
    cached: float
    completion: float


@dataclass(frozen=True, slots=True)
class JudgeSettings:
    """How to judge. API keys are named here, never held, so this can be printed and pickled.

    Attributes:
        endpoints: base URLs, such as `http://127.0.0.1:8000/v1`.
        model: the model's name there.
        view: `outcome` asks once per rollout; `prefix` and `step` once per segment.
        readout: the grade in the reply's text, or the `expected` score under its log-probs.
        score_map: how a grade 1..5 becomes a score in [0, 1] (or stays missing).
        rubric: TOML file of a rubric for every domain; None takes the built-in ones.
        rubrics: JSONL file of per-problem rubrics (`exprl rubric build` writes it), for items that
            bring no checklist; an item with a reference must be found there. None takes none.
        temperature: of the judge's sampling.
        max_tokens: of a reply.
        concurrency: requests in flight per server, at most.
        kv_tokens: tokens that a server's KV cache holds: what is judged there at once fits into it.
            None asks each server's `/metrics` (vLLM tells); 0 sets no such bound.
        rpm: requests per minute over all servers, at most.
        tpm: tokens per minute, prompts and replies, over all servers, at most: estimated when a
            request leaves, corrected by the usage that the server reports.
        hedge: share of requests that may go to a second server when the first is late, at most.
        prices: what tokens cost; None reports no cost.
        attempts: requests sent for one grade when servers fail, at most (429 does not count).
        retry_budget: share of all requests that may be retries, beside a reserve for the start.
        reask: ask once more, after `Score:`, if a reply holds no grade.
        stream: stream the replies, and leave a reply when the line of its grade is complete. Saves
            what a judge writes after the grade, and tells a slow server from a dead one; not for a
            judge that thinks in its reply behind a tag that its template opens.
        connect_timeout_s: for TCP and TLS.
        first_byte_timeout_s: from the request to the reply's first byte.
        idle_timeout_s: between two pieces of a reply.
        deadline_s: for a whole job, from `submit`; what is left then ends as `timeout`.
        outage_s: when every server keeps failing and none has answered for so long, what waits
            ends as `http_error`.
        queue_bytes: text waiting and in flight before `push` waits.
        ledger: folder where replies are kept, so that a re-run sends nothing; None keeps nothing.
        revision: part of the ledger's keys; change it when the model behind the name changes.
        sample_index: part of the ledger's keys; another one asks for another sample.
        api_key_env: environment variable that holds the API key.
        api_key_file: file that holds the API key.
        ca_file: certificates (PEM) that https servers are checked with instead of the system's.
        extra: further fields of the request, such as `{"top_p": 0.9}`.
    """

    endpoints: tuple[str, ...]
    model: str
    view: View = "prefix"
    readout: Readout = "text"
    score_map: ScoreMap = "linear"
    rubric: str | None = None
    rubrics: str | None = None
    temperature: float = 0.0
    max_tokens: int = 2048
    concurrency: int = 64
    kv_tokens: int | None = None
    rpm: int | None = None
    tpm: int | None = None
    hedge: float = 0.02
    prices: Prices | None = None
    attempts: int = 4
    retry_budget: float = 0.1
    reask: bool = True
    stream: bool = False
    connect_timeout_s: float = 5.0
    first_byte_timeout_s: float = 300.0
    idle_timeout_s: float = 60.0
    deadline_s: float = 3600.0
    outage_s: float = 60.0
    queue_bytes: int = 256 << 20
    ledger: str | None = None
    revision: str = ""
    sample_index: int = 0
    api_key_env: str | None = None
    api_key_file: str | None = None
    ca_file: str | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse a URL that holds a password: settings are printed and saved."""
        if any("@" in url for url in self.endpoints):
            raise ConfigError(
                "a judge endpoint holds a user or key; name the key in api_key_env instead"
            )


class JudgeItem(NamedTuple):
    """One rollout to grade.

    Attributes:
        id: yours; it comes back in `Graded`.
        problem: as the policy saw it.
        reference: the hidden solution; None asks the judge to grade without one.
        segments: the rollout's text cut at the steps; joined, they are the whole trace.
        domain: selects the built-in rubric.
        checklist: the problem's own rubric, as text and weight (1..10) of 2 to 6 checkpoints; None
            leaves it to the judge to take checkpoints out of the reference.
    """

    id: str
    problem: str
    reference: str | None
    segments: tuple[str, ...]
    domain: str = "math"
    checklist: tuple[tuple[str, int], ...] | None = None


class Verdict(NamedTuple):
    """What became of one request.

    Attributes:
        status: only `ok` and `repaired` carry a grade.
        grade: 1..5, or None.
        score: in [0, 1]; None without a grade, and for a grade that the score map leaves out.
        reply: the judge's words; empty without a reply.
        error: why there is no grade, and what to change.
        prompt_tokens: as the server counted.
        completion_tokens: as the server counted.
        cached_tokens: prompt tokens that the server had in its prefix cache.
        attempts: HTTP requests sent for it; 0 from the ledger.
        server: the endpoint asked last; None if none was.
        latency_s: from the first request sent to the end, waits included.
        from_cache: answered by the ledger, or by an equal request in flight.
    """

    status: Status
    grade: int | None
    score: float | None
    reply: str
    error: str | None
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int
    attempts: int
    server: str | None
    latency_s: float
    from_cache: bool


@dataclass(frozen=True, slots=True)
class Graded:
    """One item, judged.

    Attributes:
        index: the item's place in the order of pushes, from 0.
        id: the item's.
        verdicts: one for `outcome`; one per segment, in order, for `prefix` and `step`.
    """

    index: int
    id: str
    verdicts: tuple[Verdict, ...]


class GradedArrays(NamedTuple):
    """R items and their S verdicts as columns, in the order of pushes.

    Attributes:
        ids: of the R items.
        offsets: [R+1] int64; item i has the verdicts offsets[i]..offsets[i+1]-1.
        scores: [S] float64; NaN = missing.
        grades: [S] float64, 1..5; NaN = missing.
        statuses: [S] of str.
        prompt_tokens: [S] int64, as the server counted.
        completion_tokens: [S] int64, as the server counted.
        cached_tokens: [S] int64; prompt tokens that the server had in its prefix cache.
        latencies_s: [S] float64; seconds from the first request sent to the end.
    """

    ids: tuple[str, ...]
    offsets: Int64Array
    scores: Float64Array
    grades: Float64Array
    statuses: npt.NDArray[np.str_]
    prompt_tokens: Int64Array
    completion_tokens: Int64Array
    cached_tokens: Int64Array
    latencies_s: Float64Array

    @classmethod
    def of(cls, graded: Iterable[Graded]) -> Self:
        """The columns of graded items, which come in any order."""
        import numpy as np  # most callers take items one by one

        items = sorted(graded, key=_by_index)
        verdicts = [verdict for item in items for verdict in item.verdicts]
        counts = [len(item.verdicts) for item in items]
        return cls(
            ids=tuple(item.id for item in items),
            offsets=np.cumsum([0, *counts], dtype=np.int64),
            # None becomes NaN.
            scores=np.array([verdict.score for verdict in verdicts], dtype=np.float64),
            grades=np.array([verdict.grade for verdict in verdicts], dtype=np.float64),
            statuses=np.array([verdict.status for verdict in verdicts], dtype=np.str_),
            prompt_tokens=np.array([v.prompt_tokens for v in verdicts], dtype=np.int64),
            completion_tokens=np.array([v.completion_tokens for v in verdicts], dtype=np.int64),
            cached_tokens=np.array([v.cached_tokens for v in verdicts], dtype=np.int64),
            latencies_s=np.array([v.latency_s for v in verdicts], dtype=np.float64),
        )


@dataclass(frozen=True, slots=True)
class JudgeStats:
    """What a judge has done so far.

    Attributes:
        requests_sent: HTTP requests, repeats and re-asks included.
        from_ledger: verdicts that the ledger gave.
        shared: verdicts that an equal request in flight gave.
        retries: requests sent again after a fault.
        reasks: requests for a missing grade.
        hedges: requests sent to a second server because the first was late.
        hedges_won: hedges that answered first.
        rate_limit_pauses: pauses of a server after a 429, a 503 with Retry-After, or a limit that
            is used up.
        readout_fallbacks: grades for which the expected readout had no usable log-probs.
        statuses: verdicts by status.
        prompt_tokens: as the servers counted.
        completion_tokens: as the servers counted.
        cached_tokens: prompt tokens found in prefix caches.
        cost: of these tokens; None without prices.
        ledger_replies: distinct replies in the ledger.
        ledger_corrupt: ledger records that were damaged on disk and are asked for again.
        ledger_failed: replies that could not be stored (a full disk): another run asks for them
            again.
        in_flight: requests in flight now.
        latency_p50_s: median of the answered requests, within 5 %.
        latency_p99_s: 99th percentile, within 5 %.
    """

    requests_sent: int
    from_ledger: int
    shared: int
    retries: int
    reasks: int
    hedges: int
    hedges_won: int
    rate_limit_pauses: int
    readout_fallbacks: int
    statuses: Mapping[Status, int]
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int
    cost: float | None
    ledger_replies: int
    ledger_corrupt: int
    ledger_failed: int
    in_flight: int
    latency_p50_s: float
    latency_p99_s: float


class _Closes:
    """What is used in a `with` block is closed at its end."""

    def close(self) -> None:
        """Give up what is held; a second call does nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class Judge(_Closes):
    """Servers, queues and ledger; jobs share them. Closing it cancels its jobs.

    Raises:
        ConfigError: a setting, the rubric or the key cannot be used.
        JudgeError: the ledger cannot be used, for example because another process has it open.
    """

    def __init__(self, settings: JudgeSettings) -> None:
        self.settings = settings
        core = {f.name: getattr(settings, f.name) for f in fields(settings)}
        core["endpoints"] = list(settings.endpoints)
        core["rubric"] = _read("rubric", settings.rubric)
        core["rubrics"] = _read("rubrics", settings.rubrics)
        core["extra"] = json.dumps(dict(settings.extra))
        self._core = _core.Judge(core)
        self._last_stats: JudgeStats | None = None

    def submit(self, items: Iterable[JudgeItem] | None = None) -> Job:
        """Start a job; its deadline runs from now.

        Args:
            items: queued as far as there is room, and the rest as results are taken; None leaves
                the job open for `push`.
        """
        return Job(self._core.submit(), self, items)

    def stats(self) -> JudgeStats:
        """The counters; after `close`, as they were then."""
        if self._last_stats is not None:
            return self._last_stats
        return JudgeStats(**self._core.stats())

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
        self._feed(brief=False)

    def push(self, item: JudgeItem) -> None:
        """Queue an item; waits while too much text is queued.

        Raises:
            DataError: the item has no segments.
            ConfigError: there is no rubric for its domain.
            JudgeError: the job or the judge is closed.
        """
        if self._items is not None:
            raise JudgeError("a job that was given its items takes no more; submit without any")
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
        return sorted(taken, key=_by_index)

    def arrays(self) -> GradedArrays:
        """Like `result`, as NumPy columns."""
        return GradedArrays.of(self.result())

    def __iter__(self) -> Iterator[Graded]:
        return self

    def __next__(self) -> Graded:
        while not self._ready and not self._finished:
            self._absorb(*self._core.wait(self._feed(brief=True)))
        return self._pop(StopIteration)

    def __aiter__(self) -> AsyncIterator[Graded]:
        return self

    async def __anext__(self) -> Graded:
        while not self._ready and not self._finished:
            self._feed(brief=True)
            descriptor = self._core.fileno()
            self._absorb(*self._core.take())
            if not self._ready and not self._finished:
                await _readable(descriptor, None if self._items is None else ROOM_CHECK_S)
        return self._pop(StopAsyncIteration)

    def __await__(self) -> Generator[Any, None, list[Graded]]:
        return self._gather().__await__()

    async def _gather(self) -> list[Graded]:
        self.close()
        with self._untaken() as taken:
            async for graded in self:
                taken.append(graded)
        return sorted(taken, key=_by_index)

    @contextmanager
    def _untaken(self) -> Iterator[list[Graded]]:
        """A list for what is taken; taken back if that ends early."""
        taken: list[Graded] = []
        try:
            yield taken
        except BaseException:
            self._ready.extendleft(reversed(taken))
            raise

    def _feed(self, *, brief: bool) -> float:
        """Queue more of the items; gives the seconds that the next result may wait for others."""
        if self._items is None:
            return BURST_S
        all_queued, full = self._core.feed(self._items, brief)
        if all_queued:
            self._items = None
            self._core.close()
            return BURST_S
        # A full queue must not run dry meanwhile; one that is not full can be filled at once.
        return BURST_S / 4 if full else 0

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


class RuleJudge(_Closes):
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


def split(trace: str, delimiter: str = "###") -> tuple[str, ...]:
    """Cut a plain text into segments at the step delimiter; joined, they are the text."""
    return tuple(_core.split_text(trace, delimiter)) or (trace,)


def _by_index(graded: Graded) -> int:
    return graded.index


def _read(setting: str, path: str | None) -> str | None:
    if path is None:
        return None
    from pathlib import Path

    try:
        return Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"judge setting `{setting}`: {path}: {error}") from error


async def _readable(descriptor: int, seconds: float | None) -> None:
    """Sleep until a descriptor has something to read, or for a time."""
    import asyncio  # half of this module's import time, and most callers iterate plainly

    loop = asyncio.get_running_loop()
    rung = asyncio.Event()
    loop.add_reader(descriptor, rung.set)
    try:
        async with asyncio.timeout(seconds):
            await rung.wait()
    except TimeoutError:
        pass
    finally:
        loop.remove_reader(descriptor)
