"""A program that tries to do harm, and says how far it came: the measure of a sandbox.

Standard input is a JSON object of targets; standard output becomes {name: how far it came}, null
for what it could not do.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any


def make_attempts(aim: dict[str, Any]) -> dict[str, Callable[[], str | None]]:
    """What to try, by the name of what should prevent it."""
    return {
        "network": lambda: _connect(aim),
        "reading": lambda: _read(aim),
        "writing": lambda: _write(aim),
        "signals": lambda: _signal(aim),
        "memory": lambda: _allocate(aim),
        "disk": lambda: _fill(aim),
        "processes": lambda: _multiply(aim),
    }


def _connect(aim: dict[str, Any]) -> str | None:
    tries: list[tuple[str, Callable[[], object]]] = [
        ("TCP", lambda: socket.create_connection(("127.0.0.1", aim["port"]), 1.0)),
        ("UDP", lambda: _datagram(aim["port"])),
        ("a Unix socket", lambda: _unix(aim["unix"])),
    ]
    return _first(tries, "reached a listener of the trainer by {}")


def _datagram(port: int) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as end:
        end.sendto(b"x", ("127.0.0.1", port))


def _unix(name: str) -> None:
    with socket.socket(socket.AF_UNIX) as end:
        end.connect("\0" + name)


def _read(aim: dict[str, Any]) -> str | None:
    paths = [aim["secret"], f"/proc/{aim['parent']}/environ", f"/proc/{os.getppid()}/environ"]
    tries = [(path, partial(_read_first_byte, path)) for path in paths]
    return _first(tries, "read {}")


def _read_first_byte(path: str) -> bytes:
    with open(path, "rb") as file:  # noqa: PTH123
        return file.read(1)


def _write(aim: dict[str, Any]) -> str | None:
    path = f"{aim['folder']}/written"
    tries: list[tuple[str, Callable[[], object]]] = [
        (f"wrote {path}", lambda: open(path, "w").close()),  # noqa: PTH123
        (f"changed the mode of {aim['secret']}", lambda: os.chmod(aim["secret"], 0o600)),  # noqa: PTH101
        (f"deleted {aim['victim']}", lambda: os.unlink(aim["victim"])),  # noqa: PTH108
    ]
    return _first(tries, "{}")


def _signal(aim: dict[str, Any]) -> str | None:
    return _first([("the trainer", lambda: os.kill(aim["parent"], 0))], "may signal {}")


def _allocate(aim: dict[str, Any]) -> str | None:
    return _first([("", lambda: bytearray(aim["memory_bytes"]))], "took more memory than allowed")


def _fill(aim: dict[str, Any]) -> str | None:
    block, written = b"x" * (1 << 20), 0
    try:
        for i in range(8):
            with open(f"fill-{i}", "wb") as file:  # noqa: PTH123
                for _ in range(aim["disk_bytes"] // 2 >> 20):
                    written += file.write(block)
                    file.flush()
    except OSError:
        return None
    finally:
        for i in range(8):
            if os.path.exists(f"fill-{i}"):  # noqa: PTH110
                os.truncate(f"fill-{i}", 0)
    return f"wrote {written >> 20} MiB of {aim['disk_bytes'] >> 20}"


def _multiply(aim: dict[str, Any]) -> str | None:
    """Last, because it leaves processes in sessions of their own, which must not outlive it."""
    for count in range(aim["processes"] + 1):
        try:
            if os.fork() == 0:
                os.setsid()
                time.sleep(aim["linger_s"])
                os._exit(0)
        except OSError:
            return None if count else "cannot start any"
    return f"started {aim['processes'] + 1} of {aim['processes']}"


def _first(tries: Sequence[tuple[str, Callable[[], object]]], found: str) -> str | None:
    for name, attempt in tries:
        try:
            attempt()
        except (OSError, MemoryError):
            continue
        return found.format(name)
    return None


def _share_memory(aim: dict[str, Any]) -> None:
    """Take in three processes together more than is allowed, and stay."""
    for _ in range(3):
        if os.fork() == 0:
            block = bytearray(aim["memory_bytes"] // 2)
            for i in range(0, len(block), 4096):
                block[i] = 1
            time.sleep(aim["linger_s"])
            os._exit(0)
    time.sleep(aim["linger_s"])


if __name__ == "__main__":
    given = json.load(sys.stdin)
    if given.get("share"):
        _share_memory(given)
    print(json.dumps({name: attempt() for name, attempt in make_attempts(given).items()}))
