r"""Final answers that are no mathematics: the letter of a choice, and a measured quantity.

Nothing is guessed: a trace that names two letters, or none, has not answered.
"""

from __future__ import annotations

import math
import re

from exprl.verify.answer import final_answer, same

LETTERS = "ABCDEFGHIJ"
TAIL = 2000
"""Characters at the end of a trace in which an answer without a box is looked for."""
LONGEST_QUANTITY = 200
TOLERANCE = 0.01
"""Relative difference of two quantities that are one: rounding and constants of a textbook."""

_DRESS = re.compile(
    r"\\(?:text|mathrm|mathbf|textbf|operatorname)\s*\{([^{}]*)\}|[*_`$]+|\\[,;:! ]"
)
_LETTER = rf"[{LETTERS}]"
_ALONE = re.compile(
    rf"(?:(?:option|choice|answer)\s*:?\s*)?[(\[]?({_LETTER})[)\]]?\s*(?:[.):]\s*(?P<text>\S.*)?)?",
    re.IGNORECASE | re.DOTALL,
)
_STATED = re.compile(
    r"\b(?:answer|option|choice)\s*(?:is|:|=)?\s*(?:option|choice)?\s*:?\s*"
    rf"(?P<open>[(\[])?(?P<letter>(?-i:{_LETTER}))(?P<close>[)\]])?"
    r"(?!\w)(?=(?P<after>\W{0,3}\w*))",
    re.IGNORECASE,
)
_ANOTHER = re.compile(
    rf"\s*(?:,|/|&|\b(?:and|or)\b)\s*(?:option\s*)?[(\[]?{_LETTER}\b", re.IGNORECASE
)

_NUMBER = re.compile(
    r"(?:\\approx|\\simeq|\\sim|≈|~|=)?\s*"
    r"(?P<mantissa>[-+\u2212]?\s*(?:\d[\d,]*(?:\.\d*)?|\.\d+))"
    r"(?:\s*(?:\\times|\\cdot|[*x\u00d7\u00b7])\s*10\s*\^?\s*\{?\s*(?P<power>[-+\u2212]?\d+)(?:\s*\})?"
    r"|[eE](?P<exponent>[-+]?\d+))?"
    r"(?P<unit>.*)",
    re.DOTALL,
)
_POWER_OF_TEN = re.compile(r"^([-+]?)\s*10\s*\^")
_SET_UNIT = re.compile(  # \mathrm{~m} / \mathrm{s}^{2}, \%, ^\circ \text{C}
    r"(?!\s*\^\s*\{?\s*[-\u2212]?\d)"  # a power of the number
    r"(?:\\(?:text|mathrm|mathbf|operatorname|rm)\s*\{(?:[^{}]|\{[^{}]*\})*\}"
    r"|\\[,;:!~ ]|[\s~/·]|\\cdot|\\times|\\?%|°|\^?\s*\{?\\circ\}?"
    r"|\^\s*\{?\s*[-\u2212]?\d+\s*\}?)*"
)
_WORDS = re.compile(
    r"\s+[A-Za-zµμÅ]+(?:\^?[-\u2212]?\d)?(?:\s*[/ *·]\s*[A-Za-zµμÅ]+(?:\^?[-\u2212]?\d)?)*"
)
_UNITS = frozenset(
    """
    meter metre second minute hour day year yr gram kilogram joule newton watt volt ampere ohm tesla
    pascal kelvin hertz mole radian degree parsec lightyear km cm mm um nm pm kg mg ms ns Hz kHz MHz
    GHz eV keV MeV GeV kJ Pa kPa MPa atm bar mol rad deg kW MW mL AU pc kpc Mpc erg dyne gauss per
    """.split()  # noqa: SIM905 (a list of 60 lines reads worse)
)
"""Words that stand behind a number as its unit. One letter alone could be a variable."""


