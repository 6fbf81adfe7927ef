"""The functions of a run: asked by many threads, answered by a few processes."""

from __future__ import annotations

import os
import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from typing import Any, NamedTuple, TypeVar

from exprl import config
from exprl.config import FunctionName
from exprl.errors import ConfigError, FunctionError
from exprl.functions.process import FunctionProcess, LateError, LostError, Signature
from exprl.functions.roles import Role, check_signature, names_of

MOST_THREADS = 256
"""Which wait for one function."""
T = TypeVar("T")

Values = Mapping[str, Any]
"""What may be told of a rollout, by the names of roles.GIVEN."""


class FunctionStats(NamedTuple):
    """What the functions of a run have done so far.

    calls: values that were asked for.
    failed: of these, no usable value came: an exception, or an unusable value.
    late: of these, the time limit was over.
    restarts: processes that were started in the place of one that had ended.
    """

    calls: int
    failed: int
    late: int
    restarts: int

    def since(self, before: FunctionStats) -> FunctionStats:
        """What was counted after an earlier look."""
        return FunctionStats(*(now - then for now, then in zip(self, before, strict=True)))

    def row(self) -> dict[str, float]:
        """The counts as metrics."""
        return {f"functions/{name}": count for name, count in self._asdict().items()}


class Functions:
    """Calls functions of the user's. Threads may share it."""

    def __init__(self, settings: config.Functions) -> None:
        """Nothing is imported before a function is opened."""
        self._settings = settings
        self._lock = threading.Lock()
        self._open: dict[tuple[FunctionName, Role], Function] = {}
        self._counts: Counter[str] = Counter()

    def open(self, name: FunctionName, role: Role) -> Function:
        """The function, imported in a process of its own; the same one for every call.

        Raises:
            ConfigError: it cannot be imported, or asks for what this role is not given.
        """
        with self._lock:
            if (name, role) not in self._open:
                self._open[name, role] = Function(name, role, self._settings, self._counts)
            return self._open[name, role]

    @property
    def used(self) -> bool:
        """Whether any function is open."""
        return bool(self._open)

    @property
    def threads(self) -> int:
        """Callers that keep every open function busy; 0 where none is open."""
        with self._lock:
            return sum(function.threads for function in self._open.values())

    def stats(self) -> FunctionStats:
        """What they have done so far."""
        return FunctionStats(*(self._counts[name] for name in FunctionStats._fields))

    def close(self) -> None:
        """End their processes."""
        with self._lock:
            for function in self._open.values():
                function.close()
            self._open.clear()


class Function:
    """One function of the user's, in one role."""

    def __init__(
        self, name: FunctionName, role: Role, settings: config.Functions, counts: Counter[str]
    ) -> None:
        """Start its first process; the others start when they are needed."""
        self.name, self.role = name, role
        self._settings, self._counts = settings, counts
        self._closed = False
        self._lock = threading.Lock()
        self._idle = [self._start()]
        self.signature: Signature = self._idle[0].signature
        try:
            check_signature(name, role, self.signature)
        except ConfigError:
            self.close()
            raise
        self._names = names_of(role, self.signature)
        is_async = self.signature.is_async and not self.signature.is_batch
        processes = settings.processes or len(os.sched_getaffinity(0))
        self._slots = threading.Semaphore(settings.in_flight if is_async else processes)
        self._most = settings.batch if self.signature.is_batch else 1
        self._waiting: list[_Call] = []
        most = settings.in_flight if is_async else processes * self._most
        self.threads = min(most, MOST_THREADS)
        """Callers that keep it busy."""

    def asks_for(self, value: str) -> bool:
        """Whether it is given this value, such as `reference`."""
        return value in self._names

    def call(self, values: Values, read: Callable[[Any], T]) -> T:
        """What it returns for one rollout; blocks.

        A thread that finds a process free takes along what other threads wait for, up to
        functions.batch of them, if the function takes several.

        Args:
            values: by the names of roles.GIVEN; it is given those that it asks for.
            read: makes a value of the role out of what it returned; raises a FunctionError.

        Raises:
            FunctionError: it gave no value that can be used; says why.
        """
        mine = _Call({name: values[value] for value, name in self._names.items()}, Future())
        with self._lock:
            self._counts["calls"] += 1
            self._waiting.append(mine)
        with self._slots:
            with self._lock:
                taken, self._waiting = self._waiting[: self._most], self._waiting[self._most :]
            if taken:
                self._answer(taken)
        value = mine.answer.result()
        try:
            return read(value)
        except FunctionError as error:
            with self._lock:
                self._counts["failed"] += 1
            raise FunctionError(f"{self.name}: {error}") from None

    def close(self) -> None:
        """End its processes."""
        with self._lock:
            self._closed = True
            processes, self._idle = self._idle, []
        for process in processes:
            process.end()

    def _answer(self, calls: Sequence[_Call]) -> None:
        """Ask for several at once; where that fails, for each alone: one must not spoil others."""
        try:
            if self.signature.is_batch:
                for call, value in zip(calls, self._ask_batch(calls), strict=True):
                    call.answer.set_result(value)
                return
            calls[0].answer.set_result(self._ask(calls[0].arguments))
        except FunctionError as error:
            if len(calls) > 1:
                for call in calls:
                    self._answer([call])
                return
            with self._lock:
                self._counts["late" if isinstance(error, LateError) else "failed"] += 1
            calls[0].answer.set_exception(FunctionError(f"{self.name}: {error}"))
        except BaseException as error:
            for call in calls:
                if not call.answer.done():
                    call.answer.set_exception(error)
            raise

    def _ask_batch(self, calls: Sequence[_Call]) -> list[Any]:
        arguments = {
            name: [call.arguments[name] for call in calls] for name in self._names.values()
        }
        values = self._ask(arguments)
        if not isinstance(values, list) or len(values) != len(calls):
            got = f"{len(values)} values" if isinstance(values, list) else repr(values)
            raise FunctionError(f"it returned {got} for {len(calls)} texts, and not a list of them")
        return values

    def _ask(self, arguments: dict[str, Any]) -> Any:
        """Ask a free process; if it ends, a new one: another call may have ended it."""
        process = self._take()
        try:
            return process.ask(arguments)
        except LostError:
            if self._closed:
                raise
        finally:
            self._give_back(process)
        alone = self._start_again()
        try:
            return alone.ask(arguments)
        finally:
            if self.signature.is_async:
                alone.end()
            self._give_back(alone)

    def _take(self) -> FunctionProcess:
        """A process that runs; an `async def` function has one for all callers."""
        with self._lock:
            if self._closed:
                raise FunctionError("the run has ended")
            left = [process for process in self._idle if not process.ended]
            self._counts["restarts"] += len(self._idle) - len(left)
            self._idle = left
            if self.signature.is_async:
                if not self._idle:
                    self._idle.append(self._start_again())
                return self._idle[0]
            if self._idle:
                return self._idle.pop(0)
        return self._start_again()

    def _give_back(self, process: FunctionProcess) -> None:
        if self.signature.is_async:
            return
        with self._lock:
            if not self._closed:
                self._idle.append(process)
                return
        process.end()

    def _start_again(self) -> FunctionProcess:
        """A further process; what fails now is one value, where the first start worked."""
        try:
            return self._start()
        except ConfigError as error:
            raise FunctionError(str(error)) from None

    def _start(self) -> FunctionProcess:
        return FunctionProcess(self.name, self._settings.timeout_s)


class _Call(NamedTuple):
    """What one caller waits for."""

    arguments: dict[str, Any]
    answer: Future[Any]
