"""Where a server can be reached, and by whom."""

from __future__ import annotations

import ipaddress

from exprl.errors import ConfigError
from exprl.serve.middleware import TOKEN_VARIABLE


def check_reach(host: str, token: str | None) -> None:
    """Let a server without a token listen on loopback only.

    Raises:
        ConfigError: others could reach it, and it would answer them.
    """
    if not token and not is_loopback(host):
        raise ConfigError(
            f"--host {host}: whoever reaches a server can change its weights, so one that other"
            f" machines reach must ask for a token; put one into the environment variable"
            f" {TOKEN_VARIABLE}, e.g. export {TOKEN_VARIABLE}=$(openssl rand -hex 32), or leave"
            " --host out to listen on 127.0.0.1"
        )


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches what listens on an address or name."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def url_of(host: str, port: int) -> str:
    """The URL of an address and a port."""
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
