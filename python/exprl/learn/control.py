"""How the leader of a trainer tells its followers what to do, and how each notices a lost one.

The leader is rank 0, the process that a user started. Three groups of torch.distributed:

    data      gradients and weights: NCCL between GPUs, gloo between CPUs
    control   gloo: the leader's messages, and a few numbers of the host
    watch     gloo: each follower and the leader send each other a beat every second

A process that dies closes its connections, which the other end of a beat sees at once; a machine
that is gone is missed after WATCH_S. A follower without a leader ends itself. A leader that lost a
follower raises RankError: gloo's operations fail by themselves, and NCCL's, which would wait, are
aborted.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
import torch.distributed as dist
from safetensors.numpy import load, save
from torch._C._distributed_c10d import PrefixStore, Store, TCPStore

from exprl.errors import ConfigError, ExprlError, RankError
from exprl.learn.sharding import Sharding

JOIN_S = 600.0
"""Longest wait for the followers to come up."""
DATA_S = 1800.0
"""Longest wait within a step for the other ranks."""
COMMAND_S = 30 * 86400.0
"""Longest wait for the next message: sampling and judging may take long, and `watch` looks on."""
WATCH_S = 60.0
BEAT_S = 1.0
VERDICT_S = 5.0
"""After an operation failed: how long to look for the rank that was lost."""
STOP_S = 10.0
LAST_LINES = 5


class Follower(Protocol):
    """A follower's process, as whoever started it knows it."""

    host: str
    log: Path

    def poll(self) -> int | None:
        """None while it runs."""
        ...

    def stop(self) -> None:
        """End it; a second call does nothing."""
        ...


@dataclass(frozen=True, slots=True)
class Message:
    """What the leader asks for.

    name: of a method.   settings: JSON.   arrays: by name.
    """

    name: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    arrays: Mapping[str, np.ndarray] = field(default_factory=dict)


class Team:
    """The leader's side: it tells all followers the same, or each its own share.

    sharding: how leader and followers share models.
    """

    def __init__(self, followers: Sequence[Follower], device: torch.device) -> None:
        """Take followers that are in the groups already; see `open_team`."""
        self._followers = followers
        self._control, self._watch = _open_groups()
        self.sharding = Sharding(device, self._control)
        self._lost: dict[int, str] = {}
        self._ending = threading.Event()
        self._busy = False
        self._threads = [
            threading.Thread(target=self._look_after, args=(rank,), daemon=True)
            for rank in range(1, self.world)
        ]
        for thread in self._threads:
            thread.start()

    @property
    def world(self) -> int:
        """How many ranks there are, the leader included."""
        return len(self._followers) + 1

    @contextmanager
    def tell(self, *messages: Message) -> Iterator[None]:
        """Tell the followers what to do; within it the leader does the same.

        Args:
            messages: one for all followers, or one for each.

        Raises:
            RankError: one of them was lost.
        """
        self._busy = True
        with self._watched():
            for rank in range(1, self.world):
                _send(messages[rank - 1 if len(messages) > 1 else 0], rank, self._control)
            try:
                yield
            except GeneratorExit:  # a walk that its caller ended early was walked to the end
                self._busy = False
                raise
        self._busy = False

    def close(self) -> None:
        """End the followers: by a word where they wait for one, else by force."""
        if not self._busy and not self._lost:
            with suppress(RankError), self.tell(Message("stop")):
                pass
        self._ending.set()
        for thread in self._threads:
            thread.join(STOP_S)
        deadline = time.monotonic() + STOP_S
        for follower in self._followers:
            while not self._busy and follower.poll() is None and time.monotonic() < deadline:
                time.sleep(0.05)
            follower.stop()
        # Groups whose other end is gone may refuse to be closed; that is known already.
        with suppress(RuntimeError) if self._lost else nullcontext():
            _leave()

    @contextmanager
    def _watched(self) -> Iterator[None]:
        """Turn what an operation says when a rank is lost into a RankError that names it."""
        self._raise_if_lost(None)
        try:
            yield
        except RuntimeError as error:
            deadline = time.monotonic() + VERDICT_S
            while time.monotonic() < deadline:
                self._raise_if_lost(error)
                time.sleep(0.1)
            raise
        self._raise_if_lost(None)

    def _raise_if_lost(self, cause: Exception | None) -> None:
        for rank, follower in enumerate(self._followers, 1):
            code = follower.poll()
            if code is not None or rank in self._lost:
                ended = f"ended (exit code {code})" if code is not None else self._lost[rank]
                raise lost(rank, follower, ended) from cause

    def _look_after(self, rank: int) -> None:
        """Beats with a follower. Consumes and waits for its beats; ends with the team, or it."""
        beat = torch.zeros(1)
        try:
            while True:
                last = self._ending.wait(BEAT_S)
                beat.fill_(not last)
                dist.send(beat, dst=rank, group=self._watch)
                if last:
                    return
                dist.recv(beat, src=rank, group=self._watch)
        except RuntimeError as error:
            if not self._ending.is_set():
                reason = str(error).splitlines()[0]
                self._lost[rank] = f"does not answer ({reason})"
                _abort_data()


