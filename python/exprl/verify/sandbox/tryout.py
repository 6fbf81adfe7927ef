"""What a sandbox holds on this machine: found by a hostile program (probe.py), not claimed."""

from __future__ import annotations

import json
import os
import socket
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from exprl import config
from exprl.errors import SandboxError
from exprl.verify.sandbox import launch
from exprl.verify.sandbox.launch import Ended, MissingLayerError, Room

_PROBE = Path(__file__).with_name("probe.py").read_text(encoding="utf-8")


@dataclass(frozen=True, slots=True)
class Held:
    """One thing that a program must not be able to do, as one that tried it found it.

    found: how it is prevented, or how far the program came.
    """

    name: config.Confinement
    holds: bool
    found: str


def try_out(room: Room, settings: config.Sandbox) -> tuple[Room, tuple[Held, ...]]:
    """The room with the layers that this machine has, and what they hold together.

    Raises:
        SandboxError: no program can be run.
    """
    reasons: dict[str, str] = {}
    while True:
        try:
            return room, tuple(_try_all(room, settings))
        except MissingLayerError as missing:
            reasons[missing.layer] = str(missing)
            if missing.layer not in room.layers:
                found = "; ".join(f"{k}: {v}" for k, v in reasons.items())
                return room, tuple(Held(name, False, found) for name in config.CONFINEMENTS)
            room = replace(room, layers=tuple(x for x in room.layers if x != missing.layer))


def _try_all(room: Room, settings: config.Sandbox) -> Iterator[Held]:
    """Have a hostile program try everything that a sandbox must prevent."""
    small = {"memory_mb": 256, "processes": 8, "disk_mb": 4, "timeout_s": 60.0, "cpu_s": 10}
    limits = settings.model_copy(update=small)
    little = limits.model_copy(update={"memory_mb": 96})
    with _make_targets() as targets:
        ended = _probe(room, limits, targets)
        shared = _probe(room, little, targets | {"share": True})
    if ended.code != 0:
        raise SandboxError(f"the sandbox cannot run a program: {ended.stderr[-500:]}")
    reached: dict[str, str | None] = json.loads(ended.stdout)
    reached["leftovers"] = "left a process behind" if ended.survived else None
    together = "took more memory than allowed in several processes together"
    alone = shared.status == "memory" or reached["processes"] == "cannot start any"
    reached["memory"] = reached["memory"] or (None if alone else together)
    if reached["processes"] == "cannot start any":
        reached["processes"] = None
    for confinement in config.CONFINEMENTS:
        found = reached[confinement]
        yield Held(confinement, found is None, found or "a program that tried was kept from it")


def _probe(room: Room, limits: config.Sandbox, targets: dict[str, Any]) -> Ended:
    aim = targets | {
        "memory_bytes": limits.memory_mb << 20,
        "disk_bytes": limits.disk_mb << 20,
        "processes": limits.processes,
        "linger_s": 20 * launch.LINGER_S,
    }
    return launch.run(room, limits, _PROBE, json.dumps(aim))


@contextmanager
def _make_targets() -> Iterator[dict[str, Any]]:
    """Listeners and files that nothing but the sandbox keeps a program from."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="exprl-probe-")))
        secret, unlocked = folder / "secret", folder / "unlocked"
        secret.write_text("secret")
        unlocked.mkdir()
        victim = unlocked / "victim"
        victim.touch()
        for path, mode in ((folder, 0o755), (secret, 0o644), (unlocked, 0o777)):
            path.chmod(mode)
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        name = f"exprl-{os.getpid()}-{folder.name}"
        local = stack.enter_context(socket.socket(socket.AF_UNIX))
        local.bind("\0" + name)
        local.listen()
        yield {
            "port": listener.getsockname()[1],
            "unix": name,
            "secret": str(secret),
            "folder": str(unlocked),
            "victim": str(victim),
            "parent": os.getpid(),
        }
