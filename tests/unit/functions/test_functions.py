"""The user's functions run in processes of their own; what fails is one value, never the run."""

import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from exprl import config
from exprl.errors import ConfigError, FunctionError
from exprl.functions.pool import Functions

VALUES = {
    "text": "t",
    "answer": "a",
    "more_answers": (),
    "question": "q",
    "setup": "",
    "domain": "d",
    "problem_id": "p",
}


def ask(function, **values):
    return function.call(VALUES | values, lambda value: value)


def ask_many(function, values):
    with ThreadPoolExecutor(len(values)) as threads:
        return list(threads.map(lambda text: ask(function, text=text), values))


def test_a_function_gets_what_its_parameters_name_and_nothing_else(own):
    function = own(
        """
        def f(answer, text, domain="x", *, other=7, **more):
            return [answer, text, domain, other, list(more)]
        """,
        "f",
    )
    assert ask(function, text="né\x00\u202e", answer="1") == ["1", "né\x00\u202e", "d", 7, []]
    assert not function.asks_for("question")


@pytest.mark.parametrize(
    ("source", "name", "wrong"),
    [
        (
            "import nothing_of_this_name",
            "f",
            "ModuleNotFoundError: No module named 'nothing_of_this_name'",
        ),
        ("1 / 0", "f", "ZeroDivisionError: division by zero .*rewards_of_a_user.py, line 1"),
        ("import os; os._exit(3)", "f", "its process ended with the exit code 3 while it imported"),
        ("def g(text): ...", "f", "has no attribute 'f'"),
        ("f = 3", "f", "f is no function but of type int"),
        ("class f: ...", "f", "f is no function but of type type"),
        (
            "def f(text, completions): ...",
            "f",
            "a verifier has no parameter 'completions'; it may take text, answer,",
        ),
        ("def f(text, reference): ...", "f", "a verifier has no parameter 'reference'"),
        ("def f(answer): ...", "f", "needs the parameter `text`"),
        ("def f(text, /): ...", "f", "positional-only"),
    ],
)
def test_a_function_that_cannot_be_called_is_refused_before_the_run(own, source, name, wrong):
    with pytest.raises(ConfigError, match=wrong):
        own(source, name)


def test_a_module_that_is_not_there_is_refused():
    functions = Functions(config.Functions())
    with pytest.raises(ConfigError, match="No module named 'elsewhere'"):
        functions.open(config.FunctionName("elsewhere:f"), "verifier")


def test_an_exception_is_a_missing_value_with_type_text_and_place(own):
    function = own("def f(text):\n    return text if text == 'a' else {}[text]", "f")
    with pytest.raises(
        FunctionError,
        match=r"rewards_of_a_user:f: KeyError: 'b' \(.*rewards_of_a_user.py, line 2\)",
    ):
        ask(function, text="b")
    assert ask(function, text="a") == "a"


def test_a_call_that_hangs_is_ended_with_all_that_it_started_and_the_next_one_answered(
    own, tmp_path
):
    function = own(
        """
        import re, subprocess
        def f(text):
            if text == "a":
                return "a"
            child = subprocess.Popen(["sleep", "600"])
            open("pid", "w").write(str(child.pid))
            re.match(r"(a+)+$", "a" * 60 + "b")  # holds Python's lock for ever
        """,
        "f",
        timeout_s=1.5,
        processes=1,
    )
    with pytest.raises(FunctionError, match=r"took longer than functions\.timeout_s = 1\.5 s"):
        ask(function, text="hang")
    assert ask(function, text="a") == "a"
    assert is_gone(int((tmp_path / "pid").read_text()))
    counts = function._counts
    assert (counts["calls"], counts["late"], counts["failed"], counts["restarts"]) == (2, 1, 0, 1)


def is_gone(pid):
    """Whether a process has ended, or is dead and waits to be buried."""
    for _ in range(100):
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except FileNotFoundError:
            return True
        if state == "Z":
            return True
        time.sleep(0.05)
    return False


def test_a_process_that_dies_is_asked_once_more_and_then_the_value_is_missing(own, tmp_path):
    function = own(
        """
        import os, pathlib
        def f(text):
            times = pathlib.Path(text)
            if not times.exists():
                times.write_text("")
                os._exit(9)
            if text == "always":
                os.abort()
            return text
        """,
        "f",
    )
    assert ask(function, text="once") == "once"
    with pytest.raises(FunctionError, match="its process was killed by signal 6"):
        ask(function, text="always")


def test_a_hung_function_ends_with_a_process_that_is_killed(own, tmp_path):
    source = "import os, re\ndef f(text):\n    open('pid', 'w').write(str(os.getpid()))\n"
    own(source + "    re.match(r'(a+)+$', 'a' * 60 + 'b')", "f")
    script = """
from exprl import config
from exprl.functions.pool import Functions
name = config.FunctionName("rewards_of_a_user:f")
Functions(config.Functions()).open(name, "step rule").call({"text": ""}, lambda value: value)
"""
    trainer = subprocess.Popen([sys.executable, "-c", script])
    pid = tmp_path / "pid"
    for _ in range(600):
        if pid.exists() and pid.read_text():
            break
        time.sleep(0.1)
    trainer.kill()
    trainer.wait()
    assert is_gone(int(pid.read_text()))


