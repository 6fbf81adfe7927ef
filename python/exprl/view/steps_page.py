"""The first page: the run's steps as a chart, and the problems of one of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from exprl.view.chips import Chip, make_chips
from exprl.view.links import Query, cut_page, link
from exprl.view.run_info import Bar, alarms_of
from exprl.view.site import Site
from exprl.view.step_index import Group, Row, StepIndex

PER_PAGE = 60
"""Problems of a step."""
SORTS = ("order", "reward", "solved", "spread", "missing", "id")


@dataclass(frozen=True, slots=True)
class GroupLine:
    """A problem of the step, with its rollouts."""

    group: Group
    question: str | None
    rows: Sequence[Row]
    href: str


@dataclass(frozen=True, slots=True)
class StepsPage:
    """What the template shows.

    step: the one that is shown; None where the run has no rollouts yet.
    follows: whether the page goes to the newest step as the run goes on.
    """

    bars: list[Bar]
    step: int | None
    follows: bool
    before: int | None
    after: int | None
    newest: int | None
    reward: float | None
    solved: float | None
    alarms: tuple[str, ...]
    rollouts: int
    chips: list[Chip]
    lines: list[GroupLine]
    number: int
    pages: int
    problems: int
    domains: list[str]
    domain: str | None
    search: str | None
    sort: str
    lacks: tuple[str, ...]
    broken: list[str]


def make_steps_page(site: Site, query: Query) -> StepsPage:
    """The step that the address names, else the newest one.

    Raises:
        NotThereError, BadAddressError, DataError: the step cannot be shown.
    """
    steps = site.catalog.steps()
    asked = query.number("step")
    step = asked if asked is not None else (steps[-1] if steps else None)
    domain, search = query.text("domain"), query.text("search")
    sort = query.one_of("sort", SORTS)
    index = site.catalog.step(step) if step is not None else None
    groups = index.groups if index else []
    metrics = site.run.metrics().get(step, {}) if step is not None else {}
    questions = _read_questions(site, step)
    found = _find_groups(groups, questions, domain, search, sort)
    number, pages, part = cut_page(found, query.number("page"), PER_PAGE)
    return StepsPage(
        bars=site.run.bars(steps),
        step=step,
        follows=asked is None,
        before=max((one for one in steps if step is not None and one < step), default=None),
        after=min((one for one in steps if step is not None and one > step), default=None),
        newest=steps[-1] if steps else None,
        reward=metrics.get("reward/mean"),
        solved=metrics.get("reward/correct_rate"),
        alarms=alarms_of(metrics),
        rollouts=len(index) if index else 0,
        chips=make_chips(site, step, None, domain, None) if step is not None else [],
        lines=[_make_line(index, one, questions[one.start]) for one in part] if index else [],
        number=number,
        pages=pages,
        problems=len(groups),
        domains=sorted({group.domain for group in groups}),
        domain=domain,
        search=search,
        sort=sort,
        lacks=index.lacks if index else (),
        broken=site.catalog.broken(),
    )


def _read_questions(site: Site, step: int | None) -> list[str | None]:
    if step is None:
        return []
    questions: list[str | None] = site.catalog.rollouts.table(step, ("question",))[0].to_pylist()
    return questions


def _find_groups(
    groups: Sequence[Group],
    questions: Sequence[str | None],
    domain: str | None,
    search: str | None,
    sort: str,
) -> list[Group]:
    """The groups that fit, in the order that is asked for. questions: of each row."""
    wanted = (search or "").casefold()
    return [
        group
        for group in sorted(groups, key=_sort_key(sort))
        if domain in (None, group.domain)
        and wanted in f"{group.problem_id}\n{questions[group.start] or ''}".casefold()
    ]


def _make_line(index: StepIndex, group: Group, question: str | None) -> GroupLine:
    return GroupLine(
        group,
        question,
        index.rows(range(group.start, group.stop)),
        link("group", step=group.step, problem=group.problem_id),
    )


def _sort_key(sort: str) -> Callable[[Group], float | str | int]:
    match sort:
        case "reward":
            return lambda group: _last_if_unknown(group.reward)
        case "solved":
            return lambda group: group.solved / group.known if group.known else 2.0
        case "spread":
            return lambda group: _last_if_unknown(-group.spread)
        case "missing":
            return lambda group: -group.missing
        case "id":
            return lambda group: group.problem_id
        case _:
            return lambda group: group.start


def _last_if_unknown(value: float) -> float:
    return math.inf if math.isnan(value) else value
