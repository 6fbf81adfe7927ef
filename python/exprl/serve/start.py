"""`exprl serve` becomes vLLM's API server."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping
from typing import NoReturn

from exprl.errors import ConfigError
from exprl.serve.flags import Server, to_argv
from exprl.serve.middleware import TOKEN_VARIABLE
from exprl.serve.reach import check_reach, is_loopback

MODULE = "exprl.serve.api_server"
_OF_VLLM = ("VLLM_API_KEY",)
"""Variables that would have vLLM ask for a second token on some of the paths."""

_WITHIN = {"VLLM_HOST_IP": "127.0.0.1", "GLOO_SOCKET_IFNAME": "lo"}
"""Variables with which engine and workers, too, talk to each other over loopback."""


def become_server(server: Server, host: str, port: int, *, with_parent: bool) -> NoReturn:
    """Go on as the server: same process id, stdin and stdout.

    Args:
        port: to listen on; 0 for a free one.
        with_parent: end when stdin ends, or the process that started this one.

    Raises:
        ConfigError: others could reach the server without a token.
    """
    token = os.environ.get(TOKEN_VARIABLE)
    check_reach(host, token)
    if token and not re.fullmatch(r"[!-~]+", token):
        raise ConfigError(
            f"{TOKEN_VARIABLE} holds what no header can carry; its value must be one word of ASCII,"
            " such as `openssl rand -hex 32` prints"
        )
    flags = {**server.flags, "host": host, "port": port}
    if token:
        flags["middleware"] = "exprl.serve.middleware.TokenMiddleware"
    own = [server.role, *(["--with-parent"] if with_parent else []), "--"]
    # -P: what lies in the working directory does not shadow a package.
    command = [sys.executable, "-P", "-m", MODULE, *own, *to_argv(flags)]
    os.execve(sys.executable, command, environment(server, host, os.environ))


def environment(server: Server, host: str, users: Mapping[str, str]) -> dict[str, str]:
    """The environment of a server that listens on `host`, from that of the user."""
    kept = {name: value for name, value in users.items() if name not in _OF_VLLM}
    within = _WITHIN if is_loopback(host) else {}
    return {**server.usual, **within, **kept, **server.fixed}