def test_what_a_function_prints_and_reads_does_not_mix_with_its_answers(own):
    function = own(
        """
        import os, sys
        print("at import")
        def f(text):
            print('{"id": 0, "value": "forged"}')
            os.write(1, b'{"id": 1, "value": "forged"}\\n')
            return [text, sys.stdin.read()]
        """,
        "f",
    )
    assert [ask(function, text=x) for x in "ab"] == [["a", ""], ["b", ""]]


def test_plain_functions_run_in_as_many_processes_as_are_set(own):
    function = own(
        "import os, time\ndef f(text):\n    time.sleep(0.2)\n    return os.getpid()",
        "f",
        processes=2,
    )
    assert len(set(ask_many(function, ["a"] * 6))) == 2


def test_calls_of_an_async_function_are_in_flight_at_the_same_time(own):
    function = own(
        """
        import asyncio
        there = 0
        all_there = asyncio.Event()
        async def f(text):
            global there
            there += 1
            if there == 8:
                all_there.set()
            await all_there.wait()
            return text
        """,
        "f",
        in_flight=8,
        timeout_s=60,
    )
    assert ask_many(function, list("abcdefgh")) == list("abcdefgh")


def test_a_late_call_of_an_async_function_does_not_end_the_others(own):
    function = own(
        """
        import asyncio, os
        async def f(text):
            if text == "late":
                await asyncio.sleep(600)
            return os.getpid()
        """,
        "f",
        timeout_s=0.5,
    )
    before = ask(function)
    with pytest.raises(FunctionError, match="took longer"):
        ask(function, text="late")
    assert ask(function) == before


def test_a_blocked_async_function_is_ended_and_the_others_are_asked_again(own, monkeypatch):
    monkeypatch.setattr("exprl.functions.process.GRACE_S", 0.5)
    function = own(
        """
        import asyncio, time
        async def f(text):
            if text == "block":
                time.sleep(600)
            await asyncio.sleep(0.3)
            return text
        """,
        "f",
        timeout_s=1.0,
    )
    with ThreadPoolExecutor(2) as threads:
        other = threads.submit(ask, function, text="a")
        time.sleep(0.1)
        blocked = threads.submit(ask, function, text="block")
        assert isinstance(blocked.exception(), FunctionError)
        assert other.result() == "a"


BATCH = """
    import os, time
    def f(texts, answers):
        time.sleep(0.3)
        if "bad" in texts:
            raise ValueError("bad")
        return [f"{t}{len(texts)}" for t, a in zip(texts, answers, strict=True)]
"""


def test_a_function_of_texts_gets_what_waits_as_one_batch_of_at_most_the_size_that_is_set(own):
    function = own(BATCH, "f", processes=1, batch=4)
    first = threading.Thread(target=ask, args=(function,))
    first.start()
    time.sleep(0.1)
    found = ask_many(function, list("abcdefgh"))
    first.join()
    assert sorted(x[0] for x in found) == list("abcdefgh")
    assert {x[1:] for x in found} == {"4"}


def test_one_bad_rollout_of_a_batch_spoils_no_other(own):
    function = own(BATCH, "f", processes=1)
    with ThreadPoolExecutor(4) as threads:
        futures = [threads.submit(ask, function, text=x) for x in ("a", "bad", "b", "c")]
    errors = [str(f.exception()) for f in futures if f.exception()]
    assert len(errors) == 1 and "ValueError: bad" in errors[0]
    assert sorted(f.result()[0] for f in futures if not f.exception()) == ["a", "b", "c"]


def test_a_batch_needs_a_value_for_each_text(own):
    function = own("def f(texts): return [1, 2, 3]", "f")
    with pytest.raises(FunctionError, match="returned 3 values for 1 texts"):
        ask(function)


@pytest.mark.parametrize(
    ("source", "value"),
    [
        ("import numpy as np\ndef f(text): return np.float32(0.5)", 0.5),
        ("import numpy as np\ndef f(text): return np.arange(2) > 0", [False, True]),
        ("def f(text): return (1, None)", [1, None]),
        ("import functools\n@functools.cache\ndef f(text): return 1", 1),
        ("async def g(): return 3\ndef f(text): return g()", 3),
    ],
)
def test_numbers_of_numpy_and_tuples_are_read_as_plain_ones(own, source, value):
    assert ask(own(source, "f")) == value


def test_what_is_no_number_text_or_list_is_refused_by_its_type(own):
    with pytest.raises(FunctionError, match="it returned dict, and not a number, a text or a list"):
        ask(own("def f(text): return {}", "f"))


def test_the_process_of_a_function_ends_with_the_run(own):
    function = own("import os\ndef f(text): return os.getpid()", "f")
    pid = ask(function)
    os.kill(pid, 0)
    function.close()
    assert is_gone(pid)
