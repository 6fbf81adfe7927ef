"""What starts the processes of a run, and what a started one can be asked."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from exprl import config
from exprl.cluster.placement import Need, Seat
from exprl.errors import ProcessError

START_TIMEOUT_S = 3600.0
"""Longest wait for the first line of a process: a large model is loaded from a slow disk."""
LOOK_S = 0.2
TAIL_LINES = 15
"""How much of its log an error shows."""


class Process(Protocol):
    """A process that a cluster started, with everything that it started itself.

    host: address of its machine.
    log: its output, on that machine.
    """

    name: str
    host: str
    log: Path

    def poll(self) -> int | None:
        """None while it runs; else an exit code, which says nothing: a killed server's may be 0."""
        ...

    def peek(self) -> str | None:
        """The first line that it printed to stdout, without the newline; None: not yet."""
        ...

    def tail(self, lines: int = TAIL_LINES) -> str:
        """The last lines of its log."""
        ...

    def stop(self) -> None:
        """End it: asked first, killed after some seconds. A second call does nothing."""
        ...


class Cluster(Protocol):
    """Starts processes on the machines of a run, each on the GPUs that were set apart for it.

    Everything that it started ends with the process that opened it, however that ends.
    """

    @property
    def seats(self) -> Mapping[str, Seat]:
        """Where each process runs, by name; the leader's too."""
        ...

    def start(self, name: str, argv: Sequence[str], env: Mapping[str, str]) -> Process:
        """Start a process on its seat.

        Args:
            name: one of `seats`; the log is NAME.log, to which a later start of the name adds.
            argv: what follows the Python interpreter; anyone on the machine can read it.
            env: variables beside those of the machine, such as the run's token.
        """
        ...

    def close(self) -> None:
        """End every process."""
        ...


def open_cluster(section: config.Cluster, needs: Sequence[Need], logs: Path) -> Cluster:
    """Set GPUs apart for what a run needs, on this machine or on those of a Ray cluster.

    Args:
        needs: from `list_needs`.
        logs: folder of the logs, the same path on every machine.

    Raises:
        ConfigError: there are too few GPUs, or the Ray cluster cannot be used.
    """
    match section.kind:
        case "local":
            from exprl.cluster.local import LocalCluster

            return LocalCluster(needs, logs)
        case "ray":
            from exprl.cluster.ray import RayCluster

            return RayCluster(section, needs, logs)


def wait_for_lines(processes: Sequence[Process], timeout_s: float = START_TIMEOUT_S) -> list[str]:
    """Wait for the first line that each prints to stdout, by which it says that it is up.

    Raises:
        ProcessError: one ended before, or takes longer; shows the end of its log.
    """
    deadline = time.monotonic() + timeout_s
    lines: dict[int, str] = {}
    while len(lines) < len(processes):
        for i, process in enumerate(processes):
            if i not in lines and (line := _look(process)) is not None:
                lines[i] = line
            elif i not in lines and time.monotonic() > deadline:
                raise ProcessError(
                    f"{process.name} on {process.host} is not up after {timeout_s:g} s."
                    f" {_end_of_log(process)}"
                )
        time.sleep(LOOK_S)
    return [lines[i] for i in range(len(processes))]


def _look(process: Process) -> str | None:
    """The first line, if there is one; raises a ProcessError where none will come."""
    ended = process.poll() is not None  # first: one may print and end at once
    line = process.peek()
    if ended and line is None:
        raise ended_early(process, "while it started")
    return line


def ended_early(process: Process, doing: str) -> ProcessError:
    """The error for a process that ended while it was still needed.

    Args:
        doing: what it was doing, such as "while it started".
    """
    return ProcessError(f"{process.name} on {process.host} ended {doing}. {_end_of_log(process)}")


def _end_of_log(process: Process) -> str:
    return f"The end of its log, {process.log}:\n{process.tail()}"
