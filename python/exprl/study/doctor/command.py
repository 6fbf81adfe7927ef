"""`exprl doctor data`: look at every row, then say what was found."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from exprl import config
from exprl.functions.pool import Functions
from exprl.study.doctor import page
from exprl.study.doctor.examination import examine_rows
from exprl.verify.verifiers import Verifiers


@dataclass(frozen=True, slots=True)
class Request:
    """What to examine.

    cfg: its [data] names the file and the columns; its domains name the verifiers.
    tests: files whose problems must not be in the data.
    patch: JSONL file for the findings; None writes none.
    """

    cfg: config.Config
    tests: tuple[str, ...] = ()
    patch: Path | None = None
    as_json: bool = False


def examine(request: Request) -> float:
    """Examine the data, and print the table or JSON.

    Returns:
        The share of the rows that should be dropped or mended.

    Raises:
        ConfigError: the config or an option cannot be used.
        DataError: a file cannot be used.
    """
    cfg = request.cfg
    verifiers = Verifiers(cfg.treatment, None, Functions(cfg.functions))
    try:
        examination = examine_rows(cfg.data.parts[0], verifiers)
    finally:
        verifiers.close()
    page.show(examination, as_json=request.as_json)
    return examination.faulty_share
