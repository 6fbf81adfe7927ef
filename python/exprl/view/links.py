"""The state of a page is its address: how addresses are read and written.

All are relative, so that the pages also work behind a proxy that serves them below a path.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeVar
from urllib.parse import urlencode

T = TypeVar("T")

Value = str | int | bool | None | frozenset[int]


class BadAddressError(Exception):
    """A value in an address cannot be read; the message names it."""


class NotThereError(Exception):
    """What an address names does not exist (any more); the message says what does."""


def link(page: str, /, **values: Value) -> str:
    """The address of a page; what is None, False or empty is left out.

    >>> link("rollout", step=3, row=7, open=frozenset({2, 1}), colour=None)
    'rollout?step=3&row=7&open=1,2'
    """
    texts = {name: _write(value) for name, value in values.items()}
    query = urlencode({name: text for name, text in texts.items() if text}, safe=",/:@")
    return f"{page}?{query}" if query else page


def _write(value: Value) -> str:
    match value:
        case None | False:
            return ""
        case True:
            return "1"
        case frozenset():
            return ",".join(map(str, sorted(value)))
        case _:
            return str(value)


class Query:
    """The values of an address, read as what they are.

    >>> query = Query({"step": "12", "open": "1,2"})
    >>> query.number("step"), query.numbers("open"), query.text("pick"), query.number("row")
    (12, frozenset({1, 2}), None, None)
    """

    def __init__(self, values: Mapping[str, str]) -> None:
        self._values = values

    def text(self, name: str) -> str | None:
        """A text; None where it is absent or empty."""
        return self._values.get(name) or None

    def number(self, name: str) -> int | None:
        """A whole number from 0 on.

        Raises:
            BadAddressError: something else stands there.
        """
        text = self.text(name)
        return None if text is None else _read_number(name, text)

    def required(self, name: str) -> int:
        """A number that the page cannot do without.

        Raises:
            BadAddressError: it is absent, or not a number.
        """
        found = self.number(name)
        if found is None:
            raise BadAddressError(f"the address lacks {name}=NUMBER")
        return found

    def numbers(self, name: str) -> frozenset[int]:
        """Numbers with commas between them.

        Raises:
            BadAddressError: one of them is none.
        """
        return frozenset(
            _read_number(name, part) for part in (self.text(name) or "").split(",") if part
        )

    def one_of(self, name: str, allowed: tuple[str, ...]) -> str:
        """One of these words; the first where it is absent.

        Raises:
            BadAddressError: it is another word.
        """
        text = self.text(name) or allowed[0]
        if text not in allowed:
            raise BadAddressError(f"{name}={text}: use one of {', '.join(allowed)}")
        return text


def _read_number(name: str, text: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) < 10):
        raise BadAddressError(f"{name}={text[:40]}: a number such as 12 belongs there")
    return int(text)


def cut_page(items: Sequence[T], asked: int | None, size: int) -> tuple[int, int, list[T]]:
    """A page of a list: its number from 1, how many pages there are, and what is on it.

    >>> cut_page("abcde", 2, 2)
    (2, 3, ['c', 'd'])
    """
    pages = max(1, -(-len(items) // size))
    number = min(max(1, asked or 1), pages)
    return number, pages, list(items[(number - 1) * size : number * size])
