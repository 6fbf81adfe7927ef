"""Who may talk to a server: whoever sends its token, on every path.

vLLM's own `--api-key` leaves /pause, /update_weights, /collective_rpc and most others open.
"""

from __future__ import annotations

import hmac
import json
import os
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any

TOKEN_VARIABLE = "EXPRL_TOKEN"
"""Environment variable with a server's token; it stands in no argument, log or file."""

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

REFUSAL = json.dumps(
    {
        "error": {
            "message": "this server answers only requests with its token: send the header"
            f" Authorization: Bearer TOKEN, with the value of {TOKEN_VARIABLE} of the server",
            "type": "invalid_request_error",
            "code": 401,
        }
    }
).encode()


class TokenMiddleware:
    """ASGI middleware that lets requests through if they carry `Authorization: Bearer TOKEN`."""

    def __init__(self, app: App) -> None:
        """Guard an app with the token of the environment.

        Raises:
            KeyError: there is none; a server without a token does without this class.
        """
        self._app = app
        self._expected = f"Bearer {os.environ[TOKEN_VARIABLE]}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or answer 401; a websocket is closed before it opens."""
        match scope["type"]:
            case "http" if not self._admits(scope["headers"]):
                headers = [(b"content-type", b"application/json"), (b"www-authenticate", b"Bearer")]
                await send({"type": "http.response.start", "status": 401, "headers": headers})
                await send({"type": "http.response.body", "body": REFUSAL})
            case "websocket" if not self._admits(scope["headers"]):
                await send({"type": "websocket.close", "code": 1008})
            case _:
                await self._app(scope, receive, send)

    def _admits(self, headers: Iterable[tuple[bytes, bytes]]) -> bool:
        """In constant time, so that no answer's delay tells how much of a guess was right."""
        sent = [value for name, value in headers if name.lower() == b"authorization"]
        return len(sent) == 1 and hmac.compare_digest(sent[0], self._expected)
