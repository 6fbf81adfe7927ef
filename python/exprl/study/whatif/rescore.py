"""Recorded rollouts, scored under other settings by the scorer that training uses."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from exprl import config
from exprl.config import Treatment
from exprl.data.references import choose_references
from exprl.data.tokenizer import load_tokenizer
from exprl.errors import ConfigError, DataError
from exprl.functions.pool import Functions
from exprl.judge import Forecast, Forecaster, Graded, JudgeItem, JudgeSettings
from exprl.reward.judges import (
    Asks,
    Grading,
    Judges,
    grading_of,
    gradings_of,
    open_judge,
    serve_rules,
    settings_for,
)
from exprl.reward.rubric_dropout import RubricDropout, open_dropout
from exprl.reward.scorer import Scorer
from exprl.run.functions import find_shown
from exprl.run.problems import load_training_problems
from exprl.steps import Splitter
from exprl.study.whatif.changes import Changes
from exprl.study.whatif.recorded import RecordedStep, with_answers
from exprl.types import Problem, Scored
from exprl.verify.sandbox.sandbox import Sandbox
from exprl.verify.verifiers import Verifiers, needs_sandbox

S = TypeVar("S", bound=JudgeSettings)

AHEAD = 16
"""Steps whose rollouts are with the judge at the same time."""
NOWHERE = "http://127.0.0.1:9/v1"
"""Stands for the servers of a judge that nothing is sent to."""


@dataclass(frozen=True, slots=True)
class Materials:
    """What scoring needs beside the rollouts.

    problems, references: of the data, by problem id; None where the run's files hold what is
        needed.
    splitter: None where the rollouts are cut already.
    rubric_dropout: None where the judge is shown whole rubrics, or none.
    """

    problems: Mapping[str, Problem] | None
    references: Mapping[str, str | None] | None
    splitter: Splitter | None
    verifiers: Verifiers
    rubric_dropout: RubricDropout | None = None


@contextmanager
def open_materials(changes: Changes) -> Iterator[Materials]:
    """Read what the run's files do not hold, and close the verifiers at the end.

    Raises:
        ConfigError, DataError: the data, the model's tokenizer or the sandbox cannot be used.
    """
    cfg = changes.after
    from_data = changes.references == "data"
    tokenizer = None
    if changes.cuts or changes.reads_answers or from_data:
        tokenizer = load_tokenizer(cfg.model)
    functions = Functions(cfg.functions)
    problems = None
    if changes.reads_answers or from_data:
        problems = load_training_problems(cfg, tokenizer, shown_to=find_shown(cfg, functions))
    sandbox = None
    if changes.verifies and problems and needs_sandbox(cfg.treatment, problems):
        sandbox = Sandbox(cfg.sandbox)
    verifiers = Verifiers(cfg.treatment, sandbox, functions)
    splitter = None
    if changes.cuts:
        from exprl.run.open import open_splitter  # with torch, which the rest does not need

        splitter = open_splitter(cfg, tokenizer, verifiers.functions)
    references = None
    if from_data and problems:
        references = choose_references(cfg.judge.condition, problems, cfg.seed)
    by_id = {p.id: p.without_reference() for p in problems} if problems else None
    dropout = open_dropout(cfg.judge, cfg.seed)
    try:
        yield Materials(
            by_id if changes.reads_answers else None, references, splitter, verifiers, dropout
        )
    finally:
        verifiers.close()


class Preview:
    """Stands where the judges stand, and counts what they would be asked."""

    def __init__(
        self, forecasters: Mapping[Grading, Forecaster], treatment: Callable[[str], Treatment]
    ) -> None:
        self._forecasters = forecasters
        self._treatment = treatment
        self.rollouts = 0

    def submit(self) -> Preview:
        """Itself: it counts all batches together."""
        return self

    def push(self, item: JudgeItem) -> None:
        """Count the requests about a rollout."""
        self.rollouts += 1
        self._forecasters[grading_of(self._treatment(item.domain))].add(item)

    def close(self) -> None:
        """Nothing is under way."""

    def cancel(self) -> None:
        """Nothing is under way."""

    def __iter__(self) -> Iterator[Graded]:
        """No grades."""
        return iter(())

    def forecast(self) -> Forecast:
        """What all judges together would be asked."""
        total = None
        for forecaster in self._forecasters.values():
            own = forecaster.forecast()
            total = own if total is None else total.plus(own)
        return total or Forecast()


@contextmanager
def open_preview(changes: Changes, run_dir: Path) -> Iterator[Preview]:
    """Judges that are not asked: they read the ledgers, and lock nothing."""
    with ExitStack() as stack:
        forecasters = {}
        for grading, section in _sections(changes, run_dir).items():
            settings = stack.enter_context(serve_rules(section, changes.after.seed))
            forecasters[grading] = Forecaster(_with_endpoint(settings))
        yield Preview(forecasters, changes.after.treatment)


@contextmanager
def open_real_judges(changes: Changes, run_dir: Path, forecast: Forecast) -> Iterator[Judges]:
    """The judges, each with its ledger.

    Raises:
        ConfigError: requests must be sent, and the run served its judge itself.
        JudgeError: a ledger is in use, for example because the run is still training.
    """
    cfg = changes.after
    if forecast.requests and cfg.judge.serve and not cfg.judge.endpoints:
        raise ConfigError(
            "the run started its judge itself (judge.serve), and it is gone: start it with `exprl"
            f" serve {run_dir}/config.toml --role judge`, and name it with --judge URL"
        )
    with ExitStack() as stack:
        judges = {
            grading: stack.enter_context(open_judge(_with_endpoint(section), cfg.seed))
            for grading, section in _sections(changes, run_dir).items()
        }
        yield Judges(judges, lambda domain: grading_of(cfg.treatment(domain)))


def _with_endpoint(section: S) -> S:
    return section if section.endpoints else replace(section, endpoints=(NOWHERE,))


def _sections(changes: Changes, run_dir: Path) -> dict[Grading, config.Judge]:
    """The settings of each judge that is needed.

    A way of grading that the run has keeps its ledger, and another one gets a ledger of its own
    beside it: two judges cannot write into one.
    """
    run, cfg = changes.before, changes.after
    known = gradings_of(run.treatments)
    needed = gradings_of({domain: cfg.treatment(domain) for domain in changes.domains})
    sections = {}
    for grading in needed:
        own = settings_for(cfg.judge, grading, len(needed), run_dir)
        if "judge.ledger" not in changes.overrides:
            count = len(known) if grading in known else len(known) + 1
            ledger = settings_for(run.judge, grading, count, run_dir).ledger
            own = replace(own, ledger=ledger)
        sections[grading] = own
    return sections


def score_steps(
    steps: Iterable[RecordedStep],
    changes: Changes,
    materials: Materials,
    judges: Asks | None,
    progress: Callable[[int, int], None] = lambda done, of: None,
) -> Iterator[tuple[RecordedStep, list[Scored]]]:
    """Each step with its rollouts scored under the new settings, in the order of `read_step`.

    Args:
        judges: None where no judge is asked.
        progress: told how many of how many rollouts of a step are graded.
    """
    waiting: deque[tuple[RecordedStep, Scorer]] = deque()
    try:
        for step in steps:
            waiting.append((step, _start(step, changes, materials, judges)))
            if len(waiting) > AHEAD:
                first, scorer = waiting.popleft()
                yield first, scorer.finish(progress)
        while waiting:
            first, scorer = waiting.popleft()
            yield first, scorer.finish(progress)
    finally:
        for _, scorer in waiting:
            scorer.cancel()


def _start(
    step: RecordedStep, changes: Changes, materials: Materials, judges: Asks | None
) -> Scorer:
    """A scorer that has all rollouts of a step."""
    problems = step.problems
    if materials.problems is not None:
        problems = with_answers(step, materials.problems).problems
    if judges and materials.rubric_dropout:
        judges = materials.rubric_dropout.at_step(judges, step.step)
    scorer = Scorer(
        problems,
        _references(step, changes, materials),
        materials.splitter,
        changes.after.reward,
        changes.after.treatment,
        judges,
        materials.verifiers,
    )
    for one in step.rollouts:
        scorer.push(one.scored.rollout, one.known)
    return scorer


def _references(
    step: RecordedStep, changes: Changes, materials: Materials
) -> Mapping[str, str | None]:
    """What the judge is shown for each problem of a step."""
    if changes.after.judge.condition == "none":
        return dict.fromkeys((p.id for p in step.problems), None)
    if materials.references is None:
        return {one.scored.rollout.problem_id: one.reference for one in step.rollouts}
    missing: Sequence[str] = [p.id for p in step.problems if p.id not in materials.references]
    if missing:
        raise DataError(
            f"problem {missing[0]!r} of step {step.step} is not in the run's data, whose references"
            " the judge is to be shown: the data has changed since; --set data.path names another"
            " file"
        )
    return materials.references
