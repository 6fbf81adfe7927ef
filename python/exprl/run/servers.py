"""The vLLM servers that a run starts: of the policy and of the judge.

A thread looks after them. It consumes what their processes and the fleet say, waits for nothing but
the next look, and ends with `close`. One that is lost is started again, three times an hour at
most; meanwhile the others do its work.
"""

from __future__ import annotations

import json
import logging
import os
import secrets
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

from exprl import config
from exprl.cluster.placement import Role
from exprl.cluster.processes import Cluster, Process, wait_for_lines
from exprl.errors import ProcessError
from exprl.serve.middleware import TOKEN_VARIABLE

LOG = logging.getLogger(__name__)

LOOK_S = 1.0
MAX_STARTS = 3
PER_S = 3600.0
"""A server that is lost is started again MAX_STARTS times in so many seconds."""

Note = Callable[[str], object]


class Fleet(Protocol):
    """What the engine of servers is told about them, and says."""

    @property
    def urls(self) -> tuple[str, ...]:
        """The servers that it samples from."""
        ...

    def join(self, url: str) -> None:
        """Sample from it too, from the next weight update on."""
        ...

    def lose(self, url: str, why: str) -> None:
        """Sample no more from it."""
        ...


@dataclass(slots=True)
class Started:
    """A server, which keeps its URL when it is started again.

    url: None while it starts for the first time.
    up: whether it has printed its URL since it was last started.
    taken: whether the fleet has sampled from it since.
    restarts: when it was started again, within the last hour.
    """

    name: str
    process: Process
    url: str | None = None
    up: bool = False
    taken: bool = False
    given_up: bool = False
    restarts: deque[float] = field(default_factory=deque)


class Servers:
    """Servers of one role.

    Args of the constructor:
        words: what follows `exprl serve` for a server that starts now, beside host and port.
        token: that every request to them must carry.
    """

    def __init__(
        self,
        cluster: Cluster,
        role: Role,
        words: Callable[[], Sequence[str]],
        token: str,
        note: Note,
    ) -> None:
        """Start one on each seat of the role, and do not wait for them."""
        self._cluster, self._words, self._token, self._note = cluster, words, token, note
        self._role = role
        names = [name for name in cluster.seats if name.startswith(f"{role}-")]
        self._servers = [Started(name, self._start(name, port=0)) for name in names]
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None

    def announce(self) -> str:
        """What to tell a user who waits."""
        logs = ", ".join(str(server.process.log) for server in self._servers)
        count, role = len(self._servers), self._role
        return f"starting {count} {role} server{'' if count == 1 else 's'}; log in {logs}"

    def wait(self) -> tuple[str, ...]:
        """Wait until all are up; returns their URLs.

        Raises:
            ProcessError: one did not come up; shows the end of its log.
        """
        lines = wait_for_lines([server.process for server in self._servers])
        for server, line in zip(self._servers, lines, strict=True):
            server.url, server.up = _read_url(line), True
        return tuple(str(server.url) for server in self._servers)

    def watch(self, fleet: Fleet | None = None) -> None:
        """Look after them from now on.

        Args:
            fleet: that samples from them; servers of the judge have none.
        """
        name = f"{self._role} servers"
        self._thread = threading.Thread(target=self._watch, args=(fleet,), name=name, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop looking after them; the cluster ends them."""
        self._closing.set()
        if self._thread:
            self._thread.join()

    def _watch(self, fleet: Fleet | None) -> None:
        while not self._closing.wait(LOOK_S):
            for server in self._servers:
                try:
                    self._look(server, fleet)
                except Exception:  # the others are still to be looked after
                    LOG.exception("%s could not be looked after", server.name)

    def _look(self, server: Started, fleet: Fleet | None) -> None:
        """Start it again if it is lost; tell the fleet when it is up."""
        if server.given_up:
            self._restart(server)  # once an hour has passed
            return
        if server.process.poll() is not None:
            if fleet and server.url and server.up:
                fleet.lose(server.url, "its process ended")
            self._restart(server)
            return
        if not server.up:
            if (line := server.process.peek()) is not None:
                server.url, server.up = _read_url(line), True
                self._note(f"{server.name} is up again")
                if fleet:
                    fleet.join(server.url)
            return
        if fleet and server.url in fleet.urls:
            server.taken = True
        elif fleet and server.taken:  # it does not answer, or took no weights
            self._restart(server)

    def _restart(self, server: Started) -> None:
        now = time.monotonic()
        while server.restarts and now - server.restarts[0] > PER_S:
            server.restarts.popleft()
        if len(server.restarts) >= MAX_STARTS:
            if not server.given_up:
                server.given_up = True
                self._note(
                    f"{server.name} was lost again, after {MAX_STARTS} starts within an hour; the"
                    f" run goes on without it. The end of its log, {server.process.log}:"
                    f"\n{server.process.tail()}"
                )
            return
        server.given_up = server.up = server.taken = False
        server.restarts.append(now)
        self._note(
            f"{server.name} on {server.process.host} was lost, and is started again"
            f" ({len(server.restarts)} of {MAX_STARTS} times an hour); log in {server.process.log}"
        )
        server.process.stop()
        port = int((server.url or ":0").rpartition(":")[2])
        server.process = self._start(server.name, port)

    def _start(self, name: str, port: int) -> Process:
        host = self._cluster.seats[name].host
        where = ["--host", host, "--port", str(port), "--with-parent"]
        argv = ["-m", "exprl", "serve", *self._words(), *where]
        return self._cluster.start(name, argv, {TOKEN_VARIABLE: self._token})


def policy_words(run_dir: Path, weights: Callable[[], str]) -> Callable[[], list[str]]:
    """What follows `exprl serve` for a server of the policy.

    Args:
        weights: the folder or hub id to start with; a run deletes old checkpoints.
    """
    return lambda: [_config(run_dir), "--role", "policy", "--model", weights()]


def judge_words(run_dir: Path) -> Callable[[], list[str]]:
    """What follows `exprl serve` for a server of the judge."""
    return lambda: [_config(run_dir), "--role", "judge"]


def _config(run_dir: Path) -> str:
    return str(run_dir.absolute() / "config.toml")


def make_token() -> str:
    """A token for the servers of one run."""
    return secrets.token_urlsafe(32)


@contextmanager
def judge_of(section: config.Judge, urls: Sequence[str], token: str) -> Iterator[config.Judge]:
    """The section with the judge's servers filled in; within it, the environment has their key."""
    before = os.environ.get(TOKEN_VARIABLE)
    os.environ[TOKEN_VARIABLE] = token
    try:
        yield replace(
            section,
            serve=None,
            endpoints=tuple(f"{url}/v1" for url in urls),
            api_key_env=TOKEN_VARIABLE,
        )
    finally:
        del os.environ[TOKEN_VARIABLE]
        if before is not None:
            os.environ[TOKEN_VARIABLE] = before


def _read_url(line: str) -> str:
    with suppress(ValueError, KeyError, TypeError):
        return str(json.loads(line)["url"])
    raise ProcessError(f"a server printed {line!r} where it should print its URL")
