"""The filters of a page: every pick with the number of rollouts that it finds, and a link."""

from __future__ import annotations

from dataclasses import dataclass

from exprl.monitor.picks import PICKS
from exprl.view.links import NotThereError, link
from exprl.view.site import Site

TITLES = {
    "best": "best",
    "worst": "worst",
    "disagree": "judge against verifier",
    "wrong_but_5": "wrong, but graded 5",
    "right_but_1": "right, but graded 1",
    "missing": "grade missing",
    "repaired": "repaired",
    "injection": "speaks to the judge",
    "largest_advantage": "largest advantage",
    "longest": "longest",
    "single_step": "single step",
    "overlong": "overlong",
    "blank": "blank",
}
"""Short names of the picks; a newer one has its own."""
ORDERS = ("best", "worst", "largest_advantage", "longest")
"""Picks that leave nearly nothing out: they are ways to sort."""


@dataclass(frozen=True, slots=True)
class Chip:
    """One filter. count: None where it sorts only, or the files lack what it looks at."""

    name: str
    title: str
    meaning: str
    count: int | None
    href: str
    chosen: bool
    lacks: bool


def make_chips(
    site: Site, step: int | None, chosen: str | None, domain: str | None, problem: str | None
) -> list[Chip]:
    """The filters over a step, or over all steps."""
    indices = site.catalog.known() if step is None else [site.catalog.step(step)]
    chips = []
    for name, pick in PICKS.items():
        having = [index for index in indices if pick.column not in index.lacks]
        lacks = bool(indices) and not having
        count = sum(len(index.select(name, domain, problem)[0]) for index in having)
        href = link("rollouts", pick=name, step=step, domain=domain, problem=problem)
        chips.append(
            Chip(
                name,
                TITLES.get(name, name.replace("_", " ")),
                pick.meaning,
                None if lacks or name in ORDERS else count,
                href,
                name == chosen,
                lacks,
            )
        )
    return chips


def check_pick(name: str | None) -> str | None:
    """The name of a pick.

    Raises:
        NotThereError: there is no such pick.
    """
    if name is not None and name not in PICKS:
        raise NotThereError(f"there is no filter {name[:40]!r}; the filters are {', '.join(PICKS)}")
    return name
