"""The other side of the pipe: `python -m exprl.functions.worker MODULE:FUNCTION SECONDS`.

It imports one function, says how it is called, and answers JSON lines with JSON lines. It imports
nothing of exprl's, so that it starts in a blink. It ends with its input, and with its parent.
"""

from __future__ import annotations

import asyncio
import ctypes
import importlib
import inspect
import json
import os
import signal
import sys
import traceback
from collections.abc import Callable
from typing import IO, Any

LONGEST_ERROR = 400
_PR_SET_PDEATHSIG = 1

Reply = Callable[[dict[str, Any]], None]


def main(name: str, limit_s: float) -> None:
    """Serve one function until the input ends.

    Args:
        name: `module:function`.
        limit_s: seconds that a call of an `async def` function may take; the parent watches over
            the others.
    """
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    requests, reply = take_pipes()
    try:
        function = load(name)
        signature = describe(function)
    except (Exception, SystemExit) as error:
        reply({"refused": explain(error)})
        return
    reply({"ready": signature})
    if signature["is_async"]:
        asyncio.run(serve_async(function, requests, reply, limit_s))
        return
    for line in requests:
        request = json.loads(line)
        try:
            value = function(**request["arguments"])
            if inspect.isawaitable(value):
                value = asyncio.run(wait_for(value))
            answer = {"value": to_plain(value)}
        except (Exception, SystemExit) as error:
            answer = {"error": explain(error)}
        reply({"id": request["id"], **answer})


def take_pipes() -> tuple[IO[str], Reply]:
    """The pipes to the parent, out of reach of what the function prints and reads."""
    requests, replies = os.fdopen(os.dup(0)), os.fdopen(os.dup(1), "w", buffering=1)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)

    def reply(message: dict[str, Any]) -> None:
        replies.write(json.dumps(message) + "\n")

    return requests, reply


def load(name: str) -> Callable[..., Any]:
    """The function, from the working directory or from what Python finds elsewhere."""
    # Only now: a file there must not stand before a module that this program imports.
    sys.path.insert(0, os.getcwd())  # noqa: PTH109
    module, _, attribute = name.partition(":")
    function = getattr(importlib.import_module(module), attribute)
    if not callable(function) or isinstance(function, type):
        raise TypeError(f"{attribute} is no function but of type {type(function).__name__}")
    return function  # type: ignore[no-any-return]


def describe(function: Callable[..., Any]) -> dict[str, Any]:
    """How a function is called: the names of its parameters, and whether it is `async def`."""
    parameters = inspect.signature(function).parameters.values()
    variable = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    named = [p for p in parameters if p.kind not in variable]
    unnamed = [p.name for p in named if p.kind is inspect.Parameter.POSITIONAL_ONLY]
    if unnamed:
        raise TypeError(f"it is called by names, and {', '.join(unnamed)} is positional-only")
    called = function if inspect.isroutine(function) else getattr(function, "__call__", function)  # noqa: B004
    return {
        "parameters": [p.name for p in named],
        "required": [p.name for p in named if p.default is inspect.Parameter.empty],
        "is_async": inspect.iscoroutinefunction(called),
    }


async def serve_async(
    function: Callable[..., Any], requests: IO[str], reply: Reply, limit_s: float
) -> None:
    """Answer requests side by side."""
    loop = asyncio.get_running_loop()
    tasks = set()
    while line := await loop.run_in_executor(None, requests.readline):
        task = asyncio.create_task(answer_async(function, json.loads(line), reply, limit_s))
        tasks.add(task)
        task.add_done_callback(tasks.discard)
    for task in tasks:
        task.cancel()


async def answer_async(
    function: Callable[..., Any], request: dict[str, Any], reply: Reply, limit_s: float
) -> None:
    """Answer one request within the limit."""
    limit = asyncio.timeout(limit_s)
    try:
        async with limit:
            value = await function(**request["arguments"])
        answer = {"value": to_plain(value)}
    except (Exception, SystemExit) as error:
        answer = {"late": True} if limit.expired() else {"error": explain(error)}
    reply({"id": request["id"], **answer})


async def wait_for(value: Any) -> Any:
    """What a plain function gave that is to be awaited."""
    return await value


def to_plain(value: Any) -> Any:
    """Numbers and lists as JSON has them, those of NumPy and torch included."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, (list, tuple)):
        return [to_plain(one) for one in value]
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise TypeError(f"it returned {type(value).__name__}, and not a number, a text or a list")


def explain(error: BaseException) -> str:
    """What went wrong, with the place in the user's file."""
    text = f"{type(error).__name__}: {error}".strip()[:LONGEST_ERROR]
    own = [f for f in traceback.extract_tb(error.__traceback__) if f.filename != __file__]
    own = [f for f in own if not f.filename.startswith("<frozen")]
    return f"{text} ({own[-1].filename}, line {own[-1].lineno})" if own else text


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]))
