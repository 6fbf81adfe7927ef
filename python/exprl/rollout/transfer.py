"""The policy's weights to all servers, by vLLM's own calls, while their rollouts stand still.

An update is: pause, start, update (once per bucket of tensors), finish with the new version,
resume. A server that samples between start and finish dies, so that only whole updates are resumed.
Paused requests stay and their caches do not: each token is sampled by one version of the weights,
which the server names.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import logging
import threading
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from exprl.errors import EngineError
from exprl.rollout.event_loop import EventLoop
from exprl.rollout.senders import Bucket, Sender
from exprl.rollout.server import Server, TransientError

LOG = logging.getLogger(__name__)

BUCKET_BYTES = 512 * 2**20
"""Weights are sent in buckets of about this size, which is the memory that sending needs."""
ATTEMPTS = 3
"""At the second one that fails, the servers that failed it are left out of the third."""

SOON_S = 5.0

Call = Callable[[Server, float], Awaitable[Any]]


@dataclass(slots=True)
class Update:
    """What became of an update.

    failed: the servers that do not hold the whole new weights, and why; they stay paused.
    send_s: seconds of sending.   pause_s: of the pause around it.
    """

    failed: dict[Server, str] = field(default_factory=dict)
    send_s: float = 0.0
    pause_s: float = 0.0


class UpdateError(Exception):
    """An attempt failed: at these servers, or at none of them but on the trainer's side."""

    def __init__(self, failed: Mapping[Server, str], why: str = "") -> None:
        super().__init__("; ".join(failed.values()) or why)
        self.failed = dict(failed)


class Transfer:
    """Sends weights to servers: one update at a time, from the trainer's thread."""

    def __init__(self, loop: EventLoop, sender: Sender, timeout_s: float) -> None:
        """Make a transfer.

        Args:
            timeout_s: for one attempt at an update of all servers.
        """
        self._loop = loop
        self._sender = sender
        self._timeout_s = timeout_s
        self._members: list[Server] = []
        self._halfway: set[Server] = set()
        self._deadline = 0.0

    def expect_half(self, server: Server) -> None:
        """The server was left in the middle of another update, which is dropped."""
        self._halfway.add(server)

    def update(
        self, worlds: Mapping[Server, int], weights: Iterable[tuple[str, Tensor]], version: int
    ) -> Update:
        """Give servers the weights, and name them `version`.

        An update that fails is repeated, whole, at the servers that still answer.

        Args:
            worlds: the servers, and how many worker processes each has.
            weights: of the whole model, walked once per attempt.
        """
        update, began = Update(), time.monotonic()
        paused: list[Server] = []
        try:
            for attempt in range(1, ATTEMPTS + 1):
                self._deadline = time.monotonic() + self._timeout_s
                left = [server for server in worlds if server not in update.failed]
                update.failed |= self._call(left, _pause)
                paused = [server for server in left if server not in update.failed]
                if not paused:
                    break
                try:
                    update.send_s += self._attempt(paused, worlds, weights, version)
                    break
                except UpdateError as error:
                    LOG.warning("weight update %d, attempt %d: %s", version, attempt, error)
                    self._leave()
                    update.failed |= error.failed if attempt > 1 else {}
                    if attempt == ATTEMPTS:
                        half = [server for server in paused if server in self._halfway]
                        update.failed |= dict.fromkeys(half, str(error))
        finally:
            self._sender.finish()
            # Never after half an update: the next request would kill the engine.
            self._deadline = time.monotonic() + self._timeout_s
            whole = [server for server in paused if server not in self._halfway]
            update.failed |= self._call(whole, _resume)
        update.pause_s = time.monotonic() - began
        return update

    def close(self) -> None:
        """Leave the group of trainer and servers."""
        self._leave()

    def _attempt(
        self,
        servers: Sequence[Server],
        worlds: Mapping[Server, int],
        weights: Iterable[tuple[str, Tensor]],
        version: int,
    ) -> float:
        """One whole update, and the seconds that it took; raises UpdateError."""
        self._check(self._call([s for s in servers if s in self._halfway], _drop_half))
        self._meet(servers, worlds)
        began = time.monotonic()
        self._halfway.update(servers)
        self._check(self._call(servers, _start))
        for bucket in buckets(weights, BUCKET_BYTES):
            info = self._sender.prepare(bucket)
            self._beside(servers, _load(info), self._sender.send)
        failed = self._call(servers, _finish(version))
        self._halfway -= set(servers) - failed.keys()
        self._check(failed)
        return time.monotonic() - began

    def _meet(self, servers: Sequence[Server], worlds: Mapping[Server, int]) -> None:
        """Form a group of trainer and servers, unless the last one is of the same."""
        if list(servers) == self._members:
            return
        self._leave()
        world_size = 1 + sum(worlds[server] for server in servers)
        meeting = self._sender.meet([server.url for server in servers], world_size)
        if meeting is not None:
            offsets, offset = {}, 1
            for server in servers:
                offsets[server] = offset
                offset += worlds[server]
            self._call(servers, _shut_down)  # of a group that has lost members
            self._beside(servers, _init(meeting, offsets), self._sender.join)
        self._members = list(servers)

    def _leave(self) -> None:
        self._members = []
        self._sender.close()

    def _call(self, servers: Sequence[Server], call: Call) -> dict[Server, str]:
        """Call all servers at once; why it failed, at those where it did."""
        return self._loop.run(_gather(servers, call, self._left_s()))

    def _left_s(self) -> float:
        return max(1.0, self._deadline - time.monotonic())

    def _check(self, failed: dict[Server, str]) -> None:
        if failed:
            raise UpdateError(failed)

    def _beside(self, servers: Sequence[Server], call: Call, work: Callable[[], None]) -> None:
        """Call the servers while `work` runs, on a daemon thread since it may never return.

        Raises:
            UpdateError: as soon as a server or the work fails, or time is up.
        """
        calls = self._loop.submit(_gather(servers, call, self._left_s(), stop_early=True))
        done = start_thread(work)
        waiting: set[concurrent.futures.Future[Any]] = {calls, done}
        while waiting:
            finished, waiting = concurrent.futures.wait(
                waiting, self._left_s(), concurrent.futures.FIRST_COMPLETED
            )
            if calls in finished:
                self._check(calls.result())
            if done in finished and (error := done.exception()):
                calls.cancel()
                raise UpdateError({}, f"sending: {error}") from error
            if not finished:
                calls.cancel()
                raise UpdateError({}, f"not all servers took part within {self._timeout_s:g} s")


