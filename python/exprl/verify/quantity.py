r"""A measured quantity: a number and its unit."""

from __future__ import annotations

import math
import re

from exprl.verify import answer

LONGEST_QUANTITY = 200
TOLERANCE = 0.01
"""Relative difference of two quantities that are one: rounding and constants of a textbook."""

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


def is_equal(found: str, gold: str) -> bool:
    r"""Whether two final answers of a science problem are one.

    Two numbers are one if they differ by at most 1 % and have the same unit, or one has none; the
    rest is mathematics (`answer.is_equal`).

    >>> is_equal(r"4.52 \times 10^{33}\ \mathrm{erg/s}", "4.5e33")
    True
    >>> is_equal(r"3\ \mathrm{m}", r"3\ \mathrm{cm}")
    False
    >>> is_equal(r"4.5 \text{ m/s}", "4.5 m/s")
    True
    """
    here, there = _parse(found), _parse(gold)
    # A letter behind a number may be a variable, unless the other side sets it as a unit.
    if here is None and there is not None and there[1]:
        here = _parse(found, letters_are_units=True)
    elif there is None and here is not None and here[1]:
        there = _parse(gold, letters_are_units=True)
    if here is None or there is None:
        return answer.is_equal(found, gold)
    (value, unit), (gold_value, gold_unit) = here, there
    if unit and gold_unit and unit != gold_unit:
        return False
    return abs(value - gold_value) <= TOLERANCE * abs(gold_value)


def is_quantity(text: str) -> bool:
    """Whether the text is one number with at most a unit."""
    return _parse(text) is not None


def _parse(text: str, *, letters_are_units: bool = False) -> tuple[float, str] | None:
    """Value and unit, if the text is one number with at most a unit."""
    bare = _POWER_OF_TEN.sub(r"\1 1\\times 10^", text.strip().strip("$").strip())
    found = _NUMBER.fullmatch(bare) if len(bare) <= LONGEST_QUANTITY else None
    if found is None:
        return None
    unit = _parse_unit(found["unit"], letters_are_units=letters_are_units)
    if unit is None:
        return None
    mantissa = re.sub(r"[\s,]", "", found["mantissa"]).replace("\u2212", "-")
    power = (found["power"] or found["exponent"] or "0").replace("\u2212", "-")
    value = float(f"{mantissa}e{power}")
    return (value, unit) if math.isfinite(value) else None


def _parse_unit(text: str, *, letters_are_units: bool) -> str | None:
    """What stands behind a number, without what sets it; None if it may be mathematics: `3x`."""
    words = re.findall(r"[^\W\d_]+", text) if _WORDS.fullmatch(text) else []
    units = [w for w in words if w in _UNITS or w.removesuffix("s") in _UNITS]
    known = bool(units or (letters_are_units and words)) and all(
        w in units or len(w) == 1 for w in words
    )
    if not known and not _SET_UNIT.fullmatch(text):
        return None
    bare = re.sub(r"\\(?:text|mathrm|mathbf|operatorname|rm)\b|\\cdot|\\times", "", text)
    return re.sub(r"[\s~{}\\^·.,;:!]", "", bare).replace("\u2212", "-")
