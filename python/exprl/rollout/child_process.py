"""The child's own side of child.py: vLLM in a process of its own, told what to do line by line.

    python -m exprl.rollout.child_process MEMORY

MEMORY is the file descriptor that weights come through (shared_weights.py). Each line of stdin and
stdout is a JSON object. The first line of stdin says what to start on, and the answer is
{"ready": true} or {"failed": why}. Then, with `call` a number that the parent chooses:

    {"do": "sample", "call": c, "how": [...], "starts": [[ids, max_tokens, [seed, ...]], ...]}
                                    -> {"call": c, "of": i, "sample": [...]} for each seed, by order
    {"do": "logp", "call": c, "ids": [...]}           -> {"call": c, "of": 0, "sample": [...]}
    {"do": "abort", "call": c, "of": [i, ...]}
    {"do": "load", "call": c, "sizes": [...], "version": v}   -> {"call": c}
    {"do": "name", "version": v}

Two threads read what main does: one waits for lines, and ends the process with stdin; one ends it
when the parent is gone, since a process that the parent forked may hold stdin open.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any

from exprl import config
from exprl.errors import ExprlError
from exprl.rollout.shared_weights import read_weights
from exprl.rollout.vllm_core import Sampling, VllmCore

PARENT_CHECK_S = 0.5

Say = Callable[[dict[str, Any]], None]


def main() -> None:
    """Run until stdin ends or the parent does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to answer
    say = take_stdout()
    told: dict[str, Any] = json.loads(sys.stdin.readline())
    threading.Thread(target=end_with, args=(told["parent"],), daemon=True).start()
    commands: SimpleQueue[dict[str, Any]] = SimpleQueue()
    threading.Thread(target=read_lines, args=(commands,), daemon=True).start()
    try:
        core = VllmCore(
            config.Model(**told["model"]),
            config.Rollout(**told["rollout"]),
            weights=told["weights"],
            stops=told["stops"],
            sleeps=False,
        )
    except ExprlError as error:
        say({"failed": str(error)})
        sys.exit(1)
    say({"ready": True})
    serve(core, commands, say, int(sys.argv[1]))


def take_stdout() -> Say:
    """What writes lines to stdout; whatever else this process prints goes to stderr from now on."""
    lines = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def say(message: dict[str, Any]) -> None:
        lines.write(json.dumps(message) + "\n")
        lines.flush()

    return say


def read_lines(commands: SimpleQueue[dict[str, Any]]) -> None:
    """Take commands while vLLM computes; the end of stdin is the end of the process."""
    for line in sys.stdin:
        commands.put(json.loads(line))
    os._exit(0)


def end_with(parent: int) -> None:
    """End the process when its parent has ended, even by kill -9."""
    while os.getppid() == parent:
        time.sleep(PARENT_CHECK_S)
    os._exit(0)


def serve(core: VllmCore, commands: SimpleQueue[dict[str, Any]], say: Say, memory: int) -> None:
    """Between two steps of the engine, do what was asked for meanwhile."""
    while True:
        while not (core.busy and commands.empty()):
            obey(core, commands.get(), say, memory)
        for key, sample in core.step():
            call, _, of = key.partition("/")
            say({"call": int(call), "of": int(of), "sample": sample})


def obey(core: VllmCore, command: dict[str, Any], say: Say, memory: int) -> None:
    """Do what one line asks for."""
    match command:
        case {"do": "sample", "call": call, "how": how, "starts": starts}:
            asked = ((ids, length, seed) for ids, length, seeds in starts for seed in seeds)
            for of, (ids, length, seed) in enumerate(asked):
                core.add(f"{call}/{of}", ids, length, seed, Sampling(*how))
        case {"do": "logp", "call": call, "ids": ids}:
            core.add_logp(f"{call}/0", ids)
        case {"do": "abort", "call": call, "of": of}:
            core.abort([f"{call}/{one}" for one in of])
        case {"do": "load", "call": call, "sizes": sizes, "version": version}:
            core.load_weights(read_weights(memory, sizes), version)
            say({"call": call})
        case {"do": "name", "version": version}:
            core.set_version(version)
        case _:
            raise ValueError(f"the parent asked for {command}")


if __name__ == "__main__":
    main()
