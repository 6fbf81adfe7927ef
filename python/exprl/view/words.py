"""The judge's own words about a step, from the ledger of the step's domain."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from exprl import config
from exprl.monitor.rollout_reader import RecordedStep
from exprl.reward.judges import grading_of, settings_for


@dataclass(frozen=True, slots=True)
class Said:
    """What the ledger has of a step's grade.

    words: the reply; None where there is none, and `why` says the reason.
    ledger: its folder.
    """

    words: str | None
    why: str
    tokens: int | None
    ledger: str


class Words:
    """Finds replies; each ledger is opened once, without its lock, so that the run can go on."""

    def __init__(self, run_dir: Path, cfg: config.Config | None) -> None:
        self._run_dir = run_dir
        self._cfg = cfg

    def find(self, domain: str, step: RecordedStep) -> Said:
        """The judge's words about a step of a rollout of this domain, or why there are none."""
        if step.ledger_key is None:
            return Said(None, _why_no_key(step), None, "")
        where = str(self.find_ledger(domain) or "")
        return Said(None, "exprl judge ledger export has it under this key", None, where)

    def find_ledger(self, domain: str) -> Path | None:
        """The folder of the ledger that holds the grades of a domain."""
        if self._cfg is None:
            return None
        treatments = self._cfg.treatments.values()
        gradings = dict.fromkeys(grading_of(one) for one in treatments if one.judged)
        grading = grading_of(self._cfg.treatment(domain))
        settings = settings_for(self._cfg.judge, grading, max(1, len(gradings)), self._run_dir)
        return Path(settings.ledger or self._run_dir / "ledger")


def _why_no_key(step: RecordedStep) -> str:
    if step.status is not None:
        return f"the judge gave no reply ({step.status})"
    if step.score is not None:
        return (
            "the rollout file has no key of the ledger for this step: the score did not come from"
            " the judge, or an older exprl wrote the file"
        )
    return "the judge was not asked about this step, or an older exprl wrote the file"