def choice(text: str) -> str | None:
    r"""The letter that a trace chooses, or None.

    The last box counts, else the last statement such as `Answer: (C)`, else a last line that is a
    letter and nothing else. `A or B` is no choice.

    >>> choice(r"So \boxed{\text{(C)}}"), choice("**Answer: B**"), choice("The answer is A or B.")
    ('C', 'B', None)
    """
    boxed = final_answer(text)
    if boxed is not None:
        return _only_letter(boxed)
    tail = _undressed(text[-TAIL:])
    statements = list(_STATED.finditer(tail))
    if statements:
        last = statements[-1]
        if _ANOTHER.match(tail, last.end("close") if last["close"] else last.end("letter")):
            return None
        return last["letter"].upper() if _is_a_letter(last) else None
    lines = tail.strip().splitlines()
    return _only_letter(lines[-1]) if lines else None


def gold_choice(answer: str) -> str | None:
    """The letter of a gold answer such as `C`, `(C)` or `C. 5 m/s`; None if it names none."""
    return _only_letter(answer)


def same_quantity(text: str, answer: str) -> bool:
    r"""Whether a trace ends in the gold answer of a science problem.

    Two numbers are one if they differ by at most 1 % and have the same unit, or one has none; the
    rest is mathematics (`verify.same`).

    >>> same_quantity(r"\boxed{4.52 \times 10^{33}\ \mathrm{erg/s}}", "4.5e33")
    True
    >>> same_quantity(r"\boxed{3\ \mathrm{m}}", r"3\ \mathrm{cm}")
    False
    """
    found = final_answer(text)
    return found is not None and one_quantity(found, answer)


def one_quantity(found: str, answer: str) -> bool:
    """Whether two final answers are one by the rules of `same_quantity`."""
    here, there = _quantity(found), _quantity(answer)
    if here is None or there is None:
        return same(found, answer, "math")
    (value, unit), (gold, gold_unit) = here, there
    if unit and gold_unit and unit != gold_unit:
        return False
    return abs(value - gold) <= TOLERANCE * abs(gold)


def _undressed(text: str) -> str:
    return _DRESS.sub(lambda match: match.group(1) or "", text)


def _only_letter(text: str) -> str | None:
    found = _ALONE.fullmatch(_undressed(text).strip())
    if found is None:
        return None
    rest = found["text"] or ""
    return None if _ANOTHER.match("," + rest) and len(rest.strip(" ().")) == 1 else found[1].upper()


def _is_a_letter(match: re.Match[str]) -> bool:
    """Whether it is not the article or the pronoun at the start of a sentence: `is A good one`."""
    if match["letter"] not in "AI" or match["open"] or match["close"]:
        return True
    return not re.match(r"[ \t]+\w", match["after"])


def _quantity(text: str) -> tuple[float, str] | None:
    """Value and unit, if the text is one number with at most a unit."""
    bare = _POWER_OF_TEN.sub(r"\1 1\\times 10^", text.strip().strip("$").strip())
    found = _NUMBER.fullmatch(bare) if len(bare) <= LONGEST_QUANTITY else None
    if found is None:
        return None
    unit = _unit(found["unit"])
    if unit is None:
        return None
    mantissa = re.sub(r"[\s,]", "", found["mantissa"]).replace("\u2212", "-")
    power = (found["power"] or found["exponent"] or "0").replace("\u2212", "-")
    value = float(f"{mantissa}e{power}")
    return (value, unit) if math.isfinite(value) else None


def _unit(text: str) -> str | None:
    """What stands behind a number, without what sets it; None if it may be mathematics: `3x`."""
    words = re.findall(r"[^\W\d_]+", text) if _WORDS.fullmatch(text) else []
    units = [w for w in words if w in _UNITS or w.removesuffix("s") in _UNITS]
    known = bool(units) and all(w in units or len(w) == 1 for w in words)
    if not known and not _SET_UNIT.fullmatch(text):
        return None
    bare = re.sub(r"\\(?:text|mathrm|mathbf|operatorname|rm)\b|\\cdot|\\times", "", text)
    return re.sub(r"[\s~{}\\^·.,;:!]", "", bare).replace("\u2212", "-")
