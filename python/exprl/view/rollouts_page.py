"""Rollouts that a filter finds, in one step or in all of them."""

from __future__ import annotations

from dataclasses import dataclass

from exprl.monitor.picks import PICKS
from exprl.view.chips import Chip, check_pick, make_chips
from exprl.view.links import Query, Value, cut_page, link
from exprl.view.site import Site
from exprl.view.step_index import Row

PER_PAGE = 50


@dataclass(frozen=True, slots=True)
class RolloutsPage:
    """What the template shows. read, recorded: how many steps are read, of how many."""

    chips: list[Chip]
    pick: str | None
    meaning: str
    step: int | None
    domain: str | None
    problem: str | None
    domains: list[str]
    recorded: list[int]
    count: int
    lines: list[tuple[Row, str]]
    number: int
    pages: int
    read: int


def make_rollouts_page(site: Site, query: Query) -> RolloutsPage:
    """A page of the selection that the address names.

    Raises:
        NotThereError, BadAddressError, DataError: it names a filter or a step that is not there.
    """
    pick, step = check_pick(query.text("pick")), query.number("step")
    domain, problem = query.text("domain"), query.text("problem")
    found = site.catalog.select(step, pick, domain, problem)
    selection: dict[str, Value] = {
        "pick": pick,
        "everywhere": step is None,
        "domain": domain,
        "problem": problem,
    }
    number, pages, part = cut_page(range(len(found)), query.number("page"), PER_PAGE)
    known = site.catalog.known()
    indices = {index.step: index for index in known}
    return RolloutsPage(
        chips=make_chips(site, step, pick, domain, problem),
        pick=pick,
        meaning=PICKS[pick].meaning if pick else "Every rollout, in the order of the files.",
        step=step,
        domain=domain,
        problem=problem,
        domains=sorted({group.domain for index in known for group in index.groups}),
        recorded=site.catalog.steps(),
        count=len(found),
        lines=[
            (indices[at].rows([row])[0], link("rollout", step=at, row=row, **selection))
            for at, row in map(found.place, part)
        ],
        number=number,
        pages=pages,
        read=len(known),
    )
