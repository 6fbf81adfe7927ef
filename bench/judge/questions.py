"""What the benches of bad days grade, and what a sound judge says about it."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from exprl.judge import Judge, JudgeItem, JudgeSettings, RuleJudge

QUESTION = re.compile(r"What is \d+ \+ \d+\?")
COMPLETION = {
    "choices": [{"index": 0, "finish_reason": "stop", "message": {"content": "Score: 3"}}],
    "usage": {"prompt_tokens": 1, "completion_tokens": 1},
}


def items(count: int) -> list[JudgeItem]:
    """Sums of two numbers, every second one wrong."""

    def item(i: int) -> JudgeItem:
        a, b = 17 * i % 9973, 31 * i % 9949
        answer = a + b + i % 2
        trace = f"I add {a} and {b}. The answer is {answer}."
        return JudgeItem(str(i), f"What is {a} + {b}?", f"{a} + {b} = {a + b}", (trace,))

    return [item(i) for i in range(count)]


def truth(questions: Sequence[JudgeItem]) -> list[int | None]:
    """The rule's grades without any fault."""
    with RuleJudge("numbers") as server:
        settings = JudgeSettings((server.url,), server.model, view="outcome")
        with Judge(settings) as judge:
            graded = sorted(judge.submit(questions), key=lambda graded: graded.index)
    return [one.verdicts[0].grade for one in graded]


def prompts(questions: Sequence[JudgeItem]) -> list[str]:
    """The message of each request, as the judge sends it: what another client has to send."""
    with recorder() as (url, seen):
        settings = JudgeSettings((url,), "any", view="outcome", kv_tokens=0)
        with Judge(settings) as judge:
            for _ in judge.submit(questions):
                pass
    by_problem = {QUESTION.findall(prompt)[-1]: prompt for prompt in seen}
    return [by_problem[question.problem] for question in questions]


@contextmanager
def recorder() -> Iterator[tuple[str, list[str]]]:
    """A server that grades everything 3 and keeps what it was asked."""
    seen: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            seen.append(body["messages"][0]["content"])
            answer(self, 200, json.dumps(COMPLETION).encode())

        def log_message(self, *_: object) -> None:
            pass

    with serving(Handler) as url:
        yield url, seen


def answer(handler: BaseHTTPRequestHandler, status: int, body: bytes) -> None:
    """Send a whole reply in one piece."""
    handler.send_response(status)
    handler.send_header("content-type", "application/json")
    handler.send_header("content-length", str(len(body)))
    handler.end_headers()
    handler.wfile.write(body)


@contextmanager
def serving(handler: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    """The base URL of a server on a free port of loopback."""
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/v1"
        finally:
            server.shutdown()
