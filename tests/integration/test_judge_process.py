"""The judge and its process: fork, Ctrl-C, exit, import."""

import os
import signal
import subprocess
import sys
import time

import pytest

from exprl.errors import JudgeError
from exprl.judge import Judge, JudgeItem, JudgeSettings, RuleJudge

ITEM = JudgeItem("0", "2)0012=", None, ("a",))
WAITING = """
from exprl.judge import Judge, JudgeItem, JudgeSettings
judge = Judge(JudgeSettings(({url!r},), "rules-division", view="outcome"))
job = judge.submit([JudgeItem("0", "2)0012=", None, ("a",))])
print("waiting", flush=True)
"""


@pytest.fixture
def slow():
    with RuleJudge("division", latency_ms=60_000) as server:
        yield server


def start(slow: RuleJudge, last_lines: str) -> subprocess.Popen[str]:
    code = WAITING.format(url=slow.url) + last_lines
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "waiting\n", process.stderr.read()
    return process


@pytest.mark.parametrize(
    "wait",
    [
        "for graded in job: pass",
        "job.result()",
        "import asyncio\nasync def main(): await job\nasyncio.run(main())",
    ],
)
def test_ctrl_c_ends_a_wait_at_once(slow, wait):
    process = start(slow, f"{wait}\n")
    time.sleep(0.5)
    sent = time.monotonic()
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=10)
    assert "KeyboardInterrupt" in errors
    # Up to the end of the process: the interpreter's own end is in it.
    assert time.monotonic() - sent < 1.0
    assert process.returncode != 0


def test_ctrl_c_reaches_a_handler_within_100_ms(slow):
    lines = """
import signal, time, os, threading
sent = []
def interrupt():
    sent.append(time.monotonic())
    os.kill(os.getpid(), signal.SIGINT)
threading.Timer(0.3, interrupt).start()
try:
    job.result()
except KeyboardInterrupt:
    print(time.monotonic() - sent[0])
"""
    process = start(slow, lines)
    output, errors = process.communicate(timeout=20)
    assert float(output) < 0.1, errors


def test_ctrl_c_ends_a_push_that_waits_for_room(slow):
    lines = """
small = Judge(
    JudgeSettings(
        (judge.settings.endpoints[0],), "rules-division", concurrency=1, queue_bytes=1
    )
)
full = small.submit()
for text in "xyz":  # the first is in flight, the second waits, and there is no room for the third
    full.push(JudgeItem(text, "p", None, (text,)))
"""
    process = start(slow, lines)
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=10)
    assert "KeyboardInterrupt" in errors


def test_the_interpreter_exits_while_requests_run(slow):
    process = start(slow, "")
    started = time.monotonic()
    _, errors = process.communicate(timeout=10)
    assert (process.returncode, errors) == (0, "")
    assert time.monotonic() - started < 5


def test_a_fork_is_refused_and_the_parent_goes_on():
    with (
        RuleJudge("division") as server,
        Judge(JudgeSettings((server.url,), server.model, view="outcome")) as judge,
    ):
        job = judge.submit()
        child = os.fork()
        if child == 0:
            refused = 0
            for use in (judge.submit, judge.stats, lambda: job.push(ITEM), lambda: next(job)):
                try:
                    use()
                except JudgeError as error:
                    refused += "fork" in str(error)
            # The garbage collector must not hang on the parent's locks and threads either.
            del judge, job, use
            os._exit(refused)
        _, status = os.waitpid(child, 0)
        assert os.waitstatus_to_exitcode(status) == 4
        job.push(ITEM)
        job.close()
        assert [graded.id for graded in job] == ["0"]


def test_a_fork_may_open_a_judge_of_its_own():
    with RuleJudge("division") as server:
        settings = JudgeSettings((server.url,), server.model, view="outcome")
        with Judge(settings) as judge:
            judge.submit([ITEM]).result()
            child = os.fork()
            if child == 0:
                with Judge(settings) as own:
                    os._exit(len(own.submit([ITEM]).result()))
            _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 1


def test_what_was_acknowledged_survives_kill_9(tmp_path):
    code = """
import sys
from exprl.judge import Judge, JudgeItem, JudgeSettings
url, ledger = sys.argv[1:]
settings = JudgeSettings(
    (url,), "rules-division", view="outcome", ledger=ledger, concurrency=4
)
items = [JudgeItem(str(i), "2)0012=", None, (f"trace {i}",)) for i in range(2000)]
for graded in Judge(settings).submit(items):
    print(graded.id, flush=True)
"""
    with RuleJudge("division", latency_ms=5) as server:
        process = subprocess.Popen(
            [sys.executable, "-c", code, server.url, str(tmp_path)],
            stdout=subprocess.PIPE,
            text=True,
        )
        acknowledged = [process.stdout.readline().strip() for _ in range(100)]
        process.kill()
        acknowledged += process.communicate()[0].split()
        sent = server.stats()["requests"]
        settings = JudgeSettings(
            (server.url,), server.model, view="outcome", ledger=str(tmp_path), concurrency=4
        )
        with Judge(settings) as judge:
            items = [JudgeItem(str(i), "2)0012=", None, (f"trace {i}",)) for i in range(2000)]
            graded = judge.submit(items).result()
            stats = judge.stats()
    kept = {g.id for g in graded if g.verdicts[0].from_cache}
    assert set(acknowledged[:-1]) <= kept
    assert len(acknowledged) < 2000
    # Only what was in flight at the kill is asked twice.
    assert stats.requests_sent + sent <= 2000 + 4
    assert stats.ledger_corrupt == 0


def test_a_full_disk_costs_no_grade_and_is_counted(tmp_path):
    code = """
import resource, sys
from exprl.judge import Judge, JudgeItem, JudgeSettings
url, ledger = sys.argv[1:]
settings = JudgeSettings((url,), "rules-division", view="outcome", ledger=ledger)
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 14, 1 << 14))
items = [JudgeItem(str(i), "2)0012=", None, (f"trace {i}",)) for i in range(300)]
with Judge(settings) as judge:
    graded = judge.submit(items).result()
    stats = judge.stats()
print(sum(g.verdicts[0].status == "ok" for g in graded), stats.ledger_replies, stats.ledger_failed)
"""
    with RuleJudge("division") as server:
        command = [sys.executable, "-c", code, server.url, str(tmp_path)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    graded, stored, failed = map(int, done.stdout.split())
    assert graded == 300 and stored > 0 and failed > 0
    assert stored + failed == 300


def test_the_import_costs_little_beyond_the_standard_library():
    code = """
import sys, time
start = time.process_time()
import dataclasses, json, typing
middle = time.process_time()
import exprl.judge
print(time.process_time() - middle, middle - start)
print(*({"asyncio", "numpy", "pydantic", "torch", "vllm"} & set(sys.modules)))
"""
    runs = [subprocess.check_output([sys.executable, "-c", code], text=True) for _ in range(5)]
    own, library = (min(float(run.split()[i]) for run in runs) for i in (0, 1))
    # On a quiet machine the library's part is ~10 ms, so both are well under 30 ms.
    assert own < library
    assert {run.splitlines()[1] for run in runs} == {""}
