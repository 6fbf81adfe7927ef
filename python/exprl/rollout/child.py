"""vLLM in a second process of this machine, which samples while the trainer trains.

Prompts go there and samples come back as lines of JSON over its stdin and stdout, weights in shared
memory: no server, no port. What the lines say is in child_process.py. The child ends with this
process, however it ends.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import count
from queue import SimpleQueue
from typing import Any

import numpy as np
import torch

from exprl import config
from exprl.data.turns import find_stops
from exprl.errors import ConfigError, EngineError
from exprl.rollout.engine import Start, continuation_starts, prompt_starts, rollout_seed
from exprl.rollout.shared_weights import clear, open_memory, write_weights
from exprl.rollout.vllm_core import Sample, Sampling
from exprl.rollout.vllm_engine import make_rollout, sampling
from exprl.types import Float32Array, Int32Array, Prompt, Rollout

COMMAND = (sys.executable, "-m", "exprl.rollout.child_process")
LAST_LINES = 20
END_S = 10.0
Reply = dict[str, Any]


class ChildEngine:
    """An engine that several threads may call at once, also while it takes new weights.

    It has a GPU of its own, or the CPU beside the trainer, so it never sleeps.
    """

    def __init__(
        self, model: config.Model, rollout: config.Rollout, *, tokenizer: Any, weights: str
    ) -> None:
        """Start the process, on the weights in the folder or hub id `weights`, and wait for it.

        Raises:
            EngineError: vLLM is not installed or did not start.
            ConfigError: there is one GPU, which the trainer needs; or nothing says where a rollout
                ends.
        """
        self.tokenizer = tokenizer
        self._model = model
        self._version = 0
        self._memory = open_memory()
        about = {
            "parent": os.getpid(),
            "model": model.model_dump(mode="json"),
            "rollout": rollout.model_dump(mode="json"),
            "weights": weights,
            "stops": list(find_stops(tokenizer, model)),
        }
        self._child = Child(self._memory, about)

    @property
    def policy_version(self) -> int:
        """See Engine."""
        return self._version

    @policy_version.setter
    def policy_version(self, version: int) -> None:
        self._child.send({"do": "name", "version": version})
        self._version = version

    def sample(
        self,
        prompts: Sequence[Prompt],
        n: int,
        seed: int,
        temperature: float,
        max_response_tokens: int,
        truncation: config.Truncation = config.ALL_TOKENS,
    ) -> Iterator[Rollout]:
        """See Engine.sample."""
        begin = prompt_starts(self.tokenizer, self._model, prompts)
        how = sampling(temperature, truncation)
        return self._generate(begin, n, seed, max_response_tokens, how)

    def sample_continuations(
        self,
        beginnings: Sequence[tuple[str, Prompt, Int32Array]],
        n: int,
        seed: int,
        temperature: float,
        max_response_tokens: int,
    ) -> Iterator[Rollout]:
        """See Engine.sample_continuations."""
        begin = continuation_starts(self.tokenizer, self._model, beginnings)
        return self._generate(begin, n, seed, max_response_tokens, sampling(temperature))

    def logp(self, token_ids: Int32Array) -> Sequence[Float32Array]:
        """See Engine.logp."""
        with self._child.call() as (call, replies):
            self._child.send({"do": "logp", "call": call, "ids": token_ids.tolist()})
            reply = self._child.wait(replies)
        return [np.array(Sample(*reply["sample"]).logp, dtype=np.float32)]

    def load_weights(self, weights: Iterable[tuple[str, Any]], version: int) -> None:
        """See Engine.load_weights; rollouts that are being sampled go on with the new ones."""
        try:
            sizes = write_weights(self._memory, weights)
            with self._child.call() as (call, replies):
                told = {"do": "load", "call": call, "sizes": sizes, "version": version}
                self._child.send(told)
                self._child.wait(replies)
        finally:
            clear(self._memory)
        self._version = version

    def sleep(self) -> None:
        """See Engine.sleep: nobody waits for its memory."""

    def wake(self, part: str) -> None:
        """See Engine.wake: it never sleeps."""

    def stats(self) -> None:
        """See Engine.stats."""

    def close(self) -> None:
        """See Engine.close."""
        self._child.end()
        os.close(self._memory)

    def _generate(
        self, begin: Sequence[Start], n: int, seed: int, max_response_tokens: int, how: Sampling
    ) -> Iterator[Rollout]:
        asked = [(start, index) for start in begin for index in range(n)]
        starts = [
            (
                start.ids,
                max_response_tokens - start.given,
                [rollout_seed(seed, start.name, index) for index in range(n)],
            )
            for start in begin
        ]
        waiting = set(range(len(asked)))
        with self._child.call() as (call, replies):
            self._child.send({"do": "sample", "call": call, "how": how, "starts": starts})
            try:
                while waiting:
                    reply = self._child.wait(replies)
                    waiting.discard(reply["of"])
                    yield make_rollout(*asked[reply["of"]], Sample(*reply["sample"]))
            finally:
                if waiting:  # the caller left early, or the child has ended
                    with suppress(EngineError):
                        self._child.send({"do": "abort", "call": call, "of": sorted(waiting)})


class Child:
    """The process, its two pipes, and who waits for which of its lines."""

    def __init__(self, memory: int, about: dict[str, Any]) -> None:
        """Start it and wait until it is ready.

        Args:
            memory: file descriptor that it inherits.
            about: what its first line says.

        Raises:
            EngineError: it could not start.
        """
        self._numbers = count(1)
        self._waiting: dict[int, SimpleQueue[Reply | None]] = {}
        self._lock = threading.Lock()
        self._writing = threading.Lock()
        self._ended = False
        self._last: deque[str] = deque(maxlen=LAST_LINES)
        self._process = subprocess.Popen(
            [*COMMAND, str(memory)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            pass_fds=(memory,),
            env=child_environment(),
        )
        self._stderr = threading.Thread(target=self._keep_stderr, daemon=True)
        self._stderr.start()
        try:
            self.send(about)
            assert self._process.stdout
            reply = json.loads(self._process.stdout.readline() or b"null")
            if reply is None:
                raise self._error()
            if "failed" in reply:
                raise EngineError(reply["failed"])
        except BaseException:
            self.end()
            raise
        threading.Thread(target=self._hand_out, daemon=True).start()

    @contextmanager
    def call(self) -> Iterator[tuple[int, SimpleQueue[Reply | None]]]:
        """A number for a command, and the queue that the lines which answer it come to."""
        replies: SimpleQueue[Reply | None] = SimpleQueue()
        with self._lock:
            if self._ended:
                raise self._error()
            call = next(self._numbers)
            self._waiting[call] = replies
        try:
            yield call, replies
        finally:
            with self._lock:
                del self._waiting[call]

    def wait(self, replies: SimpleQueue[Reply | None]) -> Reply:
        """The next answer.

        Raises:
            EngineError: the process has ended.
        """
        reply = replies.get()
        if reply is None:
            raise self._error()
        return reply

    def send(self, message: dict[str, Any]) -> None:
        """Write one line.

        Raises:
            EngineError: the process has ended.
        """
        line = json.dumps(message).encode() + b"\n"
        assert self._process.stdin
        try:
            with self._writing:
                self._process.stdin.write(line)
                self._process.stdin.flush()
        except (OSError, ValueError) as error:  # a broken pipe, or one that `end` has closed
            raise self._error() from error

    def end(self) -> None:
        """Close its stdin, at which it ends; kill it where it does not."""
        assert self._process.stdin
        with self._writing, suppress(OSError):
            self._process.stdin.close()
        try:
            self._process.wait(END_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _hand_out(self) -> None:
        """Give each line to whoever waits for it, until there are no more; then tell everybody."""
        assert self._process.stdout
        for line in self._process.stdout:
            reply = json.loads(line)
            with self._lock:
                replies = self._waiting.get(reply["call"])
            if replies is not None:  # else its caller left
                replies.put(reply)
        with self._lock:
            self._ended = True
            for replies in self._waiting.values():
                replies.put(None)

    def _keep_stderr(self) -> None:
        assert self._process.stderr
        for line in self._process.stderr:
            self._last.append(line.decode(errors="replace").rstrip())

    def _error(self) -> EngineError:
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(END_S)
        self._stderr.join(END_S)
        said = "\n".join(self._last) or "nothing"
        code = self._process.returncode
        return EngineError(
            f"the engine's process {self._process.pid} ended with code {code}; start the same"
            f" command again to go on from the last checkpoint. It said last:\n{said}"
        )


def child_environment() -> dict[str, str]:
    """The environment of the child: this one, with a GPU of its own and as many CPU threads.

    Raises:
        ConfigError: there is one GPU, which the trainer needs.
    """
    own = {"OMP_NUM_THREADS": str(torch.get_num_threads())}
    if torch.cuda.is_available():
        named = os.environ.get("CUDA_VISIBLE_DEVICES")
        own["CUDA_VISIBLE_DEVICES"] = second_gpu(named, torch.cuda.device_count())
    return os.environ | own


def second_gpu(visible: str | None, gpus: int) -> str:
    """The GPU beside the trainer's, which is the first, as CUDA_VISIBLE_DEVICES names it.

    Args:
        visible: CUDA_VISIBLE_DEVICES; None = not set.
        gpus: how many torch sees.

    Raises:
        ConfigError: there is no second one.

    >>> second_gpu("4,7", 2), second_gpu(None, 8)
    ('7', '1')
    """
    if gpus < 2:
        raise ConfigError(
            'engine.kind = "child" needs a GPU beside the trainer\'s, and this process sees one:'
            ' set engine.kind = "process" to sample and train on it in turns, or let'
            " CUDA_VISIBLE_DEVICES name two"
        )
    return visible.split(",")[1].strip() if visible else "1"
