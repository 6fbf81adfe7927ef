"""exprl against other clients on an nginx that answers at once or after 50 ms.

    python bench/judge throughput [--points 0-8-256 ...] [--clients exprl aiohttp ...]

A point is delay in ms - size of a request in kB - requests in flight; requests of 64 kB come as
the eight prefixes of a rollout. Every client is a process of its own, and all take turns. Prints
requests per second, CPU seconds per 1,000 requests, latencies and peak memory; appends rows to
bench/results/.
`exprl` is the Python API, `exprl-judge` the program, from a file of JSON lines to another one:
build it with `cargo build --release -p exprl-judge-cli`.
The rivals are pinned in requirements/bench-judge.txt; nginx and wrk are Debian packages.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import math
import os
import resource
import shlex
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

from _row import Row, report
from client import CLIENTS, peak_rss_mb
from nginx import nginx
from workload import rollouts

PROGRAM = Path(__file__).parents[2] / "target/release/exprl-judge"
POINTS = [f"{ms}-{kb}-{flight}" for ms in (0, 50) for kb in (8, 64) for flight in (256, 1024)]
PACKAGES = ["aiohttp", "uvloop", "orjson", "pyreqwest", "httpx", "openai", "litellm"]


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(
        prog=sys.argv[0], description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--points", nargs="+", default=POINTS, metavar="MS-KB-IN_FLIGHT")
    parser.add_argument("--clients", nargs="+", default=[*CLIENTS, *OTHERS])
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
                    measure = OTHERS.get(name, client)
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


def program(name: str, url: str, kb: int, in_flight: int, seconds: float) -> dict[str, Any]:
    """`exprl-judge score`: it also reads and checks its input twice, and writes every reply."""
    group = 8 if kb >= 64 else 1
    rate = in_flight / 0.055 if "/050/" in url else 12_000
    count = round(seconds * rate / group)
    with tempfile.TemporaryDirectory() as folder:
        source, output = Path(folder) / "in.jsonl", Path(folder) / "out.jsonl"
        with source.open("w") as file:
            for rollout in itertools.islice(rollouts(kb, group, math.inf), count):
                trace = "###".join(rollout.segments)
                fields = {"id": rollout.name, "problem": rollout.problem}
                fields |= {"reference": rollout.reference, "trace": trace}
                file.write(json.dumps(fields) + "\n")
        command = [str(PROGRAM), "score", "--endpoint", url, "--model", "canned"]
        command += ["--concurrency", str(in_flight), "--out", str(output), str(source)]
        command += ["--view", "prefix" if group > 1 else "outcome"]
        start = time.perf_counter()
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        status, used, peak = watch(process.pid)
        elapsed = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise SystemExit(f"{shlex.join(command)} ended with {process.returncode}")
        lines = [json.loads(line) for line in output.read_text().splitlines()]
        parts = [part for line in lines for part in line.get("segments", [line])]
    if any(part["status"] != "ok" for part in parts):
        raise SystemExit(f"{name} left requests without a grade")
    latencies = sorted(line["latency_s"] for line in lines)
    return {
        "req_s": len(parts) / elapsed,
        "cpu_s_per_1k": 1000 * (used.ru_utime + used.ru_stime) / len(parts),
        "p50_ms": 1000 * latencies[len(latencies) // 2],
        "p99_ms": 1000 * latencies[len(latencies) * 99 // 100],
        "rss_mb": peak,
    }


def watch(pid: int) -> tuple[int, resource.struct_rusage, float]:
    """Wait for a child: its status, what it used, and its peak memory in MB.

    The kernel's own peak of a child (`ru_maxrss`) is never below its parent's at the start.
    """
    peak = 0.0
    while True:
        with contextlib.suppress(FileNotFoundError, IndexError):
            peak = max(peak, peak_rss_mb(pid))
        done, status, used = os.wait4(pid, os.WNOHANG)
        if done:
            return status, used, peak
        time.sleep(0.01)


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


OTHERS = {"exprl-judge": program, "wrk": wrk}


if __name__ == "__main__":
    sys.exit("run it as: python bench/judge throughput")
