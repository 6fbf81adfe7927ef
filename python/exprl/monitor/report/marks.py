"""How pages show what a model wrote and what it was worth: safe text, and levels of look.css."""

from __future__ import annotations

import math
import re

from markupsafe import Markup, escape

STRONG = 0.5
"""Advantages beyond it have the strongest colour."""

_INVISIBLE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f"  # control characters: NUL, ANSI's escape
    "\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069"  # direction, and ends of lines
    "\xad\u034f\u180e\u200b\u2060-\u2065\u206a-\u206f\ufeff\ufff9-\ufffb\ufffe\uffff"  # no width
    "\u115f\u1160\u2800\u3164\uffa0"  # letters that are blank
    "\ud800-\udfff\U000e0000-\U000e01ef]"  # halves of a character, tags, rare variants
)
"""What a reader would not see, or what changes how its neighbours are seen. The joiners U+200C and
U+200D are not among them: they shape words of Persian and Hindi, and emoji."""


def grade_level(grade: int | None) -> str:
    """The class of look.css for a grade.

    >>> grade_level(5), grade_level(None)
    ('level-5', 'level-none')
    """
    return "level-none" if grade is None else f"level-{grade}"


def advantage_level(advantage: float | None) -> str:
    """The class of look.css for an advantage.

    >>> [advantage_level(value) for value in (-0.75, -0.25, 0.0, 0.25, 0.75, None)]
    ['level-1', 'level-2', 'level-3', 'level-4', 'level-5', 'level-none']
    """
    if advantage is None or math.isnan(advantage):
        return "level-none"
    strength = 0 if advantage == 0.0 else 1 if abs(advantage) < STRONG else 2
    return f"level-{3 + int(math.copysign(strength, advantage))}"


def show_text(text: str) -> Markup:
    """A model's text as HTML that cannot act: escaped, invisible characters as their code points.

    >>> show_text("1 < 2\\x1b[31m")
    Markup('1 &lt; 2<span class="code-point">U+001B</span>[31m')
    """
    text = text.replace("\r\n", "\n")
    parts, start = [], 0
    for found in _INVISIBLE.finditer(text):
        parts += [escape(text[start : found.start()]), _CODE.format(f"U+{ord(found[0]):04X}")]
        start = found.end()
    return Markup("").join([*parts, escape(text[start:])])


_CODE = Markup('<span class="code-point">{}</span>')
