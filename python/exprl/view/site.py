"""What every page is made from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from exprl.errors import DataError
from exprl.monitor.judge_words import Words
from exprl.view.catalog import Catalog
from exprl.view.run_info import RunInfo
from exprl.view.tokens import Tokens


@dataclass(frozen=True, slots=True)
class Site:
    """One run: its settings and metrics, its rollouts, the judge's words, the tokenizer."""

    run: RunInfo
    catalog: Catalog
    words: Words
    tokens: Tokens

    @property
    def stamp(self) -> str:
        """Changes whenever the pages have more to show."""
        steps, read = self.catalog.steps(), len(self.catalog.known())
        tenths = 10 * read // max(1, len(steps))  # not every step that is read: pages would flicker
        return f"{self.run.stamp}.{max(steps, default='')}.{tenths}"


def open_site(run_dir: Path) -> Site:
    """Open a run.

    Raises:
        DataError: the folder is not a run's.
    """
    marks = ("config.toml", "metrics.jsonl", "rollouts")
    if not any((run_dir / name).exists() for name in marks):
        there = "is no folder" if not run_dir.is_dir() else f"holds none of {', '.join(marks)}"
        raise DataError(f"{run_dir} {there}: it is not the folder of a run")
    run = RunInfo(run_dir)
    return Site(run, Catalog(run_dir), Words(run_dir, run.cfg), Tokens(run_dir, run.cfg))
