"""Which server a group of rollouts goes to, and which servers are left."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Iterable

from exprl.errors import EngineError
from exprl.rollout.server import Server

LOG = logging.getLogger(__name__)


class Balance:
    """The servers that answer, and how many rollouts each has in hand.

    Everything here runs on one event loop, and so needs no lock.

    live: the servers to sample from.
    lost: why each other server is not among them, by URL; a server is counted once.
    losses: how often a server was lost.
    """

    def __init__(self, room: int) -> None:
        """Begin without servers.

        Args:
            room: rollouts that a server has in hand at most before a further group waits. A group
                is never cut, so that there may be a group less one more.
        """
        self.live: list[Server] = []
        self.lost: dict[str, str] = {}
        self.losses = 0
        self._room = room
        self._load: Counter[Server] = Counter()
        self._changed = asyncio.Event()
        self._queue = asyncio.Lock()  # groups are seated in the order in which they came
        self._busy_since: float | None = None
        self._busy_s = 0.0

    async def seat(self, n: int) -> Seats:
        """Wait until the least loaded server has room, and take n seats there.

        Raises:
            EngineError: no server is left.
        """
        async with self._queue:
            while self._load[self.choose()] >= self._room:
                self._changed.clear()
                await self._changed.wait()
            server = self.choose()
            self.take(server, n)
            return Seats(self, server, n)

    def choose(self, avoid: Server | None = None) -> Server:
        """The least loaded server, another than `avoid` where there is one.

        Raises:
            EngineError: no server is left.
        """
        others = [server for server in self.live if server is not avoid] or self.live
        if not others:
            raise EngineError(self.none_left())
        return min(others, key=lambda server: self._load[server])

    def none_left(self) -> str:
        """What to tell the user when the last server is lost."""
        reasons = "; ".join(f"{url}: {why}" for url, why in self.lost.items())
        return (
            f"no server of the policy is left ({reasons}). Look into their logs, start them again"
            " where the run did not start them itself, and start the same command again: it goes"
            " on from the last checkpoint, and no grade is paid for twice"
        )

    def admit(self, servers: Iterable[Server]) -> None:
        """Sample from these too from now on."""
        for server in servers:
            self.lost.pop(server.url, None)
            if server not in self.live:
                self.live.append(server)
        self._changed.set()

    def lose(self, server: Server, why: str) -> None:
        """Sample from this server no more."""
        if server in self.live:
            self.live.remove(server)
            server.hang_up()
        if server.url not in self.lost:
            self.lost[server.url] = why
            self.losses += 1
            LOG.warning("lost a server of the policy, %d left: %s", len(self.live), why)
        self._changed.set()

    def take(self, server: Server, n: int) -> None:
        """Count n more rollouts of the server, or fewer where n is negative."""
        self._load[server] += n
        self._changed.set()
        busy, now = self._load.total() > 0, time.monotonic()
        if busy and self._busy_since is None:
            self._busy_since = now
        elif not busy and self._busy_since is not None:
            self._busy_s += now - self._busy_since
            self._busy_since = None

    def busy_s(self) -> float:
        """Seconds so far in which a server had a rollout in hand."""
        since = self._busy_since
        return self._busy_s + (0.0 if since is None else time.monotonic() - since)


class Seats:
    """The servers of a group's rollouts: one for all, until one of them has to move."""

    def __init__(self, balance: Balance, server: Server, n: int) -> None:
        self._balance = balance
        self._servers = dict.fromkeys(range(n), server)

    def server(self, index: int) -> Server:
        """Where this rollout is sampled."""
        return self._servers[index]

    def move(self, index: int) -> None:
        """Give the rollout to another server; raises EngineError where none is left."""
        old = self._servers[index]
        new = self._balance.choose(avoid=old)
        self._balance.take(old, -1)
        self._balance.take(new, 1)
        self._servers[index] = new

    def leave(self, index: int) -> None:
        """The rollout is done."""
        self._balance.take(self._servers.pop(index), -1)

    def leave_all(self) -> None:
        """No rollout of the group is sampled any more."""
        for index in list(self._servers):
            self.leave(index)
