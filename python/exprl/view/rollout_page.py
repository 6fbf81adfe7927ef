"""One rollout: each step in its colour, the judge's words, the reference beside it, its tokens."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from exprl.monitor.judge_words import Said
from exprl.monitor.report.marks import advantage_level, grade_level
from exprl.monitor.rollout_reader import RecordedRollout, RecordedStep
from exprl.view.catalog import Selection
from exprl.view.chips import TITLES, check_pick
from exprl.view.links import Query, link
from exprl.view.shown_tokens import ShownToken, show_tokens
from exprl.view.site import Site

COLOURS = ("grade", "advantage", "logp", "lag")
BY_TOKEN = ("logp", "lag")
"""Colours of single tokens."""
CHARACTERS = (4_000, 120_000, 240)
"""How many a page shows of a step, of all steps, and of each further step."""
TOKENS = (400, 3_000, 40)
"""The same for tokens."""
WORDS_CHARS = 8_000
"""Characters of a reply of the judge."""
PROBLEM = 0
"""In `full`: question, answer and reference; a step has its number, from 1."""


@dataclass(frozen=True, slots=True)
class State:
    """What the address says of the page.

    colour: what the colours show.   full: what is not cut.
    words: whether the judge's words stand under every step; else under those of `open`.
    pick, everywhere, domain, problem: the selection in which `next` goes on.
    """

    step: int
    row: int
    colour: str
    words: bool
    open: frozenset[int]
    full: frozenset[int]
    pick: str | None
    everywhere: bool
    domain: str | None
    problem: str | None

    @property
    def href(self) -> str:
        """The address of this state."""
        return link(
            "rollout",
            step=self.step,
            row=self.row,
            colour=None if self.colour == COLOURS[0] else self.colour,
            words=self.words,
            open=self.open,
            full=self.full,
            pick=self.pick,
            everywhere=self.everywhere,
            domain=self.domain,
            problem=self.problem,
        )


@dataclass(frozen=True, slots=True)
class Part:
    """A step as the page shows it.

    text: the start of the step's text, or its tokens in `tokens`.
    hidden: how many characters or tokens are cut off; `whole` shows them.
    said: the judge's words, where they are opened; `toggle` opens and closes them.
    """

    number: int
    step: RecordedStep
    level: str
    text: str
    tokens: list[ShownToken] | None
    hidden: int
    whole: str
    said: Said | None
    toggle: str
    logp_mean: float | None
    logp_min: float | None
    lags: tuple[int, int] | None


@dataclass(frozen=True, slots=True)
class RolloutPage:
    """What the template shows."""

    state: State
    rollout: RecordedRollout
    reward: float | None
    parts: list[Part]
    waits: bool
    words_chars: int
    colours: list[tuple[str, str]]
    all_words: str
    whole_problem: str | None
    given_chars: int | None
    no_tokens: str
    lag_mean: float | None
    group: str
    selection: str | None
    selection_title: str
    place: int | None
    count: int
    previous: str | None
    next: str | None


def make_rollout_page(site: Site, query: Query) -> RolloutPage:
    """The rollout that the address names by step and row.

    Raises:
        NotThereError, BadAddressError, DataError: there is no such rollout.
    """
    state = _read_state(query)
    index = site.catalog.step(state.step)
    row = index.rows([state.row])[0]
    rollout = site.catalog.rollouts.read(state.step, state.row)
    selection = site.catalog.select(
        None if state.everywhere else state.step, state.pick, state.domain, state.problem
    )
    place = selection.find((state.step, state.row))
    given = (rollout.question, rollout.answer, rollout.reference)
    is_cut = PROBLEM not in state.full and any(len(text or "") > CHARACTERS[0] for text in given)
    parts = _make_parts(site, rollout, state)
    return RolloutPage(
        state=state,
        rollout=rollout,
        reward=row.reward,
        parts=parts,
        waits=any(part.said.waits for part in parts if part.said),
        words_chars=WORDS_CHARS,
        colours=[(one, replace(state, colour=one).href) for one in COLOURS],
        all_words=replace(state, words=not state.words, open=frozenset()).href,
        whole_problem=replace(state, full=state.full | {PROBLEM}).href if is_cut else None,
        given_chars=None if PROBLEM in state.full else CHARACTERS[0],
        no_tokens=site.tokens.missing if state.colour in BY_TOKEN else "",
        lag_mean=None if rollout.lag is None or not rollout.length else float(rollout.lag.mean()),
        group=link("group", step=state.step, problem=rollout.problem_id),
        selection=_selection_href(state),
        selection_title=_selection_title(state),
        place=place,
        count=len(selection),
        previous=_neighbour(selection, place, -1, state),
        next=_neighbour(selection, place, 1, state),
    )


def _read_state(query: Query) -> State:
    return State(
        step=query.required("step"),
        row=query.required("row"),
        colour=query.one_of("colour", COLOURS),
        words=query.text("words") is not None,
        open=query.numbers("open"),
        full=query.numbers("full"),
        pick=check_pick(query.text("pick")),
        everywhere=query.text("everywhere") is not None,
        domain=query.text("domain"),
        problem=query.text("problem"),
    )


def _selection_href(state: State) -> str:
    step = None if state.everywhere else state.step
    return link("rollouts", pick=state.pick, step=step, domain=state.domain, problem=state.problem)


def _selection_title(state: State) -> str:
    title = TITLES.get(state.pick, state.pick) if state.pick else "all rollouts"
    where = "all steps" if state.everywhere else f"step {state.step}"
    only = "".join(f", {one}" for one in (state.domain, state.problem) if one)
    return f"{title}, {where}{only}"


def _neighbour(selection: Selection, place: int | None, by: int, state: State) -> str | None:
    """The rollout before or after this one, in the same colours."""
    if place is None or not 0 <= place + by < len(selection):
        return None
    step, row = selection.place(place + by)
    return replace(state, step=step, row=row, full=frozenset(), open=frozenset()).href


def _make_parts(site: Site, rollout: RecordedRollout, state: State) -> list[Part]:
    """The steps, each cut where it or the page is too long."""
    by_token = state.colour in BY_TOKEN
    usual, page, spare = TOKENS if by_token else CHARACTERS
    parts, spent = [], 0
    for number, step in enumerate(rollout.steps, 1):
        size = step.end - step.start if by_token else len(step.text)
        limit = usual if spent < page else spare
        shown = size if number in state.full else min(size, limit)
        spent += shown
        parts.append(_make_part(site, rollout, state, number, shown, size - shown))
    return parts


def _make_part(
    site: Site, rollout: RecordedRollout, state: State, number: int, shown: int, hidden: int
) -> Part:
    step = rollout.steps[number - 1]
    opened = frozenset(range(1, len(rollout.steps) + 1)) if state.words else state.open
    by_token = state.colour in BY_TOKEN
    colour_of = {"grade": grade_level(step.grade), "advantage": advantage_level(step.advantage)}
    logp = rollout.generator_logp[step.start : step.end]
    logp = logp[np.isfinite(logp)]
    lag = () if rollout.lag is None else rollout.lag[step.start : step.end]
    return Part(
        number=number,
        step=step,
        level=colour_of.get(state.colour, "plain"),
        text="" if by_token else step.text[:shown],
        tokens=show_tokens(site.tokens, rollout, step, shown, state.colour) if by_token else None,
        hidden=hidden,
        whole=replace(state, full=state.full | {number}).href,
        said=site.words.find(rollout.domain, step) if number in opened else None,
        toggle=replace(state, words=False, open=opened ^ {number}).href,
        logp_mean=float(logp.mean()) if len(logp) else None,
        logp_min=float(logp.min()) if len(logp) else None,
        lags=(int(min(lag)), int(max(lag))) if len(lag) else None,
    )
