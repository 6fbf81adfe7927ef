"""Groups of rollouts, sampled by servers: retries, and what becomes of a server that fails.

A problem's rollouts go to one server, whose prefix cache then holds their prompt once. Each rollout
has a seed of its own, so that one that is asked again, here or elsewhere, comes out the same.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import random
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

from exprl.errors import EngineError
from exprl.rollout.balance import Balance, Seats
from exprl.rollout.engine import NO_POLICY, Start, rollout_seed
from exprl.rollout.event_loop import EventLoop
from exprl.rollout.server import Server, TransientError
from exprl.rollout.vllm_core import Sample, Sampling
from exprl.rollout.vllm_engine import FINISH_REASONS, make_rollout
from exprl.rollout.wire import GENERATE, generate_request, logp_request, read_logp, read_sample
from exprl.types import Float32Array, Int32Array, Rollout

LOG = logging.getLogger(__name__)

Request = dict[str, Any]
Results = queue.SimpleQueue[Rollout | BaseException]

MAX_TRIES = 6
FIRST_DELAY_S = 0.2
LONGEST_DELAY_S = 5.0
NOTHING = Sample([], [], None, [])


class Sampler:
    """Has servers sample, for several threads at once.

    first_version: policy version of weights that no update has named.
    retried, tokens: rollouts that were asked again, and sampled tokens, so far.
    """

    def __init__(
        self, loop: EventLoop, balance: Balance, stops: Sequence[int], timeout_s: float
    ) -> None:
        """Make a sampler.

        Args:
            stops: token ids that end a rollout.
            timeout_s: longest wait for one rollout, before it is asked again.
        """
        self.first_version = NO_POLICY
        self.retried = self.tokens = 0
        self._loop, self._balance = loop, balance
        self._stops, self._timeout_s = stops, timeout_s
        self._checks: dict[Server, asyncio.Task[bool]] = {}

    def sample(
        self, begin: Sequence[Start], n: int, seed: int, max_response_tokens: int, how: Sampling
    ) -> Iterator[Rollout]:
        """Sample n rollouts from each start, yielded as they finish; see Engine.sample.

        Raises:
            EngineError: a server refused a request, or none is left.
        """

        def request(start: Start, index: int) -> Request:
            own_seed = rollout_seed(seed, start.name, index)
            room = max_response_tokens - start.given
            return generate_request(start.ids, room, own_seed, how, self._stops)

        groups = [(start, [request(start, index) for index in range(n)]) for start in begin]
        results: Results = queue.SimpleQueue()
        sampling = self._loop.submit(self._sample_groups(groups, results))
        try:
            for _ in range(n * len(begin)):
                result = results.get()
                if isinstance(result, BaseException):
                    raise result
                yield result
        finally:
            sampling.cancel()  # the caller left early, or the servers failed

    async def _sample_groups(
        self,
        groups: Sequence[tuple[Start, list[Request]]],
        results: Results,
    ) -> None:
        try:
            async with asyncio.TaskGroup() as tasks:
                for start, requests in groups:
                    seats = await self._balance.seat(len(requests))
                    group = self._sample_group(start, requests, seats, results)
                    task = tasks.create_task(group)
                    # Not in the group's own `finally`: one that is cancelled early has none.
                    task.add_done_callback(partial(_leave, seats))
        except asyncio.CancelledError:
            results.put(EngineError("the engine was closed while it sampled"))
            raise
        except BaseExceptionGroup as errors:
            results.put(_first_of(errors))
        except Exception as error:
            results.put(error)

    async def _sample_group(
        self,
        start: Start,
        requests: list[Request],
        seats: Seats,
        results: Results,
    ) -> None:
        async with asyncio.TaskGroup() as tasks:
            for index, request in enumerate(requests):
                tasks.create_task(self._sample_one(start, index, request, seats, results))

    async def _sample_one(
        self,
        start: Start,
        index: int,
        request: Request,
        seats: Seats,
        results: Results,
    ) -> None:
        """Have one rollout sampled; after MAX_TRIES it is a failed one, and no error."""
        sample = NOTHING
        for attempt in range(MAX_TRIES):
            server = seats.server(index)
            try:
                sample = await self._ask(server, request)
                break
            except TransientError as error:
                await self._lose_if_dead(server, str(error))
                if attempt == MAX_TRIES - 1:
                    LOG.warning("a rollout failed %d times, the last time: %s", MAX_TRIES, error)
                    break
                self.retried += 1
                await asyncio.sleep(_delay_s(attempt))
                seats.move(index)
        seats.leave(index)
        self.tokens += len(sample.token_ids)
        results.put(make_rollout(start, index, sample))

    async def _ask(self, server: Server, request: Request) -> Sample:
        """A sample; TransientError also where the server ended it, as one does that is to end."""
        answer = await server.post(GENERATE, request, timeout_s=self._timeout_s)
        sample = read_sample(answer, self.first_version)
        if sample.finish_reason not in FINISH_REASONS:
            raise TransientError(f"{server.url} ended a rollout with {sample.finish_reason!r}")
        return sample

    async def _lose_if_dead(self, server: Server, why: str) -> None:
        """Ask whether the server lives: once, though all its rollouts fail together."""
        if server not in self._balance.live:
            return
        check = self._checks.get(server)
        if check is None:
            check = asyncio.ensure_future(server.is_alive())
            self._checks[server] = check
        alive = await asyncio.shield(check)
        self._checks.pop(server, None)
        if not alive:
            self._balance.lose(server, why)

    async def logp(self, server: Server, token_ids: Int32Array) -> Float32Array | None:
        """What the server says of these tokens (Engine.logp); None where it is lost."""
        request = logp_request(token_ids)
        for attempt in range(MAX_TRIES):
            try:
                answer = await server.post(GENERATE, request)
            except TransientError as error:
                why = str(error)
                await asyncio.sleep(_delay_s(attempt))
                continue
            return read_logp(answer, token_ids)
        self._balance.lose(server, why)
        return None


def _leave(seats: Seats, task: asyncio.Task[None]) -> None:
    seats.leave_all()


def _delay_s(attempt: int) -> float:
    """Twice as long each time, and never the same for all rollouts."""
    return min(LONGEST_DELAY_S, FIRST_DELAY_S * 2.0**attempt) * random.uniform(0.5, 1.0)


def _first_of(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
