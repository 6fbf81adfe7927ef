"""What is wrong with a config, one line per key, with the nearest key that there is."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from exprl.config.keys import every_key
from exprl.config.run import Config
from exprl.config.section import keys_of, section_of

MOST_MEANT = 3
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
            lines.append(f"{source}: {_unknown(problem['loc'], problem['input'])}")
        elif problem["type"] == "missing":
            lines.append(f"{source}: {key} is required")
        else:
            message = _IN_TOML.get(problem["type"], problem["msg"].removeprefix("Value error, "))
            where = f"{key} = {problem['input']!r}: " if key else ""
            lines.append(f"{source}: {where}{message}")
    return "\n".join(lines)


def _unknown(loc: Sequence[int | str], value: Any) -> str:
    *above, leaf = map(str, loc)
    section: Any = Config
    for part in above:
        if field := keys_of(section).get(part):  # else an item's number, or a domain's name
            section = section_of(field.annotation) or section  # none: a domain is called as its key
    known = list(keys_of(section))
    meant = next(filter(None, _guesses(above, leaf, value, known)), [])[:MOST_MEANT]
    hint = f"did you mean {' or '.join(meant)}?" if meant else f"known: {', '.join(known)}"
    return f"unknown key {'.'.join([*above, leaf])}; {hint}"


def _guesses(
    above: Sequence[str], leaf: str, value: Any, known: Sequence[str]
) -> Iterator[list[str]]:
    """The keys that an unknown one may stand for, the surest guess first; some are empty."""
    every = dict(every_key(Config))
    section = "".join(f"{part}." for part in above)

    def close_to(names: Sequence[str], cutoff: float) -> list[str]:
        return difflib.get_close_matches(leaf, names, n=1, cutoff=cutoff)

    yield _with_leaf(every, leaf)  # the right name, in another section or in none
    yield [section + name for name in close_to(known, 0.7)]
    inner = list(value) if isinstance(value, dict) else []  # a section that there is not
    yield [key for name in inner for key in _with_leaf(every, name)]
    # `clip` for clip_low and clip_high, those of the same section first.
    parts = [key for key in every if f"_{leaf}_" in f"_{key.rpartition('.')[2]}_"]
    yield sorted(parts, key=lambda key: not key.startswith(section))
    leaves = sorted({key.rpartition(".")[2] for key in every})
    yield [key for name in close_to(leaves, 0.7) for key in _with_leaf(every, name)]
    yield [key for key in every if key == leaf.replace("_", ".", 1)]
    words = re.compile(rf"(?i)\b{re.escape(leaf.replace('_', ' '))}\b")
    yield [key for key, text in every.items() if leaf[1:] and words.search(text)][:1]
    yield [section + name for name in close_to(known, 0.5)]


def _with_leaf(every: Mapping[str, str], leaf: str) -> list[str]:
    return [key for key in every if key.rpartition(".")[2] == leaf]
