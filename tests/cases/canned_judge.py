"""A judge that replies what its caller says, and keeps what it was asked."""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Body = dict[str, Any]
Reply = tuple[int, Body]
"""Status and JSON body."""


class CannedJudge(ThreadingHTTPServer):
    """Answers every chat request by calling `reply` with its body."""

    daemon_threads = True

    def __init__(self, reply: Callable[[Body], Reply]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.reply = reply
        self.bodies: list[Body] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: CannedJudge

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        self._send(200, {"object": "list", "data": [{"id": "m", "object": "model"}]})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.server.bodies.append(body)
        self._send(*self.server.reply(body))

    def _send(self, status: int, body: Body) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


@contextmanager
def canned_judge(reply: Callable[[Body], Reply]) -> Iterator[CannedJudge]:
    with CannedJudge(reply) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def is_reask(body: Body) -> bool:
    return bool(body["messages"][-1]["role"] == "assistant")


def asked_text(body: Body) -> str:
    """All that a request's messages say."""
    return "\n".join(_text(message["content"]) for message in body["messages"])


def _text(content: Any) -> str:
    return content if isinstance(content, str) else json.dumps(content)


def completion(
    content: Any,
    finish_reason: str = "stop",
    logprobs: Any = None,
    **message: Any,
) -> Reply:
    """A chat completion; `message` has fields beside the content, such as reasoning_content."""
    said = {"role": "assistant", "content": content, **message}
    choice: Body = {"index": 0, "message": said, "finish_reason": finish_reason}
    if logprobs is not None:
        choice["logprobs"] = {"content": [_token(*one) for one in logprobs]}
    usage = {"prompt_tokens": 10, "completion_tokens": 5}
    return 200, {"id": "x", "object": "chat.completion", "choices": [choice], "usage": usage}


def refusal(status: int, message: str) -> Reply:
    error = {"message": message, "type": "BadRequestError", "code": status}
    return status, {"error": error}


def _token(token: str, likely: dict[str, float]) -> Body:
    def entry(text: str, logprob: float) -> Body:
        return {"token": text, "logprob": logprob, "bytes": list(text.encode())}

    top = [entry(text, math.log(p)) for text, p in likely.items()]
    return {**entry(token, -0.1), "top_logprobs": top}
