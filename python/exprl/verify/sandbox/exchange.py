"""A program and its unit tests in two processes, each in a jail of its own.

The tests see the program through `Remote` objects: a call sends its arguments over a pipe, and what
comes back is rebuilt from JSON as plain data. So the program has no assert to patch, no verdict to
print and no frame to look into; it can only answer. What the tests compare a result with never
crosses the pipe: comparisons and arithmetic are not forwarded, and a result that is not plain data
equals nothing but another result of the program.

Run as a script: `exchange.py program IN OUT` or `exchange.py tests IN OUT` (file descriptors). It
is one file because a jail's interpreter imports nothing that lies beside it.
"""

from __future__ import annotations

import builtins
import contextlib
import json
import os
import sys
import types

TYPE_CHECKING = False
if TYPE_CHECKING:  # a jail starts faster without them
    import ast
    from collections.abc import Callable, Iterator
    from typing import IO, Any, NoReturn

PASSED, FAILED, VACUOUS = 40, 41, 42
"""Exit codes of the tests' process. Vacuous: they ended without asking anything of the program."""

TESTS = "tests"
"""Name of the module that setup and tests make up."""
LONGEST_MESSAGE = 16 << 20
_EXACT_JSON_INT = 1 << 63
_EXACT_NUMBERS = ("Fraction", "Decimal")
_ARRAY_KINDS = "biufcU"  # of numpy; an array of objects stays where it is

_OPERATIONS: dict[str, Callable[..., Any]] = {
    "getattr": getattr,
    "setattr": setattr,
    "getitem": lambda value, key: value[key],
    "iter": iter,
    "next": next,
    "len": len,
    "str": str,
    "repr": repr,
    "equal": lambda value, other: bool(value == other),
}


class ProgramError(Exception):
    """The program raised something that is no built-in exception."""


class ProgramGone(BaseException):
    """No answer will come. Not an Exception: tests must not catch it."""


class Remote:
    """An object that lives in the other process."""

    def __init__(self, peer: Peer, number: int) -> None:
        self.__dict__.update(_peer=peer, _number=number)

    def _ask(self, operation: str, *arguments: Any) -> Any:
        return self._peer.ask(operation, self, arguments, {})

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        """Call it there."""
        return self._peer.ask("call", self, arguments, named)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return self._ask("getattr", name)

    def __setattr__(self, name: str, value: Any) -> None:
        self._ask("setattr", name, value)

    def __getitem__(self, key: Any) -> Any:
        return self._ask("getitem", key)

    def __iter__(self) -> Iterator[Any]:
        iterator: Iterator[Any] = self._ask("iter")
        return iterator

    def __next__(self) -> Any:
        return self._ask("next")

    def __len__(self) -> int:
        return int(self._ask("len"))

    def __bool__(self) -> bool:
        return True  # and not len(): what is no plain data is merely there

    def __str__(self) -> str:
        return str(self._ask("str"))

    def __repr__(self) -> str:
        return str(self._ask("repr"))

    def __eq__(self, other: object) -> bool:
        return self is other or (isinstance(other, Remote) and self._ask("equal", other) is True)

    def __hash__(self) -> int:
        return hash(self._number)


