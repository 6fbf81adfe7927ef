"""The sandbox: hostile programs end within their limits and hurt nothing; no pass can be faked."""

import copy
import gzip
import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
import venv
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from exprl import config
from exprl.errors import ConfigError, SandboxError
from exprl.verify.sandbox import exchange
from exprl.verify.sandbox.sandbox import Sandbox

LIMITS = {"timeout_s": 30.0, "cpu_s": 1, "memory_mb": 128, "disk_mb": 4, "processes": 8}
SHORT_S = 2.0
TESTS = "def check(f):\n    assert f(2) == 3\n    assert f(5) == 6\n\ncheck(f)\n"
RIGHT = "def f(x):\n    return x + 1\n"


@pytest.fixture(scope="module")
def sandbox(confined):
    return confined(**LIMITS)


@pytest.fixture(scope="module")
def hurried(sandbox):
    """The same, with less time: for programs that would take all of it."""
    sandbox = copy.copy(sandbox)
    sandbox.settings = sandbox.settings.model_copy(update={"timeout_s": SHORT_S})
    return sandbox


HOSTILE = {
    "fork bomb": """
        import os
        while True:
            try:
                os.fork()
            except OSError:
                pass
    """,
    "thread bomb": """
        import threading, time
        while True:
            threading.Thread(target=time.sleep, args=(60,)).start()
    """,
    "memory": "x = []\nwhile True:\n    x.append(bytearray(1 << 20))",
    "memory of many processes": """
        import os, time
        for _ in range(4):
            if os.fork() == 0:
                x = bytearray(b'x' * (50 << 20))
                time.sleep(60)
        time.sleep(60)
    """,
    "disk": """
        i = 0
        while True:
            with open(f'{i}', 'wb') as file:
                file.write(b'x' * (1 << 20))
            i += 1
    """,
    "inodes": "i = 0\nwhile True:\n    open(f'{i}', 'w').close()\n    i += 1",
    "endless loop": "while True: pass",
    "sleep": "import time\ntime.sleep(1000)",
    "ignores signals": """
        import signal, time
        for number in range(1, 65):
            try:
                signal.signal(number, signal.SIG_IGN)
            except (OSError, ValueError):
                pass
        while True:
            time.sleep(1)
    """,
    "kills everything": "import os\nos.kill(-1, 9)",
    "kills its parents": """
        import os
        for pid in [os.getppid(), TRAINER, *range(1, 400)]:
            if pid != os.getpid():
                try:
                    os.kill(pid, 9)
                except OSError:
                    pass
    """,
    "flood": "while True:\n    print('x' * 100_000)",
    "flood of errors": "import sys\nwhile True:\n    sys.stderr.write('x' * 100_000)",
    "daemon": """
        import os, time
        if os.fork() == 0:
            os.setsid()
            if os.fork() == 0:
                time.sleep(60)
            os._exit(0)
    """,
    "recursion": "import sys\nsys.setrecursionlimit(10**9)\nf = lambda: f()\nf()",
    "crash": "import ctypes\nctypes.string_at(0)",
    "reads input": "import sys\nsys.stdin.read()\ninput()",
    "exits": "import os\nos._exit(0)",
    "stops itself": "import os, signal\nos.kill(os.getpid(), signal.SIGSTOP)",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_program_ends_within_its_limits_and_passes_no_tests(hurried, name):
    program = textwrap.dedent(HOSTILE[name]).replace("TRAINER", str(os.getpid()))
    start = time.monotonic()
    ended = hurried.run(program)
    assert time.monotonic() - start < SHORT_S + 20  # a busy machine starts a jail late
    assert not ended.survived, ended
    assert len(ended.stdout) + len(ended.stderr) <= 2 * hurried.settings.output_kb << 10
    assert hurried.test(program, TESTS).verdict == "failed"


STOPPED = {
    "memory of many processes": ("memory", None),
    "endless loop": ("signal", -signal.SIGXCPU),
    "sleep": ("time", None),
    "flood": ("output", None),
    "daemon": ("exit", 0),
    "reads input": ("exit", 1),
}


@pytest.mark.parametrize("name", STOPPED)
def test_how_a_program_ended_is_told(sandbox, hurried, name):
    ended = (hurried if name == "sleep" else sandbox).run(textwrap.dedent(HOSTILE[name]))
    assert (ended.status, ended.code) == STOPPED[name]


def commands(marker: str) -> list[str]:
    """Processes of this machine with a marker in their command line."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            text = (folder / "cmdline").read_text()
        except OSError:
            continue
        if marker in text:
            found.append(text)
    return found


LEAVES_A_DAEMON = """
import os, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        for descriptor in range(64):
            try:
                os.close(descriptor)
            except OSError:
                pass
        os.execv("/usr/bin/sleep", ["sleep", "MARKER"])
    os._exit(0)
os.wait()
print("left", flush=True)
"""


def test_a_daemon_dies_with_its_program(sandbox):
    marker = f"600.{time.time_ns()}"
    ended = sandbox.run(LEAVES_A_DAEMON.replace("MARKER", marker))
    assert ended.stdout == "left\n"
    assert commands(marker) == []


def test_a_killed_trainer_leaves_no_program_behind(sandbox):
    marker = f"600.{time.time_ns()}"
    program = f"import os\nos.execv('/usr/bin/sleep', ['sleep', '{marker}'])"
    script = (
        "from exprl.verify.sandbox.sandbox import Sandbox; from exprl import config\n"
        f"Sandbox(config.Sandbox(timeout_s=60)).run({program!r})"
    )
    trainer = subprocess.Popen([sys.executable, "-c", script])
    try:
        wait_for(lambda: any(c.startswith("sleep") for c in commands(marker)))
    finally:
        trainer.kill()
        trainer.wait()
    wait_for(lambda: commands(marker) == [])


def wait_for(condition, limit_s=30.0):
    ends = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < ends
        time.sleep(0.02)


def test_a_program_sees_neither_files_nor_environment_nor_network(sandbox, tmp_path, monkeypatch):
    monkeypatch.setenv("SOME_API_KEY", "sk-secret")
    secret = tmp_path / "secret.txt"
    secret.write_text("sk-secret")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0.1)
        program = f"""
            import os, socket
            found = dict(os.environ)
            for path in ({str(secret)!r}, "/etc/passwd", "/etc/hostname", "/proc/self/environ",
                         "/proc/1/environ", "/proc/{os.getpid()}/environ", {str(Path.cwd())!r}):
                try:
                    found[path] = open(path).read()
                except OSError:
                    pass
            os.symlink({str(tmp_path)!r}, "link")
            for path in ("link/escaped", "../escaped", "/escaped", "/usr/escaped", "/etc/escaped",
                         "/box/../usr/lib/escaped", {str(tmp_path / "escaped")!r}):
                try:
                    open(path, "w").close()
                    found[path] = "written"
                except OSError:
                    pass
            try:
                socket.create_connection(("127.0.0.1", {listener.getsockname()[1]}), 1)
                found["network"] = "reached"
            except OSError:
                pass
            print(sorted(found.items()))
        """
        ended = sandbox.run(textwrap.dedent(program))
        with pytest.raises(TimeoutError):
            listener.accept()
    assert ended.code == 0, ended.stderr
    assert "sk-secret" not in ended.stdout
    own = {"PATH", "HOME", "TMPDIR", "LANG", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"}
    own |= {"MKL_NUM_THREADS", "LC_CTYPE", "/escaped", "../escaped"}  # its own root, in memory
    assert {name for name, _ in eval(ended.stdout)} <= own
    assert sorted(path.name for path in tmp_path.iterdir()) == ["secret.txt"]


FAKES = {
    "ends early": "import sys\nsys.exit(0)",
    "ends with the code of a pass": f"import os\nos._exit({exchange.PASSED})",
    "ends at the first call": f"import os\ndef f(x):\n    os._exit({exchange.PASSED})",
    "equals everything": """
        class Yes:
            def yes(self, *_): return True
            __eq__ = __lt__ = __gt__ = __le__ = __ge__ = __contains__ = __bool__ = yes
            def zero(self, *_): return 0
            __sub__ = __rsub__ = __abs__ = __ne__ = __float__ = __index__ = __hash__ = zero
        def f(x): return Yes()
    """,
    "an int that equals everything": """
        class Yes(int):
            def __eq__(self, other): return True
            def __sub__(self, other): return 0
            __rsub__ = __sub__
            __hash__ = int.__hash__
        def f(x): return Yes(7)
    """,
    "helpers of its own": """
        def abs(x): return 0
        def all(x): return True
        def len(x): return 0
        def check(f): pass
        def f(x): return 0
    """,
    "patched builtins": """
        import builtins, unittest
        builtins.abs = lambda x: 0
        builtins.AssertionError = type("Quiet", (Exception,), {})
        unittest.TestCase.run = lambda *_: None
        def f(x): return 0
    """,
    "ends the loops of the tests": "def f(x):\n    raise StopIteration",
    "writes a verdict everywhere": """
        import os, json
        for descriptor in range(64):
            for line in ({"exit": 40}, ["returned", True, []], {"held": []}):
                try:
                    os.write(descriptor, json.dumps(line).encode() + b"\\n")
                except OSError:
                    pass
        def f(x): return 0
    """,
    "nests without end": """
        import os
        for descriptor in range(3, 64):
            try:
                os.write(descriptor, b"[" * 60000 + b"\\n")
            except OSError:
                pass
        def f(x): return 0
    """,
    "looks for the tests": """
        import gc, os, sys
        def f(x):
            places = [os.path.join(a, n) for a, _, names in os.walk("/box") for n in names]
            places += ["tests.py", "../tests.py", "/proc/self/mem", "/proc/1/root/box/tests.py"]
            text = ""
            for place in places:
                try:
                    text += open(place, errors="replace").read()
                except OSError:
                    pass
            frame, names = sys._getframe(), ""
            while frame:
                names += repr(frame.f_globals.keys()) + repr(frame.f_locals)
                frame = frame.f_back
            return x + 1 if "f(" + "5)" in text + names else 0
    """,
}
STYLES = {
    "equality": TESTS,
    "reversed": "for x in (2, 5):\n    assert x + 1 == f(x)\n",
    "closeness": "assert abs(f(2) - 3) < 1e-6 and abs(6 - f(5)) < 1e-6\n",
    "membership": "assert f(2) in [3] and f(5) in (6,)\nassert 3 in [f(2)]\n",
    "map": "assert list(map(f, [2, 5])) == [3, 6]\n",
    "zip": "assert all(a == b for a, b in zip([3, 6], map(f, [2, 5]), strict=True))\n",
    "unittest": "import unittest\nclass T(unittest.TestCase):\n"
    "    def test(self):\n        self.assertEqual(f(2), 3)\n"
    "        self.assertAlmostEqual(f(5), 6)\n",
    "pytest": "def test_f():\n    assert f(2) == 3\n    assert f(5) == 6\n",
    "an exit code": "try:\n    assert f(2) == 3\nexcept Exception:\n    raise SystemExit(1)\n",
}


@pytest.mark.parametrize("fake", FAKES)
def test_no_pass_can_be_faked(sandbox, fake):
    program = textwrap.dedent(FAKES[fake])
    for style, tests in STYLES.items():
        assert sandbox.test(program, tests).verdict == "failed", style


@pytest.mark.parametrize("style", STYLES)
def test_a_right_program_passes_whatever_the_style_of_its_tests(sandbox, style):
    assert sandbox.test(RIGHT, STYLES[style]).verdict == "passed"


ORDINARY = {
    "in place": (
        "def f(x, d, s):\n    x.sort(); d['k'] = 1; s.add(9)",
        "a, d, s = [3, 1], {}, {1}\nassert f(a, d, s) is None\n"
        "assert (a, d, s) == ([1, 3], {'k': 1}, {1, 9})",
    ),
    "kinds of values": (
        "def f(x): return x",
        "import math\nfrom fractions import Fraction\nfrom decimal import Decimal\n"
        "for x in (None, True, 1, -10**5000, 0.1, -0.0, 1e400, 'ü\\ud800', b'\\x00', (1, (2,)),"
        " [1, [2]], {1: {2}}, frozenset({3}), {(1, 2): [3]}, 1j, range(3), Fraction(1, 3),"
        " Decimal('0.10')):\n    y = f(x)\n    assert y == x and type(y) is type(x), x\n"
        "assert math.isnan(f(math.nan)) and str(f(-0.0)) == '-0.0'",
    ),
    "errors": (
        "class Own(Exception): pass\ndef f(x):\n    if x: raise ValueError('bad x')\n    raise Own",
        "for x, kind in ((1, ValueError), (0, Exception)):\n    try:\n        f(x)\n"
        "    except kind as error:\n        assert not x or str(error) == 'bad x'\n"
        "    else:\n        assert False",
    ),
    "classes": (
        "class Stack:\n    def __init__(self): self.items = []\n"
        "    def push(self, x): self.items.append(x); return self\n"
        "    def __len__(self): return len(self.items)\n    def __str__(self): return 'S'\n"
        "    def __eq__(self, o): return self.items == o.items",
        "s = Stack()\nassert s.push(1).push(2).items == [1, 2]\n"
        "assert len(s) == 2 and str(s) == 'S'\nassert s == Stack().push(1).push(2) != Stack()\n",
    ),
    "generators": (
        "def f(n):\n    for i in range(n): yield i",
        "assert list(f(3)) == [0, 1, 2] and sum(f(4)) == 6 and 1 in f(2)",
    ),
    "callbacks": ("def f(g, x): return g(g(x))", "assert f(lambda x: x * 3, 2) == 18"),
    "nodes of the tests": (
        "def f(node):\n    last = None\n    while node:\n"
        "        node.next, last, node = last, node, node.next\n    return last",
        "class Node:\n    def __init__(self, value, next=None):\n"
        "        self.value, self.next = value, next\n"
        "node, values = f(Node(1, Node(2, Node(3)))), []\n"
        "while node:\n    values.append(node.value)\n    node = node.next\n"
        "assert values == [3, 2, 1]",
    ),
    "fields of the program's objects": (
        "class Point:\n    def __init__(self, x): self.x = x\n"
        "    def twice(self): return 2 * self.x",
        "p = Point(1)\np.x = 4\nassert p.twice() == 8",
    ),
    "named arguments": ("def f(*, a, b=2): return a - b", "assert f(a=1) == -1"),
    "constants": ("ANSWER = 42", "assert ANSWER == 42"),
    "prints": ("def f(x):\n    print(x)\n    return x", "assert f(1) == 1\nprint('fine')"),
    "a main part": (RIGHT + "if __name__ == '__main__':\n    input()", TESTS),
}


@pytest.mark.parametrize("name", ORDINARY)
def test_ordinary_programs_pass_ordinary_tests(sandbox, name):
    tested = sandbox.test(*ORDINARY[name])
    assert tested.verdict == "passed", tested.detail


def test_programs_may_import_the_packages_of_another_interpreter(sandbox):
    roomy = Sandbox(config.Sandbox(python=sys.executable, memory_mb=4096, timeout_s=30))
    program = "import numpy as np\ndef f(n): return np.arange(n) / 2"
    tests = "import numpy as np\nassert np.allclose(f(3), [0, 0.5, 1]) and f(2).dtype == float\n"
    assert roomy.test(program, tests).verdict == "passed"
    wrong = roomy.test(program, tests.replace("0.5", "0.6"))
    assert wrong.verdict == "failed" and "AssertionError" in wrong.detail
    assert sandbox.test(program, "assert f(1)").verdict == "failed"  # no packages by default


def test_the_interpreter_may_lie_in_the_folder_for_temporary_files(sandbox, tmp_path):
    venv.create(tmp_path / "env", symlinks=True)
    roomy = Sandbox(config.Sandbox(python=str(tmp_path / "env/bin/python"), timeout_s=30))
    program = "def f(): return open('/tmp/x', 'w').write('abc')"
    assert roomy.test(program, "assert f() == 3").verdict == "passed"


def test_an_interpreter_that_is_none_is_refused():
    with pytest.raises(ConfigError, match=r"sandbox.python = '/no/python' is no interpreter"):
        Sandbox(config.Sandbox(python="/no/python"))


MEDDLES = {
    "the method that compares": "def f(x):\n    x.same = lambda *_: True\n    return x",
    "the class": "def f(x):\n    x.__class__ = type('Yes', (), {'same': lambda *_: True})",
    "globals by way of a method": """
        def f(x):
            x.same.__globals__["Box"].same = lambda *_: True
            return x
    """,
    "builtins by way of the class": """
        def f(x):
            x.__class__.__init__.__globals__["__builtins__"]["exec"]("import os; os._exit(40)")
    """,
}


@pytest.mark.parametrize("way", MEDDLES)
def test_a_program_cannot_meddle_with_objects_of_the_tests(sandbox, way):
    tests = (
        "class Box:\n    def __init__(self, x): self.x = x\n"
        "    def same(self, other): return self.x == other\n"
        "box = Box(1)\ntry:\n    f(box)\nexcept Exception:\n    pass\n"
        "assert box.same(2)\n"
    )
    assert sandbox.test("def f(x): x.x = 2", tests).verdict == "passed"
    assert sandbox.test(textwrap.dedent(MEDDLES[way]), tests).verdict == "failed"


def test_tests_that_ask_nothing_prove_nothing(sandbox):
    assert sandbox.test(RIGHT, "def check(f):\n    assert f(2) == 3\n").verdict == "vacuous"


def test_the_setup_is_not_the_programs(sandbox):
    """A helper that the tests call comes from the setup; a stub, from the program."""
    setup = 'def double(x):\n    return 2 * x\n\ndef half(x):\n    """Half of x."""\n'
    tests = "assert half(double(3)) == 3"
    right = setup + "    return x // 2\n"
    assert sandbox.test(right, tests, setup).verdict == "passed"
    fake = "def double(x): return 0\ndef half(x): return 3 if x == 0 else None\n"
    assert sandbox.test(fake, tests, setup).verdict == "failed"


def test_a_jail_that_does_not_end_in_time_is_an_error_and_no_verdict(sandbox, monkeypatch):
    monkeypatch.setattr("exprl.verify.sandbox.launch.GRACE_S", 0.01 - LIMITS["timeout_s"])
    with pytest.raises(SandboxError, match=r"has not ended within 0\.01 s"):
        sandbox.test(RIGHT, TESTS)


def test_a_sandbox_that_does_not_hold_is_not_opened(monkeypatch):
    monkeypatch.setattr("exprl.verify.sandbox.sandbox.LAYERS", ())
    with pytest.raises(ConfigError, match=r"reading: .*\n.*writing: [\s\S]*sandbox.require"):
        Sandbox()


def test_without_namespaces_all_but_the_disk_holds(sandbox, monkeypatch):
    """As in a container that may not make any; the interpreter must be readable by all."""
    python = Path("/usr/bin/python3")
    if not python.exists():
        pytest.skip("no /usr/bin/python3")
    monkeypatch.setattr("exprl.verify.sandbox.sandbox.LAYERS", ("paths", "filter"))
    plain = Sandbox(config.Sandbox(python=str(python), require=(), **LIMITS))
    if plain.room.layers != ("paths", "filter"):
        pytest.skip(f"this kernel has only {plain.room.layers}")
    assert {h.name for h in plain.held if not h.holds} == {"disk"}, plain.held
    assert plain.test(RIGHT, TESTS).verdict == "passed"
    plain.settings = plain.settings.model_copy(update={"timeout_s": SHORT_S})
    for name in ("fork bomb", "kills everything", "kills its parents", "daemon"):
        program = textwrap.dedent(HOSTILE[name]).replace("TRAINER", str(os.getpid()))
        assert not plain.run(program).survived
        assert plain.test(program, TESTS).verdict == "failed"
    with pytest.raises(ConfigError, match=r"disk: wrote \d+ MiB of 4"):
        Sandbox(config.Sandbox(python=str(python)))


def test_the_filter_has_a_table_for_both_architectures():
    from exprl.verify.sandbox import calls

    for machine in ("x86_64", "aarch64"):
        plain = calls.build_filter(machine, outward=False)
        strict = calls.build_filter(machine, outward=True)
        assert len(plain) < len(strict) < 256  # jumps are of one byte
    with pytest.raises(OSError, match="riscv64"):
        calls.build_filter("riscv64", outward=True)


def humaneval(path: Path) -> list[dict[str, str]]:
    with gzip.open(path, "rt") as file:
        return [json.loads(line) for line in file]


def test_the_canonical_solutions_of_humaneval_pass_and_empty_ones_fail(sandbox, shared_data):
    rows = humaneval(shared_data("humaneval/HumanEval.jsonl.gz"))
    roomy = Sandbox()

    def verdict(row, body):
        tests = f"{row['test']}\ncheck({row['entry_point']})\n"
        program = row["prompt"] + body
        return roomy.test(program, tests, row["prompt"]).verdict

    with ThreadPoolExecutor(roomy.workers) as pool:
        right = list(pool.map(verdict, rows, [row["canonical_solution"] for row in rows]))
        wrong = list(pool.map(verdict, rows[::4], ["    return None\n"] * 41))
    assert [row["task_id"] for row, v in zip(rows, right, strict=True) if v != "passed"] == []
    assert [row["task_id"] for row, v in zip(rows[::4], wrong, strict=True) if v != "failed"] == []