def lost(rank: int, follower: Follower, what: str) -> RankError:
    """The error of a lost follower, with the end of its log where that can be read.

    Args:
        what: happened to it, as the end of a sentence.
    """
    try:
        lines = follower.log.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    end = "".join(f"\n  {line}" for line in lines[-LAST_LINES:])
    return RankError(
        f"trainer rank {rank} on {follower.host} {what}; its log is {follower.log}. Start the same"
        f" command again to go on from the last checkpoint{end}"
    )


@contextmanager
def open_team(
    world: int,
    address: str,
    start: Callable[[int, Mapping[str, str]], Follower],
    device: torch.device,
) -> Iterator[Team]:
    """Start the followers, meet them, and end them at the end.

    Args:
        address: of this machine, at which the followers reach it.
        start: starts the follower of a rank, with these variables in its environment; `join` reads
            them there.

    Raises:
        ConfigError: the process is in a process group of torch already.
        RankError: a follower ended, or did not come within JOIN_S.
    """
    if dist.is_initialized():
        raise ConfigError(
            f"ranks.count = {world}: this process has a process group of torch already, as vLLM in"
            " a process leaves it; start the run in a process of its own"
        )
    followers: list[Follower] = []
    with _interface(address) as interface:
        store = _host_store(address)
        env = {
            "MASTER_ADDR": address,
            "MASTER_PORT": str(store.port),
            "WORLD_SIZE": str(world),
            **interface,
        }
        try:
            followers += [start(rank, {**env, "RANK": str(rank)}) for rank in range(1, world)]
            _await(store, followers)
            _meet(store, 0, world, device)
            team = Team(followers, device)
        except BaseException:
            for follower in followers:
                follower.stop()
            _leave()
            raise
    try:
        yield team
    finally:
        team.close()


class Post:
    """A follower's side: the leader's messages, one after the other."""

    def __init__(self, device: torch.device) -> None:
        """Take a process that is in the groups; see `join`."""
        self._control, self._watch = _open_groups()
        self.sharding = Sharding(device, self._control)
        self._thread = threading.Thread(target=self._answer, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Wait for the leader's last beat."""
        self._thread.join(STOP_S)

    def receive(self) -> Message:
        """Wait for the next message."""
        return _receive(self._control)

    def _answer(self) -> None:
        """Beats with the leader. Ends when the leader says so, and with the process without it."""
        beat = torch.zeros(1)
        try:
            while True:
                dist.recv(beat, src=0, group=self._watch)
                if not beat:
                    return
                dist.send(beat, dst=0, group=self._watch)
        except RuntimeError as error:
            print(f"error: the leader is gone: {error}", file=sys.stderr, flush=True)
            os._exit(1)


@contextmanager
def join(device: torch.device) -> Iterator[Post]:
    """Meet the leader that started this process; its variables are in the environment."""
    _end_with_parent()
    env = os.environ
    rank, world = int(env["RANK"]), int(env["WORLD_SIZE"])
    wait = timedelta(seconds=JOIN_S)
    store = TCPStore(env["MASTER_ADDR"], int(env["MASTER_PORT"]), is_master=False, timeout=wait)
    store.set(f"here/{rank}", "1")
    _meet(store, rank, world, device)
    post = Post(device)
    try:
        yield post
    except BaseException as error:
        # Threads that wait for the leader would keep the process, or end it as a crash.
        if isinstance(error, ExprlError):
            print(f"error: {error}", file=sys.stderr)
        else:
            traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)
    post.close()
    _leave()


