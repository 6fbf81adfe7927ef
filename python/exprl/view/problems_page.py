"""All problems of the run, and one problem through the steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from exprl.view.chips import Chip, make_chips
from exprl.view.links import NotThereError, Query, cut_page, link
from exprl.view.site import Site
from exprl.view.step_index import Group, Row

PER_PAGE = 50
SORTS = ("id", "gained", "unsolved", "reward", "often")


@dataclass(frozen=True, slots=True)
class History:
    """The groups of a problem in the order of the steps."""

    problem_id: str
    domain: str
    groups: Sequence[Group]
    href: str

    @property
    def first(self) -> float | None:
        """Share of right rollouts in the first step that has any known."""
        return next(iter(self._shares()), None)

    @property
    def last(self) -> float | None:
        """The same in the last one."""
        return next(iter(reversed(self._shares())), None)

    @property
    def gained(self) -> float:
        """How much of it came in between; 0 where nothing is known."""
        return (self.last or 0.0) - (self.first or 0.0)

    @property
    def solved(self) -> int:
        """Right rollouts of all steps."""
        return sum(group.solved for group in self.groups)

    @property
    def rollouts(self) -> int:
        """Rollouts of all steps."""
        return sum(group.stop - group.start for group in self.groups)

    def _shares(self) -> list[float]:
        return [group.solved / group.known for group in self.groups if group.known]


@dataclass(frozen=True, slots=True)
class ProblemsPage:
    """What the template shows. read, steps: how many steps are read, of how many."""

    histories: list[History]
    count: int
    number: int
    pages: int
    read: int
    steps: int
    domains: list[str]
    domain: str | None
    search: str | None
    sort: str


@dataclass(frozen=True, slots=True)
class ProblemPage:
    """What the template shows: the groups with their rollouts."""

    history: History
    lines: list[tuple[Group, list[Row], str]]
    question: str | None
    chips: list[Chip]
    number: int
    pages: int
    read: int
    steps: int


def make_problems_page(site: Site, query: Query) -> ProblemsPage:
    """A page of the problems that were sampled so far.

    Raises:
        BadAddressError: a value of the address cannot be read.
    """
    domain, search = query.text("domain"), query.text("search")
    sort = query.one_of("sort", SORTS)
    everything = [_history(name, groups) for name, groups in site.catalog.groups().items()]
    wanted = (search or "").casefold()
    found = [
        one
        for one in everything
        if domain in (None, one.domain) and wanted in one.problem_id.casefold()
    ]
    found.sort(key=lambda one: one.problem_id)
    match sort:
        case "gained":
            found.sort(key=lambda one: -one.gained)
        case "unsolved":
            found.sort(key=lambda one: (one.solved, -one.rollouts))
        case "reward":
            found.sort(key=lambda one: _mean_reward(one.groups))
        case "often":
            found.sort(key=lambda one: -len(one.groups))
    number, pages, part = cut_page(found, query.number("page"), PER_PAGE)
    return ProblemsPage(
        histories=part,
        count=len(found),
        number=number,
        pages=pages,
        read=len(site.catalog.known()),
        steps=len(site.catalog.steps()),
        domains=sorted({one.domain for one in everything}),
        domain=domain,
        search=search,
        sort=sort,
    )


def make_problem_page(site: Site, query: Query) -> ProblemPage:
    """One problem through the steps.

    Raises:
        NotThereError: no step that is read so far has it.
        BadAddressError: a value of the address cannot be read.
    """
    name = query.text("problem") or ""
    groups = site.catalog.groups().get(name)
    read, steps = len(site.catalog.known()), len(site.catalog.steps())
    if groups is None:
        raise NotThereError(
            f"none of the {read} steps read so far, of {steps}, has a problem {name[:80]!r}"
        )
    number, pages, part = cut_page(list(reversed(groups)), query.number("page"), PER_PAGE)
    lines = [
        (
            group,
            site.catalog.step(group.step).rows(range(group.start, group.stop)),
            link("group", step=group.step, problem=name),
        )
        for group in part
    ]
    newest = groups[-1]
    questions = site.catalog.rollouts.table(newest.step, ("question",))["question"]
    return ProblemPage(
        history=_history(name, groups),
        lines=lines,
        question=questions[newest.start].as_py(),
        chips=make_chips(site, None, None, None, name),
        number=number,
        pages=pages,
        read=read,
        steps=steps,
    )


def _history(name: str, groups: Sequence[Group]) -> History:
    return History(name, groups[-1].domain, groups, link("problem", problem=name))


def _mean_reward(groups: Sequence[Group]) -> float:
    given = [group.reward for group in groups if group.reward == group.reward]
    return sum(given) / len(given) if given else 2.0
