"""`exprl doctor data` and `exprl doctor apply`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from exprl import config
from exprl.errors import ConfigError
from exprl.study.doctor import page
from exprl.study.doctor.examination import examine_rows
from exprl.study.doctor.patch import apply_patch, write_patch


@dataclass(frozen=True, slots=True)
class Request:
    """What to examine.

    cfg: its [data] names the file and the columns; its domains name the verifiers.
    tests: sources whose problems must not be in the data.
    patch: JSONL file for the findings; None writes none.
    """

    cfg: config.Config
    tests: tuple[config.Source, ...] = ()
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
    if request.patch is not None and request.patch.exists():
        raise ConfigError(f"{request.patch} exists and is not replaced; choose another --patch")
    found = examine_rows(request.cfg, request.tests)
    if request.patch is not None:
        write_patch(request.patch, found)
    page.show(found, request.patch, as_json=request.as_json)
    return found.changed / found.rows


def apply(patch: Path, out: Path, data: str | None) -> str:
    """Write the data after the patch; one line for the user."""
    done = apply_patch(patch, out, data)
    kept = done.read - done.dropped
    return (
        f"wrote {out}: {kept} of {done.read} rows, {done.dropped} dropped,"
        f" {done.replaced} answers replaced"
    )
