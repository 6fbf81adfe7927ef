"""Texts with {names} in them, which each row fills: data.template and data.columns.problem.

Not str.format: `{}`, `{1, 2}` and `\\frac{1}{2}` are no names and stay as they are.
"""

from __future__ import annotations

import re
from collections.abc import Callable

_BRACES = re.compile(r"\{\{([^{}]*)\}\}|\{([^{}]*)\}")
_LOOKS_LIKE_A_NAME = re.compile(r"[^\W\d][\w.\- ]*")


def find_names(template: str, columns: tuple[str, ...] = ()) -> list[str]:
    """The names in braces, each once, in their order; `{{name}}` is none, it stays as {name}.

    Args:
        columns: names that count although they do not look like one, such as `1st`; `{name:x}` and
            `{name!r}` count with them, so that they are refused and not left standing.

    >>> find_names(r"{Body} {Question} Answer in \\boxed{} or {{words}}.")
    ['Body', 'Question']
    """
    names = (found[2].strip() for found in _BRACES.finditer(template) if found[2] is not None)
    return list(
        dict.fromkeys(
            name
            for name in names
            if _LOOKS_LIKE_A_NAME.fullmatch(name)
            or name in columns
            or re.split("[!:]", name)[0] in columns
        )
    )


def fill(template: str, values: Callable[[str], str], names: list[str]) -> str:
    """The template with each of `names` replaced; braces inside the values stay as they are.

    >>> fill("{a}{{a}}{}", {"a": "{b}"}.__getitem__, ["a"])
    '{b}{a}{}'
    """

    def replace(found: re.Match[str]) -> str:
        if found[1] is not None:  # words in double braces; `x^{{2}}` is none
            return f"{{{found[1]}}}" if re.search(r"[^\W\d]", found[1]) else found[0]
        name = found[2].strip()
        return values(name) if name in names else found[0]

    return _BRACES.sub(replace, template)
