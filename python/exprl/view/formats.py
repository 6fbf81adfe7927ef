"""Numbers as the pages write them."""

from __future__ import annotations

import math

MINUS, NOTHING = "\N{MINUS SIGN}", "\N{EN DASH}"


def score_level(score: float | None) -> str:
    """The class of look.css for a score or a reward.

    >>> score_level(0.0), score_level(0.5), score_level(1.0), score_level(None)
    ('level-1', 'level-3', 'level-5', 'level-none')
    """
    if score is None or math.isnan(score):
        return "level-none"
    return f"level-{1 + round(4 * min(1.0, max(0.0, score)))}"


def write_signed(value: float | None) -> str:
    """An advantage with its sign.

    >>> write_signed(0.5), write_signed(0.0), write_signed(-0.25) == f"{MINUS}0.25"
    ('+0.50', '0', True)
    """
    if value is None or math.isnan(value):
        return NOTHING
    return "0" if value == 0.0 else f"{value:+.2f}".replace("-", MINUS)


def write_share(value: float | None) -> str:
    """A share in percent.

    >>> write_share(0.125), write_share(None) == NOTHING
    ('12.5 %', True)
    """
    return NOTHING if value is None or math.isnan(value) else f"{100 * value:.3g} %"


def write_fixed(value: float | None, digits: int = 2) -> str:
    """A number with so many digits after the point.

    >>> write_fixed(0.5), write_fixed(2.0, 0), write_fixed(-0.001)
    ('0.50', '2', '0.00')
    """
    if value is None or math.isnan(value):
        return NOTHING
    return f"{value:z.{digits}f}".replace("-", MINUS)  # z: no -0.00


def write_count(value: int) -> str:
    """A count.

    >>> write_count(132480)
    '132,480'
    """
    return f"{value:,}"
