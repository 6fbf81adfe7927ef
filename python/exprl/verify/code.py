"""Programs in what a model wrote, and whether they pass their unit tests in the sandbox."""

from __future__ import annotations

import ast
import json
import re
from dataclasses import dataclass

from exprl.errors import DataError
from exprl.verify.sandbox.exchange import find_used_names
from exprl.verify.sandbox.sandbox import Sandbox

_FENCE = re.compile(
    r"^[ \t]*(```+|~~~+)[ \t]*([\w+-]*)[^\n]*\n(.*?)(?:^[ \t]*\1[ \t]*$|\Z)", re.M | re.S
)
_PYTHON = ("", "python", "python3", "py")
_FUTURE = re.compile(r"^from __future__ import [^\n]*\n?", re.M)
MOST_EXCHANGES = 100
"""Pairs of input and output that one program is run on."""


@dataclass(frozen=True, slots=True)
class Exchanges:
    """Tests of a program that reads its standard input and prints: inputs and what must come."""

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


def passes(sandbox: Sandbox, text: str, tests: str, setup: str = "") -> bool | None:
    """Whether the program in a trace passes its tests; None if they asked nothing of it.

    Args:
        text: the whole trace; hostile.
        tests: Python that raises if the program is wrong, or a JSON object of `inputs` and
            `outputs`.
        setup: code that stands before the program.

    Raises:
        SandboxError: the sandbox could not run it.
    """
    exchanges = parse_exchanges(tests)
    if exchanges is not None:
        source = find_program(text, "", setup)
        pairs = zip(exchanges.inputs, exchanges.outputs, strict=True)
        return all(_prints(sandbox, source, given, wanted) for given, wanted in pairs)
    tested = sandbox.test(find_program(text, tests, setup), tests, setup)
    return None if tested.verdict == "vacuous" else tested.verdict == "passed"


def find_program(text: str, tests: str = "", setup: str = "") -> str:
    """The program that a trace proposes, with its setup before it.

    Of fenced Python blocks the last one counts that defines something which the tests use, else
    the last; without a fence, the whole text. What does not stand alone goes on where the setup
    ends, as completions of HumanEval do.
    """
    blocks = [m[3] for m in _FENCE.finditer(text) if m[2].lower() in _PYTHON]
    wanted = find_used_names(tests) if tests else set()
    defining = [block for block in blocks if _find_definitions(block) & wanted]
    code = (defining or blocks or [text])[-1]
    if not setup:
        return code
    if _find_definitions(code) & wanted or (_parses(code) and not _parses(setup + code)):
        future = "".join(_FUTURE.findall(code))  # must stand first
        return future + setup + "\n\n" + _FUTURE.sub("", code)
    whole = setup + code
    return whole if _parses(whole) else setup + _cut_after_body(code)


def check(tests: str, setup: str) -> str | None:
    """What is wrong with the tests of a row, or None."""
    if _looks_like_json(tests):
        try:
            parse_exchanges(tests)
        except DataError as error:
            return str(error)
        return None
    for name, source in (("tests", tests), ("setup", setup)):
        try:
            ast.parse(source)
        except (SyntaxError, ValueError, RecursionError) as error:
            return f"the {name} are not Python: {error}"
    return None


def parse_exchanges(tests: str) -> Exchanges | None:
    """Tests by input and output, if they are of that kind.

    Raises:
        DataError: a JSON object without equally many inputs and outputs as texts.
    """
    if not _looks_like_json(tests):
        return None
    try:
        tree = json.loads(tests)
        inputs, outputs = (tuple(map(_join_lines, tree[key])) for key in ("inputs", "outputs"))
    except (ValueError, KeyError, TypeError, RecursionError):
        inputs, outputs = (), ()
    if not inputs or len(inputs) != len(outputs):
        raise DataError(
            'tests as JSON must be {"inputs": [...], "outputs": [...]}, equally many texts, and at'
            " least one"
        )
    return Exchanges(inputs[:MOST_EXCHANGES], outputs[:MOST_EXCHANGES])


def _join_lines(value: object) -> str:
    if isinstance(value, list) and all(isinstance(line, str) for line in value):
        return "\n".join(value)
    if not isinstance(value, str):
        raise TypeError("neither a text nor a list of lines")
    return value


def _looks_like_json(tests: str) -> bool:
    return tests.lstrip().startswith("{")


def _prints(sandbox: Sandbox, source: str, given: str, wanted: str) -> bool:
    """Whether it prints what must come, white space at the ends of lines excepted."""
    ended = sandbox.run(source, given)
    if ended.status != "exit" or ended.code != 0:
        return False
    found, right = ([x.rstrip() for x in t.rstrip().split("\n")] for t in (ended.stdout, wanted))
    return found == right


def _parses(source: str) -> bool:
    try:
        ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return True


def _find_definitions(source: str) -> set[str]:
    """Names of functions, classes and variables that a source defines at its top."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return set()
    names = set()
    for node in tree.body:
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                names.add(node.name)
            case ast.Assign():
                names |= {target.id for target in node.targets if isinstance(target, ast.Name)}
    return names


def _cut_after_body(code: str) -> str:
    """The first lines, up to what is no longer indented: a completion that ran on."""
    kept: list[str] = []
    for line in code.splitlines(keepends=True):
        if line.strip() and not line[0].isspace() and kept:
            break
        kept.append(line)
    return "".join(kept)
