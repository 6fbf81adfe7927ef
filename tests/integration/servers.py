"""Servers of `exprl serve` for tests, and what is asked of them."""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

REPO = Path(__file__).resolve().parents[2]
MINIATURE = "configs/division_process.toml"
TOKEN = "a-token-of-the-tests"
START_S = 400.0  # on cores that others use, too
END_S = 20.0


@dataclass(frozen=True, slots=True)
class Served:
    """A server that is up.

    line: what it printed, read from JSON.
    log: file with its stderr.
    """

    url: str
    line: dict[str, Any]
    process: subprocess.Popen[str]
    log: Path

    def ask(
        self,
        path: str,
        body: Any = None,
        *,
        method: str | None = None,
        token: str | None = TOKEN,
        timeout: float = 60.0,
    ) -> tuple[int, Any]:
        """Status and JSON (or text) of a GET, or of a POST where there is a body."""
        headers = {"Content-Type": "application/json"}
        if token is not None:
            headers["Authorization"] = f"Bearer {token}"
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, headers, method=method)
        direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with direct.open(request, timeout=timeout) as reply:
                status, text = reply.status, reply.read().decode()
        except urllib.error.HTTPError as error:
            status, text = error.code, error.read().decode()
        with contextlib.suppress(ValueError):
            return status, json.loads(text)
        return status, text


@contextlib.contextmanager
def served(
    folder: Path, *words: str, config: str | Path = MINIATURE, token: str | None = TOKEN
) -> Iterator[Served]:
    """A server that `exprl serve CONFIG WORDS` started; it ends with the block.

    Args:
        folder: for its log.

    Raises:
        RuntimeError: with the end of its log, if it does not come up.
    """
    log = folder / "server.log"
    process = start_server(log, *words, config=config, token=token)
    try:
        line = read_line(process, log)
        yield Served(line["url"], line, process, log)
    finally:
        end_server(process)


def start_server(
    log: Path, *words: str, config: str | Path = MINIATURE, token: str | None = TOKEN
) -> subprocess.Popen[str]:
    """A server that is coming up, and ends when its stdin is closed."""
    own = {} if token is None else {"EXPRL_TOKEN": token}
    command = [sys.executable, "-m", "exprl", "serve", str(config), "--with-parent", *words]
    with log.open("w") as err:
        return subprocess.Popen(
            command,
            cwd=REPO,
            env=os.environ | own,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=err,
            text=True,
        )


def read_line(process: subprocess.Popen[str], log: Path) -> dict[str, Any]:
    """The line that a server prints once it is up."""
    assert process.stdout is not None
    ready, _, _ = select.select([process.stdout], [], [], START_S)
    line = process.stdout.readline() if ready else ""
    if not line:
        tail = log.read_text(errors="replace")[-2000:]
        raise RuntimeError(f"the server did not come up; its log ends:\n{tail}")
    return json.loads(line)


def end_server(process: subprocess.Popen[str]) -> None:
    """Close its stdin, as the end of its parent does, and wait for the end of all it started."""
    family = family_of(process.pid)
    assert process.stdin is not None
    process.stdin.close()
    left = left_of(family)
    for one in left:
        with contextlib.suppress(psutil.NoSuchProcess):
            one.kill()
    process.wait()
    if process.stdout is not None:
        process.stdout.close()


def family_of(pid: int) -> list[psutil.Process]:
    """A process and all that it started."""
    try:
        top = psutil.Process(pid)
        return [top, *top.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def left_of(family: Sequence[psutil.Process]) -> list[psutil.Process]:
    """Those that still run when all had time to end; zombies have ended."""
    end = time.monotonic() + END_S
    while (left := [one for one in family if _runs(one)]) and time.monotonic() < end:
        time.sleep(0.1)
    return left


def _runs(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def wait_for_engine(pid: int) -> list[psutil.Process]:
    """The family of a server that is coming up, once its engine's process has begun."""
    end = time.monotonic() + START_S
    while time.monotonic() < end:
        family = family_of(pid)
        if any(is_engine(one) for one in family):
            return family
        time.sleep(0.1)
    raise RuntimeError("the server started no engine")


def is_engine(process: psutil.Process) -> bool:
    """Whether it is EngineCore: a child that multiprocessing spawned, or what that calls itself."""
    with contextlib.suppress(psutil.NoSuchProcess):
        command = " ".join(process.cmdline())
        return "spawn_main" in command or "EngineCore" in command
    return False
