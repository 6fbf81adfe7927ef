"""The rollouts of one problem in one step, side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from exprl.monitor.rollout_reader import RecordedRollout
from exprl.view.links import NotThereError, Query, cut_page, link
from exprl.view.site import Site
from exprl.view.step_index import Group, Row

PER_PAGE = 16
COLOURS = ("grade", "advantage")
SHORT, LONG = 280, 2000
"""Characters of a step: of many rollouts side by side, and of a few."""
FEW = 3
GIVEN_CHARS = 4_000
"""Characters of question, answer and reference."""


@dataclass(frozen=True, slots=True)
class State:
    """What the address says of the page.

    show: rows whose texts stand side by side; empty for all.   full: whether nothing is cut.
    """

    step: int
    problem: str
    show: frozenset[int]
    colour: str
    full: bool

    @property
    def href(self) -> str:
        """The address of this state."""
        return link(
            "group",
            step=self.step,
            problem=self.problem,
            show=self.show,
            colour=None if self.colour == COLOURS[0] else self.colour,
            full=self.full,
        )


@dataclass(frozen=True, slots=True)
class Card:
    """One rollout of the group. toggle: the same page with it chosen, or no longer chosen."""

    rollout: RecordedRollout
    row: Row
    href: str
    chosen: bool
    toggle: str


@dataclass(frozen=True, slots=True)
class GroupPage:
    """What the template shows.

    cards: every rollout of this page; shown: those whose texts stand side by side.
    """

    step: int
    group: Group
    first: RecordedRollout
    cards: list[Card]
    shown: list[Card]
    chars: int
    given_chars: int | None
    whole: str | None
    colour: str
    colours: list[tuple[str, str]]
    clear: str
    previous: str | None
    next: str | None
    earlier: str | None
    later: str | None
    number: int
    pages: int


def make_group_page(site: Site, query: Query) -> GroupPage:
    """The group that the address names by step and problem.

    Raises:
        NotThereError, BadAddressError, DataError: there is no such group.
    """
    state = State(
        step=query.required("step"),
        problem=query.text("problem") or "",
        show=query.numbers("show"),
        colour=query.one_of("colour", COLOURS),
        full=query.text("full") is not None,
    )
    index = site.catalog.step(state.step)
    ids = [group.problem_id for group in index.groups]
    if state.problem not in ids:
        raise NotThereError(f"step {state.step} has no problem {state.problem[:80]!r}")
    place = ids.index(state.problem)
    rollouts = site.catalog.rollouts.group(state.step, state.problem)
    rows = index.rows([rollout.row for rollout in rollouts])
    number, pages, part = cut_page(
        list(zip(rollouts, rows, strict=True)), query.number("page"), PER_PAGE
    )
    cards = [_make_card(rollout, row, state) for rollout, row in part]
    shown = [card for card in cards if card.chosen] or cards
    given = (rollouts[0].question, rollouts[0].answer, rollouts[0].reference)
    is_long = any(len(text or "") > GIVEN_CHARS for text in given)
    earlier, later = _other_steps(site, state)
    return GroupPage(
        step=state.step,
        group=index.groups[place],
        first=rollouts[0],
        cards=cards,
        shown=shown,
        chars=LONG if len(shown) <= FEW else SHORT,
        given_chars=None if state.full else GIVEN_CHARS,
        whole=replace(state, full=True).href if is_long and not state.full else None,
        colour=state.colour,
        colours=[(one, replace(state, colour=one).href) for one in COLOURS],
        clear=replace(state, show=frozenset()).href,
        previous=_neighbour(index.groups, place - 1),
        next=_neighbour(index.groups, place + 1),
        earlier=earlier,
        later=later,
        number=number,
        pages=pages,
    )


def _make_card(rollout: RecordedRollout, row: Row, state: State) -> Card:
    return Card(
        rollout,
        row,
        link("rollout", step=state.step, row=rollout.row),
        rollout.row in state.show,
        replace(state, show=state.show ^ {rollout.row}).href,
    )


def _neighbour(groups: Sequence[Group], place: int) -> str | None:
    if not 0 <= place < len(groups):
        return None
    return link("group", step=groups[place].step, problem=groups[place].problem_id)


def _other_steps(site: Site, state: State) -> tuple[str | None, str | None]:
    """The group of the same problem in the step before and after, as far as they are read."""
    steps = [group.step for group in site.catalog.groups().get(state.problem, ())]
    earlier = max((one for one in steps if one < state.step), default=None)
    later = min((one for one in steps if one > state.step), default=None)
    return (
        None if earlier is None else link("group", step=earlier, problem=state.problem),
        None if later is None else link("group", step=later, problem=state.problem),
    )
