"""Runs to look at: files of rollouts with chosen grades, and pages as a browser reads them."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
from starlette.testclient import TestClient

from exprl.monitor.rollout_file import write_rollouts
from exprl.types import Message, Problem, Prompt, Rollout, Scored, Segment
from exprl.view.app import make_app

TOKENS_PER_STEP = 2


def scored(
    problem: str,
    index: int,
    grades: Sequence[int | None],
    texts: Sequence[str] | None = None,
    *,
    finish: str = "stop",
    tokens: int = TOKENS_PER_STEP,
    domain: str = "math",
    **more: Any,
) -> Scored:
    """A rollout with one grade for each step."""
    texts = texts or [f"step {i + 1}." for i in range(len(grades))]
    ends = [tokens * (i + 1) for i in range(len(texts))]
    segments = tuple(
        Segment(end - tokens, end, text) for end, text in zip(ends, texts, strict=True)
    )
    n = tokens * len(texts)
    versions = np.full(n, 3, np.int32)
    versions[n // 2 :] = 4
    rollout = Rollout(
        problem,
        index,
        np.zeros(1, np.int32),
        np.arange(n, dtype=np.int32),
        np.linspace(-6.0, 0.0, n, dtype=np.float32),
        finish,
        versions,
    )
    return Scored(
        rollout,
        segments,
        tuple(grades),
        tuple(None if g is None else (g - 1) / 4 for g in grades),
        more.pop("correct", None),
        domain=domain,
        statuses=more.pop("statuses", tuple("ok" if g else "timeout" for g in grades)),
        ledger_keys=(None,) * len(grades),
        **more,
    )


def write_step(
    run_dir: Path,
    step: int,
    rollouts: Sequence[Scored],
    questions: Mapping[str, str] | None = None,
    references: Mapping[str, str] | None = None,
    reward: float = 0.5,
) -> None:
    """Write a step's rollouts, with the advantages of `end`, and its line of metrics."""
    names = {one.rollout.problem_id: one.domain for one in rollouts}
    texts = {name: f"What is {name}?" for name in names} | dict(questions or {})
    problems = {
        name: Problem(name, Prompt(name, (Message("user", texts[name]),)), "42", domain)
        for name, domain in names.items()
    }
    scores = [[np.nan if s is None else s for s in one.scores] for one in rollouts]
    write_rollouts(
        run_dir,
        step,
        rollouts,
        [np.array([*(s - row[-1] for s in row[:-1]), row[-1]]) for row in scores],
        problems=problems,
        references=references or {name: f"the solution of {name}" for name in names},
        trained_version=5,
    )
    row = {"step": step, "time_s": 1.8e9, "reward/mean": reward, "reward/correct_rate": 0.25}
    with (run_dir / "metrics.jsonl").open("a") as file:
        file.write(json.dumps(row) + "\n")


@contextmanager
def open_pages(run_dir: Path) -> Iterator[TestClient]:
    """The pages of a run."""
    with TestClient(make_app(run_dir, lambda: None), base_url="http://127.0.0.1") as client:
        yield client


class Page(HTMLParser):
    """A page as a browser reads it: its text, its elements, and where its links lead."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self._words: list[str] = []
        self.feed(source)
        self.text = re.sub(r"\s+", " ", html.unescape("".join(self._words)))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self._words.append(data)

    def links(self, start: str = "") -> list[str]:
        """The addresses of its links that begin like this."""
        found = [attrs.get("href") or "" for tag, attrs in self.elements if tag == "a"]
        return [href for href in found if href.startswith(start)]

    def count(self, word: str) -> int:
        """How many elements have this class."""
        return sum(word in (attrs.get("class") or "").split() for _, attrs in self.elements)


def read(client: TestClient, address: str) -> Page:
    """A page that is there."""
    answer = client.get(f"/{address}")
    assert answer.status_code == 200, answer.text
    return Page(answer.text)
