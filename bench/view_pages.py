"""Times and memory of `exprl view` over a run, as a browser meets them.

    python bench/view_pages.py RUN

It starts `exprl view` and asks for pages over HTTP. The first ones are cold: a thread reads the
steps meanwhile, as for a reader who does not wait. Once all steps are read, it asks for each kind
of page, for steps that lie far apart. The last row is the largest memory of the process.
"""

from __future__ import annotations

import argparse
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from _row import Row, report

from exprl.monitor.rollout_reader import Rollouts

REPEATS = 9
LEFT = re.compile(r"Read \d+ of \d+ steps so far")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    run_dir = parser.parse_args().run
    rollouts = Rollouts(run_dir)
    steps = rollouts.steps()
    group = len(rollouts.table(steps[0], ("problem_id",)))
    note = f"{len(steps)} steps x {group} rollouts"
    with open_viewer(run_dir) as (url, pid, started):
        rows = [Row("start of the viewer", [started], note=note), *ask_all(url, steps, group)]
        rows.append(Row("memory", [read_memory(pid)], "MB", "the largest of the process"))
    report("view", rows, ("pyarrow", "starlette", "uvicorn", "jinja2"))


@contextmanager
def open_viewer(run_dir: Path) -> Iterator[tuple[str, int, float]]:
    """The URL and the process id of a viewer, and the seconds until it answers."""
    start = time.perf_counter()
    viewer = subprocess.Popen(
        [sys.executable, "-m", "exprl", "view", str(run_dir), "--port", "0"],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert viewer.stdout is not None
        said = viewer.stdout.readline()
        found = re.search(r"http://\S+", said)
        if found is None:
            raise SystemExit(f"exprl view said {said!r}")
        yield found[0], viewer.pid, time.perf_counter() - start
    finally:
        viewer.send_signal(signal.SIGINT)
        viewer.wait()


def ask_all(url: str, steps: list[int], rollouts: int) -> Iterator[Row]:
    """A row for each kind of page. rollouts: of a step."""
    chosen = [steps[i * len(steps) // REPEATS] for i in range(REPEATS)]

    def ask_each(name: str, address: str, note: str = "") -> Row:
        return Row(name, [ask(url + address.format(step))[0] for step in chosen], note=note)

    yield Row("first page", [ask(url)[0]], note="the newest step, as soon as it answers")
    rollout = f"rollout?step={{}}&row={rollouts // 2}"
    yield ask_each("rollout, nothing read before", rollout)
    start = time.perf_counter()
    while LEFT.search(ask(f"{url}problems")[1]):
        time.sleep(0.5)
    yield Row("all steps are read", [time.perf_counter() - start], note="after the rows above")
    yield ask_each("step", "?step={}")
    yield ask_each("rollout", rollout)
    yield ask_each("rollout, log-prob of tokens", f"{rollout}&colour=logp")
    pages = [ask(f"{url}{rollout.format(step)}&words=1") for step in chosen]
    told = sum(page.count("<h3>The judge") for _, page in pages)
    lost = sum(page.count("No words:") for _, page in pages)
    note = f"{told} replies, {lost} not found"
    yield Row("rollout with all the judge's words", [s for s, _ in pages], note=note)
    groups = [
        re.findall(r'href="(group[^"]+)"', ask(f"{url}?step={step}")[1])[0].replace("&amp;", "&")
        for step in chosen
    ]
    yield Row("group", [ask(url + address)[0] for address in groups])
    for name, address in (
        ("filter over all steps", "rollouts?pick=wrong_but_5"),
        ("sorted over all steps", "rollouts?pick=largest_advantage"),
        ("all problems", "problems"),
    ):
        yield ask_each(name, address)


def ask(address: str) -> tuple[float, str]:
    """Seconds until all of a page is there, and the page."""
    start = time.perf_counter()
    with urllib.request.urlopen(address) as answer:
        page = answer.read().decode()
    return time.perf_counter() - start, page


def read_memory(pid: int) -> float:
    """The largest memory of a process so far, in MB."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(re.findall(r"VmHWM:\s+(\d+)", status)[0]) / 1024


if __name__ == "__main__":
    main()
