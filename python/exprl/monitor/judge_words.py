"""The judge's own words about a step, from the ledger of the step's domain."""

from __future__ import annotations

import threading
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from exprl import config
from exprl.errors import ExprlError
from exprl.judge import LedgerReader, Reply
from exprl.monitor.rollout_reader import RecordedStep
from exprl.reward.judges import ledger_folder


@dataclass(frozen=True, slots=True)
class Said:
    """What the ledger has of a step's grade.

    reply: None where there is none; then `why` says the reason.
    ledger: its folder; None where no judge was asked.
    waits: whether the ledger is being indexed, so that the reply may be there in a moment.
    """

    reply: Reply | None
    why: str = ""
    ledger: Path | None = None
    waits: bool = False


class Words:
    """Finds replies; each ledger is opened once, without its lock, so that the run can go on."""

    def __init__(self, run_dir: Path, cfg: config.Config | None) -> None:
        self._run_dir = run_dir
        self._cfg = cfg
        self._readers: dict[Path, LedgerReader] = {}
        self._lock = threading.Lock()

    def prepare(self) -> None:
        """Open the ledgers of the run; long ones begin to be indexed."""
        domains = self._cfg.treatments if self._cfg else ()
        ledgers = {self._find_ledger(domain) for domain in domains}
        for ledger in filter(None, ledgers):
            with suppress(ExprlError):  # not there yet; `find` says so when somebody asks
                self._open(ledger).is_ready()

    def close(self) -> None:
        """Close the ledgers."""
        with self._lock:
            while self._readers:
                self._readers.popitem()[1].close()

    def find(self, domain: str, step: RecordedStep) -> Said:
        """The judge's words about a step of a rollout of this domain, or why there are none."""
        if step.ledger_key is None:
            return Said(None, _why_no_key(step))
        if self._cfg is None:
            return Said(None, "without the run's config.toml nobody knows where its ledger is")
        ledger = self._find_ledger(domain)
        if ledger is None:
            return Said(None, f"no judge is asked about the domain {domain}")
        try:
            reader = self._open(ledger)
            if not reader.is_ready():
                return Said(
                    None, "the ledger is being indexed; the words will be here", ledger, True
                )
            reply = reader.get(step.ledger_key)
        except ExprlError as error:
            return Said(None, str(error), ledger)
        why = "" if reply else "the ledger has no reply under this key; was it moved or deleted?"
        return Said(reply, why, ledger)

    def _find_ledger(self, domain: str) -> Path | None:
        assert self._cfg is not None
        treatment = self._cfg.treatment(domain)
        return ledger_folder(self._cfg.judge, self._cfg.treatments, treatment, self._run_dir)

    def _open(self, ledger: Path) -> LedgerReader:
        with self._lock:
            if ledger not in self._readers:
                self._readers[ledger] = LedgerReader(ledger)
            return self._readers[ledger]


def _why_no_key(step: RecordedStep) -> str:
    if step.status is not None:
        return f"the judge gave no reply ({step.status})"
    return "the judge was not asked about this step, or an older exprl wrote the file"
