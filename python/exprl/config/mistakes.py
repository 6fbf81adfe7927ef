"""What is wrong with a config, one line per key, with the nearest key that there is."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Any

from pydantic import ValidationError

from exprl.config.run import Config
from exprl.config.section import keys_of, section_of

_IN_TOML = {
    "tuple_type": 'expected a list, such as ["a", "b"] or [0.9, 0.95]',
    "model_type": "expected a section with keys of its own",
    "dataclass_type": "expected a section with keys of its own",
    "dict_type": "expected a section with keys of its own",
}
"""What pydantic says in words of Python."""


def explain_errors(error: ValidationError, source: str) -> str:
    """Every mistake with the file, the key, its value and what is allowed."""
    lines = []
    for problem in error.errors(include_url=False):
        key = ".".join(str(part) for part in problem["loc"])
        if problem["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
            lines.append(f"{source}: {_unknown(problem['loc'])}")
        elif problem["type"] == "missing":
            lines.append(f"{source}: {key} is required")
        else:
            message = _IN_TOML.get(problem["type"], problem["msg"].removeprefix("Value error, "))
            where = f"{key} = {problem['input']!r}: " if key else ""
            lines.append(f"{source}: {where}{message}")
    return "\n".join(lines)


def _unknown(loc: Sequence[int | str]) -> str:
    *above, leaf = map(str, loc)
    section: Any = Config
    for part in above:
        if field := keys_of(section).get(part):  # else an item's number, or a domain's name
            section = section_of(field.annotation) or section  # none: a domain is called as its key
    known = list(keys_of(section))
    close = difflib.get_close_matches(leaf, known, n=1, cutoff=0.5)
    meant = f"did you mean {'.'.join([*above, *close])}?"
    hint = meant if close else f"known: {', '.join(known)}"
    return f"unknown key {'.'.join([*above, leaf])}; {hint}"
