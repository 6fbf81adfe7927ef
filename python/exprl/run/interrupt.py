"""Ctrl-C: once to finish the step and save, twice to stop now."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType


@dataclass(slots=True)
class Interrupt:
    """Whether Ctrl-C asked the run to end after this step."""

    wanted: bool = False


@contextmanager
def interruptible(note: Callable[[str], object]) -> Iterator[Interrupt]:
    """First Ctrl-C: finish the step and save. Second: now. Off the main thread: no handler.

    Args:
        note: is told of the first one, for the user who waits for the end of the step.
    """
    interrupt = Interrupt()
    if threading.current_thread() is not threading.main_thread():
        yield interrupt
        return

    def handle(signum: int, frame: FrameType | None) -> None:
        if interrupt.wanted:
            raise KeyboardInterrupt
        interrupt.wanted = True
        note("Ctrl-C: the run ends once this step is finished and saved; again to stop now")

    before = signal.signal(signal.SIGINT, handle)
    try:
        yield interrupt
    finally:
        signal.signal(signal.SIGINT, before)
