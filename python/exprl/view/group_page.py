"""The rollouts of one problem in one step, side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from exprl.monitor.rollout_reader import RecordedRollout
from exprl.view.links import NotThereError, Query, cut_page, link
from exprl.view.site import Site
from exprl.view.step_index import Group, Row

PER_PAGE = 16
COLOURS = ("grade", "advantage")
SHORT, LONG = 280, 2000
"""Characters of a step: of many rollouts side by side, and of a few."""
FEW = 3


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
    step, name = query.required("step"), query.text("problem") or ""
    colour, chosen = query.one_of("colour", COLOURS), query.numbers("show")
    index = site.catalog.step(step)
    place = next((i for i, one in enumerate(index.groups) if one.problem_id == name), None)
    if place is None:
        raise NotThereError(f"step {step} has no problem {name[:80]!r}")
    group = index.groups[place]
    rollouts = site.catalog.rollouts.group(step, name)
    rows = index.rows(rollout.row for rollout in rollouts)

    def address(**changes: object) -> str:
        state = {"step": step, "problem": name, "show": chosen, "colour": colour} | changes
        if state["colour"] == COLOURS[0]:
            state["colour"] = None
        return link("group", **state)  # type: ignore[arg-type]

    number, pages, part = cut_page(
        list(zip(rollouts, rows, strict=True)), query.number("page"), PER_PAGE
    )
    cards = [
        Card(
            rollout,
            row,
            link("rollout", step=step, row=rollout.row),
            rollout.row in chosen,
            address(show=chosen ^ {rollout.row}),
        )
        for rollout, row in part
    ]
    shown = [card for card in cards if card.chosen] or cards
    earlier, later = _other_steps(site, step, name)
    return GroupPage(
        step=step,
        group=group,
        first=rollouts[0],
        cards=cards,
        shown=shown,
        chars=LONG if len(shown) <= FEW else SHORT,
        colour=colour,
        colours=[(one, address(colour=one)) for one in COLOURS],
        clear=address(show=None),
        previous=_neighbour(index.groups, place - 1),
        next=_neighbour(index.groups, place + 1),
        earlier=earlier,
        later=later,
        number=number,
        pages=pages,
    )


def _neighbour(groups: Sequence[Group], place: int) -> str | None:
    if not 0 <= place < len(groups):
        return None
    return link("group", step=groups[place].step, problem=groups[place].problem_id)


def _other_steps(site: Site, step: int, name: str) -> tuple[str | None, str | None]:
    """The group of the same problem in the step before and after, as far as they are read."""
    steps = [group.step for group in site.catalog.groups().get(name, ())]
    earlier = max((one for one in steps if one < step), default=None)
    later = min((one for one in steps if one > step), default=None)
    return (
        None if earlier is None else link("group", step=earlier, problem=name),
        None if later is None else link("group", step=later, problem=name),
    )
