"""Four unequal servers: one in 20 ms, one in 200 ms, one that always says 503, one that is dead.

    python bench/judge unequal [--count N]

The oracle knows which two work and how fast: its throughput is the sum of what each of them does
alone, as measured in the same run. Bar: at least 90 % of it, and nothing lost.
docs/project/benchmarks.md has what was seen.
"""

from __future__ import annotations

import argparse
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler

from _row import Row, report
from questions import answer, items, serving

from exprl.judge import Judge, JudgeItem, JudgeSettings, RuleJudge

IN_FLIGHT = 16
REPEATS = 3


class Unavailable(BaseHTTPRequestHandler):
    """503 to everything."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        """Refuse."""
        self.rfile.read(int(self.headers["content-length"]))
        answer(self, 503, b'{"error": {"message": "overloaded"}}')

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextmanager
def dead() -> Iterator[str]:
    """A port that is taken, so that nobody else gets it, and on which nobody listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{taken.getsockname()[1]}/v1"


def throughput(
    urls: Sequence[str], model: str, questions: Sequence[JudgeItem]
) -> tuple[float, int]:
    """Grades per second, and how many are missing."""
    settings = JudgeSettings(tuple(urls), model, view="outcome", concurrency=IN_FLIGHT)
    start = time.perf_counter()
    with Judge(settings) as judge:
        graded = list(judge.submit(questions))
    seconds = time.perf_counter() - start
    missing = sum(one.verdicts[0].grade is None for one in graded)
    return len(graded) / seconds, missing + len(questions) - len(graded)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser("unequal", description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=5000, help="requests on all four")
    count = parser.parse_args(arguments).count
    rates: dict[str, list[float]] = {"fast alone": [], "slow alone": [], "all four": []}
    lost = 0
    with (
        RuleJudge("numbers", latency_ms=20) as fast,
        RuleJudge("numbers", latency_ms=200) as slow,
        serving(Unavailable) as unavailable,
        dead() as nobody,
    ):
        work = {
            "fast alone": ([fast.url], count // 2),
            "slow alone": ([slow.url], count // 20),
            "all four": ([nobody, slow.url, unavailable, fast.url], count),
        }
        for _ in range(REPEATS):
            for name, (urls, number) in work.items():
                rate, missing = throughput(urls, fast.model, items(number))
                rates[name].append(rate)
                lost += missing
    oracle = [a + b for a, b in zip(rates["fast alone"], rates["slow alone"], strict=True)]
    shares = [all_four / best for all_four, best in zip(rates["all four"], oracle, strict=True)]
    rows = [Row(name, values, "1/s") for name, values in (rates | {"oracle": oracle}).items()]
    note = f"{count} requests, {lost} lost; bar 0.90"
    rows.append(Row("all four / oracle", shares, "", note, {"lost": lost}))
    report("judge_unequal", rows)


if __name__ == "__main__":
    main()
