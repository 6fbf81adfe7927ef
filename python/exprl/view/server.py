"""The web server of the pages: opens the port, says where, and ends with Ctrl-C."""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import uvicorn

from exprl.errors import ConfigError
from exprl.serve.reach import url_of
from exprl.view.app import make_app
from exprl.view.guard import Guard, read_token

PORT = 8321
"""Where the pages are if nothing else is there: a link stays right when the viewer starts again."""
_NEXT = 20
"""Ports to try."""
EVERYWHERE = ("0.0.0.0", "::")
"""Hosts that mean every address of this machine."""


def serve(run_dir: Path, host: str, port: int | None, tell: Callable[[str, bool], object]) -> None:
    """Serve the pages of a run until Ctrl-C.

    Args:
        host: address to listen on; one that other machines reach needs EXPRL_TOKEN.
        port: None takes 8321, or the next one that is free; 0 any free one.
        tell: is told the URL, once it answers, and whether the pages ask for a password.

    Raises:
        ConfigError: the port or the address cannot be used, or a token is needed.
    """
    token = read_token(host)
    listener = listen(host, port)
    name = socket.gethostname() if host in EVERYWHERE else host
    url = url_of(name, listener.getsockname()[1]) + "/"
    settings = uvicorn.Config(
        Guard(make_app(run_dir, lambda: tell(url, token is not None)), host, token),
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=1,
    )
    # Ctrl-C is the way to end it; uvicorn has closed what was open.
    with listener, suppress(KeyboardInterrupt):
        uvicorn.Server(settings).run(sockets=[listener])


def listen(host: str, port: int | None) -> socket.socket:
    """A socket that listens.

    Raises:
        ConfigError: the address is not this machine's, or the port is taken.
    """
    wanted = range(PORT, PORT + _NEXT) if port is None else [port]
    for one in wanted:
        try:
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            return socket.create_server((host, one), family=family, backlog=128)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise ConfigError(f"cannot listen on {host}:{one}: {error.strerror}") from None
    ports = f"{wanted[0]} to {wanted[-1]}" if len(wanted) > 1 else str(wanted[0])
    raise ConfigError(f"port {ports} of {host} is taken; --port 0 takes a free one")