def buckets(weights: Iterable[tuple[str, Tensor]], size: int) -> Iterator[Bucket]:
    """The weights in order, in lists of `size` bytes or, for one large tensor, more."""
    bucket: list[tuple[str, Tensor]] = []
    total = 0
    for name, tensor in weights:
        if bucket and total + tensor.nbytes > size:
            yield bucket
            bucket, total = [], 0
        bucket.append((name, tensor))
        total += tensor.nbytes
    if bucket:
        yield bucket


async def _gather(
    servers: Sequence[Server], call: Call, timeout_s: float, *, stop_early: bool = False
) -> dict[Server, str]:
    """Why the call failed, at those servers where it did; with `stop_early`, at the first one."""
    failed: dict[Server, str] = {}

    async def one(server: Server) -> None:
        try:
            await call(server, timeout_s)
        except (TransientError, EngineError) as error:
            failed[server] = str(error)

    tasks = [asyncio.ensure_future(one(server)) for server in servers]
    try:
        for task in asyncio.as_completed(tasks):
            await task
            if failed and stop_early:
                break
    finally:
        for task in tasks:
            task.cancel()
    return failed


def start_thread(work: Callable[[], None]) -> concurrent.futures.Future[None]:
    """Run `work` on a daemon thread; an exception of it holds nothing that it worked with."""
    future: concurrent.futures.Future[None] = concurrent.futures.Future()

    def run() -> None:
        try:
            work()
        except BaseException as error:
            # Its traceback would keep the group, and so leave the others waiting for this one.
            future.set_exception(error.with_traceback(None))
        else:
            future.set_result(None)

    threading.Thread(target=run, name="exprl-weights", daemon=True).start()
    return future


async def _pause(server: Server, timeout_s: float) -> None:
    # The caches hold keys and values of the old weights. vLLM's docstring says that clear_cache
    # does nothing with mode=keep; it does, and running requests are computed anew.
    params = {"mode": "keep", "clear_cache": "true"}
    await _twice(lambda: server.post("/pause", params=params, timeout_s=timeout_s))


async def _resume(server: Server, timeout_s: float) -> None:
    await _twice(lambda: server.post("/resume", timeout_s=timeout_s))


async def _twice(call: Callable[[], Awaitable[Any]]) -> None:
    """For calls that do no harm twice: a fault of a moment does not lose a server."""
    began = time.monotonic()
    try:
        await call()
    except TransientError:
        if time.monotonic() - began > SOON_S:
            raise  # one that does not answer has kept the others waiting for long enough
        await asyncio.sleep(SOON_S / 10)
        await call()


async def _start(server: Server, timeout_s: float) -> None:
    await server.post("/start_weight_update", timeout_s=timeout_s)


async def _drop_half(server: Server, timeout_s: float) -> None:
    """Have the server forget which tensors of a broken update it has; the next one is whole.

    Without it, vLLM fails: a layer that got some of its tensors twice is complete too early.
    """
    with suppress(TransientError):  # the broken update may still be open
        await _start(server, timeout_s)
    await server.post("/finish_weight_update", {}, timeout_s=timeout_s)


async def _shut_down(server: Server, timeout_s: float) -> None:
    await server.post("/shutdown_weight_transfer_engine", timeout_s=timeout_s)


def _init(meeting: Mapping[str, Any], offsets: Mapping[Server, int]) -> Call:
    async def init(server: Server, timeout_s: float) -> None:
        info = {**meeting, "rank_offset": offsets[server]}
        body = {"init_info": info}
        await server.post("/init_weight_transfer_engine", body, timeout_s=timeout_s)

    return init


def _load(info: Mapping[str, Any]) -> Call:
    async def load(server: Server, timeout_s: float) -> None:
        await server.post("/update_weights", {"update_info": info}, timeout_s=timeout_s)

    return load


def _finish(version: int) -> Call:
    async def finish(server: Server, timeout_s: float) -> None:
        body = {"weight_version": str(version)}
        await server.post("/finish_weight_update", body, timeout_s=timeout_s)

    return finish
