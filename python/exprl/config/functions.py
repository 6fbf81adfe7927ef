"""Functions of the user's own: how a config names them, and what they may take."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any

from pydantic import Field

from exprl.config.section import Section

EXAMPLE = "mypkg.rewards:check"
_FORM = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*")


class FunctionName(str):
    """A Python function as `module:function`, such as `mypkg.rewards:check`.

    >>> FunctionName("mypkg.rewards:check").module
    'mypkg.rewards'
    """

    __slots__ = ()

    @property
    def module(self) -> str:
        """What is imported."""
        return self.partition(":")[0]

    @property
    def function(self) -> str:
        """The name in the module."""
        return self.partition(":")[2]


def read_name_or_function(names: Iterable[str]) -> Callable[[Any], Any]:
    """What reads a value that is one of some names, or a function of the user's.

    >>> read_name_or_function(("math", "exact"))("rewards:check")
    'rewards:check'
    """
    known = tuple(names)

    def read(value: Any) -> Any:
        if value in known:
            return value
        if isinstance(value, str) and _FORM.fullmatch(value):
            return FunctionName(value)
        hint = ""
        if isinstance(value, str) and ".py" in value:
            hint = "; a module has no .py, and its folders are joined by points"
        raise ValueError(
            f"expected {', '.join(known)}, or a function of your own as module:function, such as"
            f" {EXAMPLE}{hint}"
        )

    return read


class Functions(Section):
    """Your own verifier, reward and step rule: Python functions, named module:function."""

    timeout_s: float = Field(
        30.0,
        gt=0.0,
        description="seconds that one call may take. Then its process is ended and started again,"
        " and the value is missing",
    )
    processes: int | None = Field(
        None,
        gt=0,
        description="processes of each function, each with one call at a time; none = one per"
        " core. An `async def` function has one process",
    )
    in_flight: int = Field(
        64, gt=0, description="calls of an `async def` function at the same time"
    )
    batch: int = Field(
        64,
        gt=0,
        description="most rollouts in one call of a function that takes `texts`, a list of them",
    )