def _end_with_parent() -> None:
    """Have this process end when the one that started it is gone, whatever it is doing."""
    parent = os.getppid()

    def look() -> None:
        while os.getppid() == parent:
            time.sleep(BEAT_S)
        os._exit(1)

    threading.Thread(target=look, daemon=True).start()


@contextmanager
def _interface(address: str) -> Iterator[dict[str, str]]:
    """On one machine gloo shall listen on loopback alone; it asks the environment."""
    name = "GLOO_SOCKET_IFNAME"
    if not address.startswith("127.") or name in os.environ:
        yield {}
        return
    os.environ[name] = "lo"
    try:
        yield {name: "lo"}
    finally:
        del os.environ[name]


def _host_store(address: str) -> TCPStore:
    """The meeting place, on a free port of this address and on no other one."""
    listener = socket.create_server((address, 0))
    port = listener.getsockname()[1]
    return TCPStore(
        address,
        port,
        is_master=True,
        wait_for_workers=False,
        timeout=timedelta(seconds=JOIN_S),
        master_listen_fd=listener.detach(),
    )


def _await(store: TCPStore, followers: Sequence[Follower]) -> None:
    deadline = time.monotonic() + JOIN_S
    missing = dict(enumerate(followers, 1))
    while missing:
        for rank, follower in list(missing.items()):
            if store.check([f"here/{rank}"]):
                del missing[rank]
            elif (code := follower.poll()) is not None:
                raise lost(rank, follower, f"ended while it started (exit code {code})")
            elif time.monotonic() > deadline:
                raise lost(rank, follower, f"did not come within {JOIN_S:.0f} s")
        time.sleep(0.1)


def _meet(store: Store, rank: int, world: int, device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.set_device(0)  # a rank sees its own GPU alone, or takes the first
        if rank == 0:
            # torch's own watch over NCCL would end the leader before it can say what was lost.
            os.environ.setdefault("TORCH_NCCL_ASYNC_ERROR_HANDLING", "0")
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo",
        store=PrefixStore("ranks", store),
        rank=rank,
        world_size=world,
        timeout=timedelta(seconds=DATA_S),
    )


def _open_groups() -> tuple[dist.ProcessGroup, dist.ProcessGroup]:
    """control and watch, in the same order on every rank."""
    control, watch = (
        dist.new_group(backend="gloo", timeout=timedelta(seconds=limit))
        for limit in (COMMAND_S, WATCH_S)
    )
    return control, watch


def _leave() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()


def _abort_data() -> None:
    """Have operations of NCCL that wait for a lost rank return."""
    if torch.cuda.is_available() and dist.is_initialized():
        from torch.distributed.distributed_c10d import _abort_process_group

        _abort_process_group()


def _send(message: Message, rank: int, group: dist.ProcessGroup) -> None:
    about = json.dumps({"name": message.name, "settings": message.settings}).encode()
    arrays = {name: np.ascontiguousarray(a) for name, a in message.arrays.items()}
    content = about + save(arrays)
    dist.send(torch.tensor([len(about), len(content)]), dst=rank, group=group)
    dist.send(torch.frombuffer(bytearray(content), dtype=torch.uint8), dst=rank, group=group)


def _receive(group: dist.ProcessGroup) -> Message:
    sizes = torch.zeros(2, dtype=torch.int64)
    dist.recv(sizes, src=0, group=group)
    split, size = sizes.tolist()
    content = torch.empty(size, dtype=torch.uint8)
    dist.recv(content, src=0, group=group)
    data = content.numpy().tobytes()
    about = json.loads(data[:split])
    return Message(about["name"], about["settings"], load(data[split:]))
