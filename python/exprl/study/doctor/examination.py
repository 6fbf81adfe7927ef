"""All signs of one file, brought together."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from exprl import config
from exprl.study.doctor.answers import check_gold
from exprl.study.doctor.cases import Case, read_cases
from exprl.study.doctor.findings import Finding
from exprl.verify.verifiers import Verifiers


@dataclass(slots=True)
class Examination:
    """What was found in one file.

    fingerprints: of each row, by which a patch knows it again.
    """

    path: str
    fingerprints: list[str] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)

    @property
    def rows(self) -> int:
        """How many rows the file has."""
        return len(self.fingerprints)

    @property
    def faulty_share(self) -> float:
        """The share of the rows of which a finding proposes a change."""
        return len({one.row for one in self.findings if one.proposal != "keep"}) / self.rows


def examine_rows(source: config.Source, verifiers: Verifiers) -> Examination:
    """Look at every row of the source."""
    found = Examination(source.path)
    for case in read_cases(source):
        found.fingerprints.append(case.fingerprint)
        found.findings += _examine_row(case, verifiers)
    return found


def _examine_row(case: Case, verifiers: Verifiers) -> Iterator[Finding]:
    if case.error is not None:
        yield Finding(case.number, case.id, "unusable", True, case.error, "drop")
    if case.problem is not None:
        yield from check_gold(case, case.problem, verifiers)
