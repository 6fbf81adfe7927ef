"""Processes that compare answers: one for each thread that asks, and no verdict of a dead one."""

import fcntl
import os
import signal
import struct
import subprocess
import sys
import termios
import threading
import time
from pathlib import Path

import pytest

from exprl import config
from exprl.errors import VerifierError
from exprl.types import Problem, Prompt
from exprl.verify import math
from exprl.verify.verifiers import Verifiers


@pytest.fixture(autouse=True)
def fresh():
    """No answers are known and no process runs, before and after."""
    math.equal.cache_clear()
    math.close()
    yield
    math.close()


def idle():
    """The processes that nobody is asking."""
    return [one._process for one in math._pool(os.getpid())._idle]


class Asked(threading.Thread):
    """Asks on a thread of its own; its process is stopped while the question waits in the pipe."""

    def __init__(self, candidate, answer):
        super().__init__()
        self.question, self.verdict = (candidate, answer), None
        [self.process] = idle()
        self.process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, self.process.pid, os.WSTOPPED | os.WNOWAIT)  # it stops a little later
        self.start()
        while not waiting(self.process.stdin):
            time.sleep(0.001)

    def run(self):
        try:
            self.verdict = math.equal(*self.question)
        except VerifierError as error:
            self.verdict = error


def waiting(pipe):
    """Bytes in a pipe that nobody has read."""
    return struct.unpack("i", fcntl.ioctl(pipe, termios.FIONREAD, b"\0" * 4))[0]


def test_there_is_no_process_before_the_first_question_and_one_for_questions_in_turn():
    assert idle() == []
    assert math.equal(r"\boxed{\frac{14}{2}}", "7")
    [process] = idle()
    assert not math.equal(r"\boxed{\frac{15}{2}}", "7")
    assert idle() == [process]


def test_a_question_does_not_wait_for_one_that_takes_long():
    assert math.equal(r"\boxed{\frac{14}{2}}", "7")
    slow = Asked(r"\boxed{\frac{16}{2}}", "8")
    assert math.equal(r"\boxed{\frac{18}{2}}", "9")
    assert slow.is_alive()
    slow.process.send_signal(signal.SIGCONT)
    slow.join()
    assert slow.verdict is True
    assert len(idle()) == 2


def test_as_many_processes_compare_as_threads_ask():
    """Three questions hang; a fourth is answered by a process of its own, and so are 60 more."""
    hang = []
    for number in range(3):
        assert math.equal(rf"\boxed{{\frac{{{2 * number + 2}}}{{2}}}}", str(number + 1))
        hang.append(Asked(rf"\boxed{{\frac{{{6 * number + 30}}}{{6}}}}", str(number + 5)))
    for number in range(60):
        assert math.equal(rf"\boxed{{\frac{{{4 * number + 80}}}{{4}}}}", str(number + 20))
    assert all(one.is_alive() for one in hang)
    [answering] = idle()
    assert len({one.process.pid for one in hang} | {answering.pid}) == 4
    for one in hang:
        one.process.send_signal(signal.SIGCONT)
        one.join()
    assert [one.verdict for one in hang] == [True] * 3


def test_a_question_whose_process_is_killed_is_asked_again():
    assert math.equal(r"\boxed{\frac{14}{2}}", "7")
    asked = Asked(r"\boxed{\frac{16}{2}}", "8")
    asked.process.kill()
    asked.join()
    assert asked.verdict is True
    assert idle() != [asked.process]


def test_a_process_that_was_killed_between_two_questions_is_replaced():
    assert math.equal(r"\boxed{\frac{14}{2}}", "7")
    [process] = idle()
    process.kill()
    process.wait()
    assert math.equal(r"\boxed{\frac{16}{2}}", "8")


def test_a_verdict_that_is_killed_each_time_is_missing_and_not_wrong(monkeypatch):
    monkeypatch.setattr(math, "TRIES", 1)
    assert math.equal(r"\boxed{\frac{14}{2}}", "7")
    asked = Asked(r"\boxed{\frac{16}{2}}", "8")
    asked.process.kill()
    asked.join()
    assert isinstance(asked.verdict, VerifierError)
    assert math.equal(r"\boxed{\frac{16}{2}}", "8"), "nothing of it is remembered"


def test_the_verifier_of_a_row_calls_such_a_verdict_unknown(monkeypatch):
    def killed(candidate, answer):
        raise VerifierError("the math-verify process was killed 3 times")

    monkeypatch.setattr(math, "equal", killed)
    cfg = config.build({"model": {"path": "m"}, "data": {"path": "d"}, "judge": {"kind": "rules"}})
    for domain in ("math", "science"):
        row = Problem("p", Prompt("p", ()), r"\pi", domain)
        assert Verifiers(cfg.treatment).is_correct(r"\boxed{\frac{2\pi}{2}}", row) is None


def test_a_comparison_without_an_end_is_cut_and_not_equal(monkeypatch):
    monkeypatch.setattr(math, "WALL_LIMIT_S", 0.1)
    assert not math.equal(r"\boxed{9^{9^{9^9}}}", "7")
    assert idle() == [None]


def test_closing_ends_the_processes_and_the_next_question_starts_one():
    assert math.equal(r"\boxed{\frac{14}{2}}", "7")
    [process] = idle()
    Verifiers(
        config.build(
            {"model": {"path": "m"}, "data": {"path": "d"}, "judge": {"kind": "rules"}}
        ).treatment
    ).close()
    assert process.poll() is not None
    assert math.equal(r"\boxed{\frac{16}{2}}", "8")


def test_a_process_ends_with_its_parent():
    program = (
        "import os; from exprl.verify import math;"
        r"assert math.equal(r'\boxed{1/2}', '0.5');"
        "print(math._pool(os.getpid())._idle[0]._process.pid, flush=True);"
        "os.kill(os.getpid(), 9)"
    )
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    pid = int(done.stdout)
    deadline = time.monotonic() + 30
    while Path(f"/proc/{pid}").exists() and time.monotonic() < deadline:
        if Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z":
            break
        time.sleep(0.05)
    else:
        assert not Path(f"/proc/{pid}").exists()
