"""The judges of a run: one for each way of looking at a rollout (view and rubric).

Domains that are looked at in the same way share a judge, its ledger and its limits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from exprl import config
from exprl.judge import Graded, Job, Judge, JudgeItem, JudgeSettings, JudgeStats, RuleJudge

Look = tuple[config.View, str | None]
"""View, and the file of the rubric; None takes the built-in ones."""


class Panel:
    """Sends every item to the judge of its domain."""

    def __init__(self, judges: Mapping[Look, Judge], look: Callable[[str], Look]) -> None:
        """`look`: that of a domain."""
        self._judges = judges
        self._look = look

    def submit(self) -> Session:
        """Open a batch."""
        return Session(self._judges, self._look)

    def stats(self) -> JudgeStats:
        """What all judges together have done so far."""
        return summed([judge.stats() for judge in self._judges.values()])


class Session:
    """A batch over all judges: push, close, iterate. Like `exprl.judge.Job`."""

    def __init__(self, judges: Mapping[Look, Judge], look: Callable[[str], Look]) -> None:
        """Made by `Panel.submit`."""
        self._look = look
        self._jobs: dict[Look, Job] = {name: judge.submit() for name, judge in judges.items()}
        self._pushed: dict[Look, list[int]] = {name: [] for name in judges}

    def push(self, item: JudgeItem) -> None:
        """Queue an item; its requests leave at once."""
        look = self._look(item.domain)
        self._pushed[look].append(sum(map(len, self._pushed.values())))
        self._jobs[look].push(item)

    def close(self) -> None:
        """No more items will come."""
        for job in self._jobs.values():
            job.close()

    def cancel(self) -> None:
        """End now: what is unfinished ends as `cancelled`."""
        for job in self._jobs.values():
            job.cancel()

    def __iter__(self) -> Iterator[Graded]:
        """Items as they finish, judge by judge; `index` counts the pushes of this session."""
        for look, job in self._jobs.items():
            for graded in job:
                yield replace(graded, index=self._pushed[look][graded.index])


@contextmanager
def open_panel(cfg: config.Config, run_dir: Path) -> Iterator[Panel]:
    """The judges of the run, which share its limits; each has a ledger of its own."""
    looks = dict.fromkeys(look_of(t) for t in cfg.treatments.values() if t.judged)
    with ExitStack() as stack:
        judges = {
            look: stack.enter_context(open_judge(looking(cfg, look, len(looks), run_dir), run_dir))
            for look in looks
        }
        yield Panel(judges, lambda domain: look_of(cfg.treatment(domain)))


def look_of(treatment: config.Treatment) -> Look:
    """Which judge of a panel grades the rows of a domain."""
    return treatment.view, treatment.rubric


def looking(cfg: config.Config, look: Look, judges: int, run_dir: Path) -> config.Config:
    """The config under which one of several judges is opened."""
    view, rubric = look
    own = cfg.judge
    ledger = own.ledger
    if look != (own.view, own.rubric) and judges > 1:
        ledger = f"{own.ledger or run_dir / 'ledger'}-{view}"
        if rubric is not None:  # its whole path: rubrics of one name in two folders are two
            ledger += f"-{rubric.removesuffix('.toml').strip('/').replace('/', '-')}"
    shared = {
        name: max(1, limit // judges)
        for name in ("concurrency", "rpm", "tpm")
        if (limit := getattr(own, name)) is not None
    }
    changes = {"view": view, "rubric": rubric, "ledger": ledger} | shared
    return cfg.model_copy(update={"judge": own.model_copy(update=changes)})


@contextmanager
def open_judge(cfg: config.Config, run_dir: Path) -> Iterator[Judge]:
    """The judge of the run; for judge.kind = "rules" with a server of its own on loopback."""
    with judge_settings(cfg, run_dir) as settings, Judge(settings) as judge:
        yield judge


@contextmanager
def judge_settings(cfg: config.Config, run_dir: Path) -> Iterator[JudgeSettings]:
    """How the run judges; a rule judge's server lives as long as the context."""
    own = cfg.judge
    settings = JudgeSettings(
        endpoints=own.endpoints,
        model=own.model,
        view=own.view,
        readout=own.readout,
        score_map=own.score_map,
        rubric=own.rubric,
        rubrics=own.rubrics,
        temperature=own.temperature,
        max_tokens=own.max_tokens,
        concurrency=own.concurrency,
        rpm=own.rpm,
        tpm=own.tpm,
        attempts=own.attempts,
        deadline_s=own.deadline_s,
        ledger=own.ledger or str(run_dir / "ledger"),
        api_key_env=own.api_key_env,
    )
    if own.kind == "server":
        yield settings
        return
    no_grade, random = own.fault_no_grade_rate, own.fault_random_rate
    # A ledger must not mix the grades of differently faulty judges.
    revision = f"faults {(no_grade, random)}, seed {cfg.seed}" if no_grade or random else ""
    with RuleJudge(own.rules, no_grade_rate=no_grade, random_rate=random, seed=cfg.seed) as server:
        yield replace(settings, endpoints=(server.url,), model=server.model, revision=revision)


def summed(stats: Sequence[JudgeStats]) -> JudgeStats:
    """Counts added up; of latencies the slowest judge's."""
    first, *others = stats
    for other in others:
        names = [field.name for field in fields(JudgeStats)]
        both = {name: _together(name, getattr(first, name), getattr(other, name)) for name in names}
        first = JudgeStats(**both)
    return first


def _together(name: str, one: Any, other: Any) -> Any:
    if one is None or other is None:
        return None
    if isinstance(one, Mapping):
        return {key: one.get(key, 0) + other.get(key, 0) for key in {**one, **other}}
    return max(one, other) if name.startswith("latency_") else one + other
