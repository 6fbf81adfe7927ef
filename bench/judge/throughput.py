"""exprl against other clients on an nginx that answers at once or after 50 ms.

    python bench/judge throughput [--points 0-8-256 ...] [--clients exprl aiohttp ...]

A point is delay in ms - size of a request in kB - requests in flight; requests of 64 kB come as
the eight prefixes of a rollout. Every client is a process of its own, and all take turns. Prints
requests per second, CPU seconds per 1,000 requests, latencies and peak memory; appends rows to
bench/results/.
The rivals are pinned in requirements/bench-judge.txt; nginx and wrk are Debian packages.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any

from _row import Row, report
from client import CLIENTS
from nginx import nginx

POINTS = [f"{ms}-{kb}-{flight}" for ms in (0, 50) for kb in (8, 64) for flight in (256, 1024)]
PACKAGES = ["aiohttp", "uvloop", "orjson", "pyreqwest", "httpx", "openai", "litellm"]


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(
        prog=sys.argv[0], description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--points", nargs="+", default=POINTS, metavar="MS-KB-IN_FLIGHT")
    parser.add_argument("--clients", nargs="+", default=[*CLIENTS, "wrk"])
    parser.add_argument("--seconds", type=float, default=3)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args(arguments)
    rows = []
    with nginx() as url:
        for point in options.points:
            ms, kb, in_flight = map(int, point.split("-"))
            base = f"{url}/{ms:03}/v1" if ms else f"{url}/0/v1"
            runs: dict[str, list[dict[str, Any]]] = defaultdict(list)
            for _ in range(options.repeats):
                for name in options.clients:
                    measure = wrk if name == "wrk" else client
                    runs[name].append(measure(name, base, kb, in_flight, options.seconds))
            rows += [row(point, name, results) for name, results in runs.items()]
            show(point, runs)
    report("judge_throughput", rows, PACKAGES)


def client(name: str, url: str, kb: int, in_flight: int, seconds: float) -> dict[str, Any]:
    script = Path(__file__).with_name("client.py")
    group = 8 if kb >= 64 else 1
    flags = {"url": url, "kb": kb, "group": group, "in-flight": in_flight, "seconds": seconds}
    command = [sys.executable, str(script), name]
    command += [text for flag, value in flags.items() for text in (f"--{flag}", str(value))]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{name} failed:\n{done.stderr[-2000:]}")
    result = json.loads(done.stdout.splitlines()[-1])
    count = result["requests"]
    kept = {key: result[key] for key in ("p50_ms", "p99_ms", "rss_mb", "mean_bytes")}
    rates = {"req_s": count / result["seconds"], "cpu_s_per_1k": 1000 * result["cpu_s"] / count}
    return rates | kept


def wrk(name: str, url: str, kb: int, in_flight: int, seconds: float) -> dict[str, Any]:
    """The ceiling: the same bytes again and again, and no look at the reply."""
    script = (
        'wrk.method = "POST"\nwrk.headers["content-type"] = "application/json"\n'
        f'wrk.body = string.rep("x", {kb * 1024})\n'
        "done = function(summary, latency) io.write(string.format("
        '"\\n%d %d %f %f\\n", summary.requests, summary.duration,'
        " latency:percentile(50), latency:percentile(99))) end\n"
    )
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as file:
        file.write(script)
        file.flush()
        command = ["wrk", "-t1", f"-c{in_flight}", f"-d{max(1, round(seconds))}", "-s", file.name]
        output = subprocess.run(
            [*command, f"{url}/chat/completions"], capture_output=True, text=True, check=True
        ).stdout
    count, microseconds, p50, p99 = map(float, output.splitlines()[-1].split())
    return {"req_s": 1e6 * count / microseconds, "p50_ms": p50 / 1000, "p99_ms": p99 / 1000}


def middle(results: list[dict[str, Any]], key: str) -> float:
    values = sorted(result.get(key, float("nan")) for result in results)
    return values[len(values) // 2]


def row(point: str, name: str, results: list[dict[str, Any]]) -> Row:
    extra = {key: middle(results, key) for key in results[0] if key != "req_s"}
    values = [result["req_s"] for result in results]
    return Row(f"{name} at {point}", values, unit="req/s", extra={"point": point, **extra})


def show(point: str, runs: dict[str, list[dict[str, Any]]]) -> None:
    print(f"\n{point} (ms-kB-in flight): medians of {len(next(iter(runs.values())))}")
    print(f"{'':15} {'req/s':>8} {'CPU s/1k':>9} {'p50 ms':>8} {'p99 ms':>8} {'RSS MB':>7}")
    for name, results in runs.items():
        keys = ("req_s", "cpu_s_per_1k", "p50_ms", "p99_ms", "rss_mb")
        rate, cpu, p50, p99, rss = (middle(results, key) for key in keys)
        print(f"{name:15} {rate:8.0f} {cpu:9.4f} {p50:8.1f} {p99:8.1f} {rss:7.0f}")


if __name__ == "__main__":
    sys.exit("run it as: python bench/judge throughput")
