"""How fast a busy main thread stays while exprl grades about 3,000 requests/s behind it.

    python bench/judge busy [--seconds S] [--repeats N]

The main thread counts in pure Python, alone and with a job of 8 kB requests running, in turns;
nginx answers after 50 ms, and 160 requests in flight make the rate. Items are pushed before the
clock starts. Bar: at least 80 % of the speed alone.
docs/project/benchmarks.md has what was seen.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from itertools import islice

from _row import Row, report
from nginx import nginx
from workload import rollouts

from exprl.judge import Judge, JudgeItem, JudgeSettings

IN_FLIGHT = 160
MOST_PER_SECOND = IN_FLIGHT / 0.05


def count(seconds: float) -> float:
    """Turns of a pure-Python loop per second."""
    turns, start = 0, time.perf_counter()
    while time.perf_counter() - start < seconds:
        for _ in range(1000):
            turns += 1
    return turns / (time.perf_counter() - start)


def count_while_grading(
    url: str, items: Sequence[JudgeItem], seconds: float
) -> tuple[float, float]:
    """Turns per second, and requests that exprl sent per second meanwhile."""
    settings = JudgeSettings(
        (url,), "canned", view="outcome", concurrency=IN_FLIGHT, queue_bytes=1 << 30
    )
    with Judge(settings) as judge:
        job = judge.submit(items)
        before, start = judge.stats().requests_sent, time.perf_counter()
        turns = count(seconds)
        sent, taken = judge.stats().requests_sent - before, time.perf_counter() - start
        if judge.stats().requests_sent >= len(items):
            raise SystemExit("the job ended before the loop did: nothing was measured")
        job.cancel()
    return turns, sent / taken


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser("busy", description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=2, help="of each turn")
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args(arguments)
    # What leaves while items are pushed is extra: a second's worth, and one more.
    work = islice(rollouts(8, 1, 3600), int(MOST_PER_SECOND * (options.seconds + 2)))
    items = [JudgeItem(r.name, r.problem, r.reference, r.segments) for r in work]
    alone, grading, rates = [], [], []
    with nginx() as url:
        for _ in range(options.repeats):
            alone.append(count(options.seconds))
            turns, rate = count_while_grading(f"{url}/050/v1", items, options.seconds)
            grading.append(turns)
            rates.append(rate)
    shares = [with_job / by_itself for with_job, by_itself in zip(grading, alone, strict=True)]
    rows = [
        Row("loop alone", alone, "turns/s"),
        Row("loop while grading", grading, "turns/s"),
        Row("requests meanwhile", rates, "req/s"),
        Row("share of the speed alone", shares, "", "bar 0.80"),
    ]
    report("judge_busy", rows)


if __name__ == "__main__":
    main()
