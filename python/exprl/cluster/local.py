"""Processes of this machine: each below a keeper, which ends it when this process ends."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

from exprl.cluster import keeper
from exprl.cluster.placement import LOOPBACK, Machine, Need, place
from exprl.cluster.processes import TAIL_LINES


class LocalCluster:
    """Starts processes on this machine; `exprl.cluster.processes.Cluster`."""

    def __init__(self, needs: Sequence[Need], logs: Path, grace_s: float = keeper.GRACE_S) -> None:
        """Raises ConfigError where this machine has too few GPUs."""
        self._grace_s = grace_s
        self._gpus = visible_gpus()
        self._logs = logs
        self._processes: list[LocalProcess] = []
        self.seats = place(needs, [Machine(LOOPBACK, len(self._gpus))])

    def start(self, name: str, argv: Sequence[str], env: Mapping[str, str]) -> LocalProcess:
        """Start a process on its seat."""
        gpus = [self._gpus[i] for i in self.seats[name].gpus]
        visible = {"CUDA_VISIBLE_DEVICES": ",".join(gpus)} if gpus else {}
        log = self._logs / f"{name}.log"
        process = LocalProcess(
            name, argv, {**os.environ, **visible, **env}, log, LOOPBACK, self._grace_s
        )
        self._processes.append(process)
        return process

    def close(self) -> None:
        """End every process, all at the same time."""
        for process in self._processes:
            process.ask()
        for process in self._processes:
            process.stop()


class LocalProcess:
    """A process of this machine; `exprl.cluster.processes.Process`."""

    def __init__(
        self,
        name: str,
        argv: Sequence[str],
        env: Mapping[str, str],
        log: Path,
        host: str,
        grace_s: float = keeper.GRACE_S,
    ) -> None:
        """Start `python argv` in the environment `env`, below a keeper."""
        self._end_s = grace_s + 3.0
        self.name, self.host, self.log = name, host, log
        log.parent.mkdir(parents=True, exist_ok=True)
        self._first: str | None = None
        with log.open("ab") as file:
            file.write(f"$ python {' '.join(argv)}\n".encode())
            file.flush()
            # A session of its own: Ctrl-C in the terminal is for the leader alone.
            self._keeper = subprocess.Popen(
                [sys.executable, "-I", "-S", keeper.__file__, str(grace_s), sys.executable, *argv],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=file,
                env=env,
                start_new_session=True,
            )
        self._copier = threading.Thread(target=self._copy, name=f"log of {name}", daemon=True)
        self._copier.start()

    def poll(self) -> int | None:
        """None while it runs."""
        return self._keeper.poll()

    def peek(self) -> str | None:
        """The first line on stdout; None where there is none yet."""
        if self.poll() is not None:
            self._copier.join()
        return self._first

    def tail(self, lines: int = TAIL_LINES) -> str:
        """The last lines of its log."""
        return read_tail(self.log, lines)

    def ask(self) -> None:
        """Let go of the lifeline, and do not wait."""
        if self._keeper.stdin and not self._keeper.stdin.closed:
            self._keeper.stdin.close()

    def stop(self) -> None:
        """End it."""
        self.ask()
        try:
            self._keeper.wait(self._end_s)
        except subprocess.TimeoutExpired:  # the kernel holds one, as a driver can
            self._keeper.kill()
            self._keeper.wait()

    def _copy(self) -> None:
        """Add stdout to the log, and keep its first line."""
        assert self._keeper.stdout
        with self._keeper.stdout as lines, self.log.open("ab", buffering=0) as file:
            for line in lines:
                if self._first is None:
                    self._first = line.decode(errors="replace").rstrip("\n")
                file.write(line)


def read_tail(path: Path, lines: int) -> str:
    """The last lines of a file, of which the last 64 KiB are looked at."""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - (1 << 16)))
        text = file.read().decode(errors="replace")
    return "\n".join(text.splitlines()[-lines:])


def visible_gpus() -> tuple[str, ...]:
    """The names of this process's GPUs, as CUDA_VISIBLE_DEVICES lists them."""
    import torch

    count = torch.cuda.device_count()
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = named.split(",") if named else map(str, range(count))
    return tuple(name.strip() for name in names)[:count]