class Peer:
    """One end of the pipes: asks, and while it waits, answers what the other end asks."""

    def __init__(self, reader: IO[bytes], writer: IO[bytes], *, trusts: bool) -> None:
        """`trusts`: let the other end do with this one's objects what it likes."""
        self._reader = reader
        self._writer = writer
        self._trusts = trusts
        self._objects: list[Any] = []
        self.asked = 0
        self.gone = False

    def ask(
        self, operation: str, target: Any, arguments: tuple[Any, ...], named: dict[str, Any]
    ) -> Any:
        """Have an operation done by the other end, and return or raise what came of it."""
        self.asked += 1
        self._send([operation, *map(self._pack, (target, list(arguments), named))])
        while True:
            message = self._receive()
            if len(message) == 4:
                self._answer(message)
                continue
            kind, value, changed = message
            if kind == "raised":
                raise _exception(operation, *map(str, value))
            for argument, now in zip(arguments, self._unpack(changed), strict=False):
                _refill(argument, now)
            return self._unpack(value)

    def serve(self) -> None:
        """Answer until the other end closes."""
        while True:
            self._answer(self._receive())

    def _answer(self, message: list[Any]) -> None:
        operation, target, sent, named = message
        try:
            value, arguments = self._unpack(target), self._unpack(sent)
            if not self._trusts and not _is_harmless(operation, value, arguments):
                raise TypeError(f"the tests do not let a program {operation} {arguments[:1]}")
            if operation == "call":
                result = value(*arguments, **self._unpack(named))
            else:
                result = _OPERATIONS[operation](value, *arguments)
            now = [self._pack(a) if _is_mutable(a) else None for a in arguments]
            changed = [None if a == b else a for a, b in zip(now, sent, strict=True)]
            reply = ["returned", self._pack(result), changed]
        except ProgramGone:
            raise
        except BaseException as error:
            reply = ["raised", [type(error).__name__, _text(error)], []]
        self._send(reply)

    def _send(self, message: list[Any]) -> None:
        line = json.dumps(message).encode() + b"\n"
        try:
            self._writer.write(line)
            self._writer.flush()
        except OSError:
            self._lost()

    def _receive(self) -> list[Any]:
        line = self._reader.readline(LONGEST_MESSAGE)
        try:
            message = json.loads(line) if line.endswith(b"\n") else None
        except (ValueError, RecursionError):
            message = None
        if not isinstance(message, list) or len(message) not in (3, 4):
            self._lost()
        return message

    def _lost(self) -> NoReturn:
        self.gone = True
        raise ProgramGone

    def _pack(self, value: Any) -> Any:  # noqa: PLR0911, PLR0912 (one return per kind reads best)
        kind = type(value)
        if value is None or kind in (bool, str, float):
            return value
        if kind is int:
            exact = abs(value) < _EXACT_JSON_INT
            return value if exact else {"int": hex(value)}
        if kind is list:
            return [self._pack(item) for item in value]
        if isinstance(value, Remote):
            return {"yours": value._number}
        if isinstance(value, dict):
            return {"dict": [[self._pack(k), self._pack(v)] for k, v in dict.items(value)]}
        if isinstance(value, tuple | set | frozenset):
            name = next(t for t in (tuple, set, frozenset) if isinstance(value, t)).__name__
            return {name: [self._pack(item) for item in value]}
        if isinstance(value, str | bool | int | float | list):  # of a subclass: enums, ...
            base: Any = next(t for t in (str, int, float, list) if isinstance(value, t))
            return self._pack(base(value))
        if isinstance(value, bytes | bytearray):
            return {"bytes": bytes(value).hex()}
        if kind is complex:
            return {"complex": [value.real, value.imag]}
        if kind is range:
            return {"range": [value.start, value.stop, value.step]}
        if kind.__module__ in ("fractions", "decimal") and kind.__name__ in _EXACT_NUMBERS:
            return {kind.__name__: str(value)}
        if kind.__module__ == "numpy" and getattr(value, "ndim", None) is not None:
            if value.ndim == 0:
                return self._pack(value.item())
            if value.dtype.kind in _ARRAY_KINDS:
                return {"array": [value.dtype.str, self._pack(value.tolist())]}
        self._objects.append(value)
        return {"mine": len(self._objects) - 1}

    def _unpack(self, packed: Any) -> Any:  # noqa: PLR0911, PLR0912 (as above)
        if isinstance(packed, list):
            return [self._unpack(item) for item in packed]
        if not isinstance(packed, dict):
            return packed
        ((kind, value),) = packed.items()
        match kind:
            case "int":
                return int(value, 16)
            case "dict":
                return {self._unpack(k): self._unpack(v) for k, v in value}
            case "tuple":
                return tuple(self._unpack(value))
            case "set":
                return set(self._unpack(value))
            case "frozenset":
                return frozenset(self._unpack(value))
            case "bytes":
                return bytes.fromhex(value)
            case "complex":
                return complex(*value)
            case "range":
                return range(*value)
            case "Fraction" | "Decimal":
                return _exact_number(kind, value)
            case "array":
                return _array(value[0], self._unpack(value[1]))
            case "mine":
                return Remote(self, int(value))
            case "yours":
                return self._objects[value]
        raise ValueError(f"unknown kind {kind!r}")


def _array(dtype: str, values: list[Any]) -> Any:
    import numpy as np

    if np.dtype(dtype).kind not in _ARRAY_KINDS:
        raise ValueError(f"unexpected dtype {dtype!r}")
    return np.array(values, dtype=dtype)


def _exact_number(kind: str, text: str) -> Any:
    from decimal import Decimal
    from fractions import Fraction

    return Fraction(text) if kind == "Fraction" else Decimal(text)


def _is_harmless(operation: str, value: Any, arguments: list[Any]) -> bool:
    """What a program may do with objects of the tests: call them, and use the fields of instances.

    No way may lead to a frame, to a module, or to a method that the tests rely on.
    """
    if operation == "call":
        return isinstance(value, types.FunctionType | types.MethodType | types.BuiltinMethodType)
    if type(value).__module__ != TESTS or not arguments or not isinstance(arguments[0], str):
        return False
    name = arguments[0]
    of_class = getattr(type(value), name, None)
    match operation:
        case "getattr":
            return name in vars(value) or (
                isinstance(of_class, types.FunctionType) and not name.startswith("_")
            )
        case "setattr":
            return of_class is None and not name.startswith("_")
    return False


def _is_mutable(value: Any) -> bool:
    return type(value) in (list, dict, set)


