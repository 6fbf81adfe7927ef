"""What starts the processes of a run, and what a started one can be asked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from exprl.cluster.placement import Seat
from exprl.errors import ProcessError

START_TIMEOUT_S = 3600.0
"""Longest wait for the first line of a process: a large model is loaded from a slow disk."""
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

    def first_line(self, timeout_s: float = START_TIMEOUT_S) -> str:
        """Wait for the first line that it prints to stdout; returns it without the newline.

        Raises:
            ProcessError: it ended before, or takes longer; shows the end of its log.
        """
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


def ended_early(process: Process, doing: str) -> ProcessError:
    """The error for a process that ended while it was still needed.

    Args:
        doing: what it was doing, such as "while it started".
    """
    return ProcessError(
        f"{process.name} on {process.host} ended {doing}. The end of its log,"
        f" {process.log}:\n{process.tail()}"
    )
