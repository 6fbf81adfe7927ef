"""Who may read the pages, and what the pages may do: every request and answer passes here.

Without a token anybody on this machine may read them, and nobody else: the server listens on
loopback, and the Host header must name this machine. Otherwise a page of another site could point
a name of its own at 127.0.0.1 (DNS rebinding) and read a run through the user's browser.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import ipaddress
import os
import re
import socket
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from exprl.errors import ConfigError
from exprl.serve.middleware import TOKEN_VARIABLE
from exprl.serve.reach import is_loopback

HEADERS = {
    # Scripts and styles come from our own files; what a model wrote can run nothing, load nothing
    # and send nothing, even if it got past the escaping.
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self';"
    " img-src 'self'; connect-src 'self'; form-action 'self'; base-uri 'none';"
    " frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}


class Guard:
    """ASGI middleware: checks host, token and method, and sets the headers of every answer."""

    def __init__(self, app: ASGIApp, host: str, token: str | None) -> None:
        """Guard an app.

        Args:
            host: address or name that the server listens on.
            token: what a reader must send as the password; None asks for none.
        """
        self._app = app
        self._names = {"localhost", host.lower(), socket.gethostname().lower()}
        self._token = token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or answer it with what is wrong."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        refusal = self._refuse(Headers(scope=scope), scope["method"])
        await (refusal or self._app)(scope, receive, send_guarded)

    def _refuse(self, headers: Headers, method: str) -> PlainTextResponse | None:
        if not self._knows(headers.get("host", "")):
            return PlainTextResponse(
                "The Host header of this request does not name this machine. Open the address that"
                " exprl view printed, or start it with --host NAME.\n",
                status_code=400,
            )
        if self._token is not None and not self._admits(headers.get("authorization", "")):
            return PlainTextResponse(
                f"These pages ask for a password: the value of {TOKEN_VARIABLE} of the server. Any"
                " user name will do.\n",
                status_code=401,
                headers={"WWW-Authenticate": 'Basic realm="exprl view", charset="UTF-8"'},
            )
        if method not in ("GET", "HEAD"):
            return PlainTextResponse("These pages can only be read.\n", status_code=405)
        return None

    def _knows(self, header: str) -> bool:
        """Whether a Host header names this machine. No rebinding makes it a bare address."""
        try:
            name = urlsplit(f"//{header}").hostname or ""
        except ValueError:
            return False
        try:
            return bool(ipaddress.ip_address(name))
        except ValueError:
            return name in self._names

    def _admits(self, header: str) -> bool:
        """Whether the token was sent, as a password or as a bearer token; in constant time."""
        kind, _, sent = header.partition(" ")
        given = sent.strip().encode()
        if kind.lower() == "basic":
            try:
                given = base64.b64decode(given, validate=True).partition(b":")[2]
            except binascii.Error:
                return False
        elif kind.lower() != "bearer":
            return False
        return hmac.compare_digest(given, (self._token or "").encode())


def read_token(host: str) -> str | None:
    """The token of the environment; None where there is none.

    Raises:
        ConfigError: others could reach the pages without a token, or no browser can send it.
    """
    token = os.environ.get(TOKEN_VARIABLE) or None
    if token is None and not is_loopback(host):
        raise ConfigError(
            f"--host {host}: whoever reaches these pages reads the run and its hidden references,"
            f" so pages that other machines reach must ask for a token; put one into the"
            f" environment variable {TOKEN_VARIABLE}, e.g. export {TOKEN_VARIABLE}=$(openssl rand"
            " -hex 32), or leave --host out and use ssh -L"
        )
    if token is not None and not re.fullmatch(r"[!-~]+", token):
        raise ConfigError(
            f"{TOKEN_VARIABLE} holds what no header can carry; its value must be one word of ASCII,"
            " such as `openssl rand -hex 32` prints"
        )
    return token