def _refill(argument: Any, now: Any) -> None:
    """Repeat on the caller's argument what the call did to its copy."""
    if _is_mutable(argument) and type(argument) is type(now):
        argument.clear()
        argument.extend(now) if type(argument) is list else argument.update(now)


def _exception(operation: str, name: str, text: str) -> BaseException:
    kind = getattr(builtins, name, None)
    if name == "StopIteration" and operation != "next":
        kind = None  # it would end a map() or a for loop of the tests as if all were well
    if isinstance(kind, type) and issubclass(kind, Exception):
        try:
            return kind(text)
        except TypeError:
            pass
    return ProgramError(f"{name}: {text}")


def _text(error: BaseException) -> str:
    try:
        return str(error)[:1000]
    except BaseException:
        return ""


def run_program(peer: Peer) -> None:
    """Load the program, tell its names, and answer the tests."""
    module = types.ModuleType("program")
    sys.modules["program"] = module
    with open("program.py", encoding="utf-8") as file:  # noqa: PTH123 (pathlib is slow to import)
        source = file.read()
    try:
        exec(compile(source, "program.py", "exec"), module.__dict__)
    except BaseException as error:
        peer._send(["raised", [type(error).__name__, _text(error)], []])
        return
    public = [name for name in vars(module) if not name.startswith("__")]
    peer._send(["returned", {"dict": list(_pack_names(peer, module, public))}, []])
    peer.serve()


def _pack_names(peer: Peer, module: types.ModuleType, names: list[str]) -> Iterator[list[Any]]:
    for name in names:
        try:
            yield [name, peer._pack(getattr(module, name))]
        except Exception:
            continue  # its own code raised, or it holds itself: the tests find no such name


def run_tests(peer: Peer) -> int:
    """Run the tests against the program at the other end, and return the exit code."""
    with open("setup.py", encoding="utf-8") as file:  # noqa: PTH123
        setup = file.read()
    with open("tests.py", encoding="utf-8") as file:  # noqa: PTH123
        tests = file.read()
    names: dict[str, Any] = {"__name__": TESTS}
    exec(compile(drop_stubs(setup), "setup.py", "exec"), names)
    wanted = find_used_names(tests) - names.keys() - set(dir(builtins))
    kind, value, _ = peer._receive()
    if kind == "raised":
        raise ProgramError(": ".join(map(str, value)))
    offered = peer._unpack(value)
    given = {name: offered[name] for name in wanted & offered.keys()}
    names |= given
    peer.asked += sum(not isinstance(value, Remote) for value in given.values())
    try:
        exec(compile(tests, "tests.py", "exec"), names)
        _run_collected(names)
    except SystemExit as end:  # unittest.main()
        if end.code not in (None, 0, False):
            return FAILED
    if peer.gone:
        return FAILED
    return PASSED if peer.asked else VACUOUS


def drop_stubs(setup: str) -> str:
    """The setup without functions that do nothing: the program is to define them."""
    import ast

    tree = ast.parse(setup)
    tree.body = [node for node in tree.body if not _is_stub(node)]
    return ast.unparse(tree)


def find_used_names(source: str) -> set[str]:
    """Names that a source reads, wherever they come from."""
    import ast

    tree = ast.parse(source)
    return {n.id for n in ast.walk(tree) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load)}


def _is_stub(node: ast.stmt) -> bool:
    import ast

    return isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and all(
        isinstance(part, ast.Pass | ast.Import | ast.ImportFrom)
        or (isinstance(part, ast.Expr) and isinstance(part.value, ast.Constant))
        for part in node.body
    )


def _run_collected(names: dict[str, Any]) -> None:
    """Tests that were only defined: `test_*` functions, and unittest's classes."""
    for name, value in list(names.items()):
        if name.startswith("test_") and isinstance(value, types.FunctionType):
            value()
    if "unittest" not in sys.modules:
        return
    import unittest

    cases = [v for v in names.values() if isinstance(v, type) and issubclass(v, unittest.TestCase)]
    suite = unittest.TestSuite(map(unittest.defaultTestLoader.loadTestsFromTestCase, cases))
    result = unittest.TextTestRunner(stream=sys.stderr).run(suite)
    if not result.wasSuccessful() or result.skipped:
        raise AssertionError("unittest")


def main(role: str, read_fd: str, write_fd: str) -> int:
    """Take one end."""
    reader, writer = os.fdopen(int(read_fd), "rb"), os.fdopen(int(write_fd), "wb")
    if role == "program":
        with contextlib.suppress(ProgramGone):  # the tests have ended
            run_program(Peer(reader, writer, trusts=True))
        return 0
    peer = Peer(reader, writer, trusts=False)
    try:
        return run_tests(peer)
    except BaseException as error:
        import traceback

        traceback.print_exception(error)
        return FAILED


if __name__ == "__main__":
    # No cleanup: what the tests imported must not change the verdict on its way out.
    code = main(*sys.argv[1:])
    sys.stderr.flush()
    os._exit(code)
