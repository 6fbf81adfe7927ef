"""What a model wrote, as a terminal may show it."""

from __future__ import annotations


def make_printable(text: str, keep: str = "") -> str:
    r"""The text with every character that cannot be seen, or moves the others, as its escape.

    keep: such characters that stay as they are, such as line ends.

    >>> print(make_printable("1\x1b[31m 2\n3", keep="\n"))
    1\x1b[31m 2
    3
    """
    return "".join(c if c.isprintable() or c in keep else _escape(c) for c in text)


def _escape(character: str) -> str:
    return repr(character)[1:-1]
