"""One client grading one workload in a process of its own; prints a JSON line.

python bench/judge/client.py NAME --url URL --kb 8 --group 1 --in-flight 256 --seconds 3
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import resource
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workload import Rollout, rollouts

MODEL = "canned"
GRADE = re.compile(r"^Score: ([1-5])$", re.MULTILINE)
# One request: sends the message, returns the reply's text and the body's length that nginx saw.
Send = Callable[[str], Awaitable[tuple[str, int]]]


@dataclass(frozen=True)
class Point:
    """Where and what is measured."""

    url: str
    kb: int
    group: int
    in_flight: int


class Tally:
    """Latencies and request sizes of graded replies."""

    def __init__(self) -> None:
        self.latencies: list[float] = []
        self.bytes = 0

    def add(self, latency: float, size: int) -> None:
        """Count one graded reply."""
        self.latencies.append(latency)
        self.bytes += size


def batch(point: Point, work: Iterator[Rollout], tally: Tally) -> None:
    """exprl's batch API: this thread gives the workload and takes results, in bursts."""
    from exprl.judge import Judge, JudgeItem, JudgeSettings

    settings = JudgeSettings(
        (point.url,),
        MODEL,
        view="prefix" if point.group > 1 else "outcome",
        concurrency=point.in_flight,
        # Half of the text that is in flight: prefixes of a rollout share theirs.
        queue_bytes=point.in_flight * (point.kb << 10) // (2 * point.group),
    )
    with Judge(settings) as judge:
        items = (JudgeItem(r.name, r.problem, r.reference, r.segments) for r in work)
        for graded in judge.submit(items):
            for verdict in graded.verdicts:
                if verdict.status != "ok":
                    raise SystemExit(f"{verdict.status}: {verdict.error}")
                tally.add(verdict.latency_s, verdict.prompt_tokens)


async def gather(send: Send, work: Iterator[Rollout], in_flight: int, tally: Tally) -> None:
    """As many tasks as requests in flight, each taking the next prompt: asyncio's fastest form."""
    prompts = (prompt for rollout in work for prompt in rollout.prompts())

    async def worker() -> None:
        for prompt in prompts:
            start = time.perf_counter()
            reply, size = await send(prompt)
            if GRADE.search(reply) is None:
                raise SystemExit(f"no grade in {reply!r}")
            tally.add(time.perf_counter() - start, size)

    await asyncio.gather(*(worker() for _ in range(in_flight)))


def body(prompt: str) -> dict[str, Any]:
    messages = [{"role": "user", "content": prompt}]
    return {"model": MODEL, "messages": messages, "temperature": 0.0, "max_tokens": 2048}


def read(reply: dict[str, Any]) -> tuple[str, int]:
    return reply["choices"][0]["message"]["content"], reply["usage"]["prompt_tokens"]


def aiohttp(point: Point, work: Iterator[Rollout], tally: Tally) -> None:
    import aiohttp
    import orjson
    import uvloop

    async def run() -> None:
        connector = aiohttp.TCPConnector(limit=point.in_flight)
        headers = {"content-type": "application/json"}
        async with aiohttp.ClientSession(connector=connector, headers=headers) as session:

            async def send(prompt: str) -> tuple[str, int]:
                data = orjson.dumps(body(prompt))
                async with session.post(f"{point.url}/chat/completions", data=data) as response:
                    return read(orjson.loads(await response.read()))

            await gather(send, work, point.in_flight, tally)

    uvloop.run(run())


def pyreqwest(point: Point, work: Iterator[Rollout], tally: Tally) -> None:
    import orjson
    import uvloop
    from pyreqwest.client import ClientBuilder

    async def run() -> None:
        builder = ClientBuilder().max_connections(point.in_flight)
        async with builder.default_headers({"content-type": "application/json"}).build() as client:

            async def send(prompt: str) -> tuple[str, int]:
                request = client.post(f"{point.url}/chat/completions")
                response = await request.body_bytes(orjson.dumps(body(prompt))).build().send()
                return read(orjson.loads(memoryview(await response.bytes())))

            await gather(send, work, point.in_flight, tally)

    uvloop.run(run())


def httpx(point: Point, work: Iterator[Rollout], tally: Tally) -> None:
    import httpx
    import uvloop

    async def run() -> None:
        limits = httpx.Limits(
            max_connections=point.in_flight, max_keepalive_connections=point.in_flight
        )
        async with httpx.AsyncClient(limits=limits, timeout=600) as client:

            async def send(prompt: str) -> tuple[str, int]:
                response = await client.post(f"{point.url}/chat/completions", json=body(prompt))
                return read(response.json())

            await gather(send, work, point.in_flight, tally)

    uvloop.run(run())


def openai(point: Point, work: Iterator[Rollout], tally: Tally) -> None:
    from openai import DefaultAsyncHttpxClient

    ask_openai(DefaultAsyncHttpxClient(timeout=600), point, work, tally)


def openai_aiohttp(point: Point, work: Iterator[Rollout], tally: Tally) -> None:
    from openai import DefaultAioHttpClient

    ask_openai(DefaultAioHttpClient(timeout=600), point, work, tally)


def ask_openai(http_client: Any, point: Point, work: Iterator[Rollout], tally: Tally) -> None:
    import uvloop
    from openai import AsyncOpenAI

    async def run() -> None:
        async with AsyncOpenAI(base_url=point.url, api_key="-", http_client=http_client) as client:

            async def send(prompt: str) -> tuple[str, int]:
                reply = await client.chat.completions.create(**body(prompt))
                return reply.choices[0].message.content, reply.usage.prompt_tokens

            await gather(send, work, point.in_flight, tally)

    uvloop.run(run())


def litellm(point: Point, work: Iterator[Rollout], tally: Tally) -> None:
    import litellm
    import uvloop

    litellm.suppress_debug_info = True

    async def send(prompt: str) -> tuple[str, int]:
        fields = body(prompt) | {"model": f"openai/{MODEL}"}
        reply = await litellm.acompletion(**fields, api_base=point.url, api_key="-")
        return reply.choices[0].message.content, reply.usage.prompt_tokens

    uvloop.run(gather(send, work, point.in_flight, tally))


CLIENTS = {
    "exprl": batch,
    "aiohttp": aiohttp,
    "pyreqwest": pyreqwest,
    "httpx": httpx,
    "openai-aiohttp": openai_aiohttp,
    "openai": openai,
    "litellm": litellm,
}
IMPORTS = {
    "exprl": ["exprl.judge"],
    "aiohttp": ["aiohttp", "orjson", "uvloop"],
    "pyreqwest": ["pyreqwest.client", "orjson", "uvloop"],
    "httpx": ["httpx", "uvloop"],
    "openai-aiohttp": ["openai", "httpx_aiohttp", "uvloop"],
    "openai": ["openai", "uvloop"],
    "litellm": ["litellm", "uvloop"],
}


def peak_rss_mb(process: int | str = "self") -> float:
    status = Path(f"/proc/{process}/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("client", choices=CLIENTS)
    parser.add_argument("--url", required=True)
    parser.add_argument("--kb", type=int, default=8)
    parser.add_argument("--group", type=int, default=1)
    parser.add_argument("--in-flight", type=int, default=256)
    parser.add_argument("--seconds", type=float, default=3)
    arguments = parser.parse_args()
    for name in IMPORTS[arguments.client]:
        __import__(name)
    tally = Tally()
    cpu, start = cpu_seconds(), time.perf_counter()
    work = rollouts(arguments.kb, arguments.group, arguments.seconds)
    point = Point(arguments.url, arguments.kb, arguments.group, arguments.in_flight)
    CLIENTS[arguments.client](point, work, tally)
    latencies = sorted(tally.latencies)
    result = {
        "seconds": time.perf_counter() - start,
        "cpu_s": cpu_seconds() - cpu,
        "rss_mb": peak_rss_mb(),
        "requests": len(tally.latencies),
        "mean_bytes": tally.bytes / len(tally.latencies),
        "p50_ms": 1000 * latencies[len(latencies) // 2],
        "p99_ms": 1000 * latencies[len(latencies) * 99 // 100],
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
