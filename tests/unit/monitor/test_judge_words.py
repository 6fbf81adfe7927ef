"""The judge's words behind a grade: found in the ledger of the rollout's domain."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from exprl import config
from exprl.judge import JudgeItem
from exprl.monitor.judge_words import Words
from exprl.monitor.rollout_reader import RecordedStep
from exprl.reward.judges import open_judges

SEGMENTS = ("04/8=0r4", "###44/8=5r4")
MISSING_KEY = "ab" * 32


def step(key: str | None, status: str | None = "ok") -> RecordedStep:
    return RecordedStep("text", 0, 2, 5, 1.0, 0.0, status, key)


def make_config(repo: Path, run_dir: Path) -> config.Config:
    """A run whose domain `whole` is graded by an outcome, and thus has a ledger of its own."""
    words = [
        f"run_dir={run_dir}",
        "data.columns.domain=domain",
        "domains.whole.view=outcome",
        "domains.whole.advantage=grpo",
        "domains.sure.source=verifier",
        "domains.sure.advantage=grpo",
    ]
    return config.load(repo / "configs" / "division_process.toml", words)


@pytest.fixture(scope="module")
def judged(
    repo: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[config.Config, dict[str, list[str]]]:
    """A run that was judged, and the keys of the replies by domain."""
    cfg = make_config(repo, tmp_path_factory.mktemp("judged") / "run")
    run_dir = Path(cfg.run_dir)
    keys: dict[str, list[str]] = {}
    with open_judges(cfg.judge, cfg.treatments, cfg.treatment, cfg.seed, run_dir) as judges:
        session = judges.submit()
        domains = ("division", "whole")
        for domain in domains:
            session.push(JudgeItem(domain, "8)4405=", "04/8=0r4", SEGMENTS, domain))
        session.close()
        for graded in session:
            keys[domains[graded.index]] = [verdict.key for verdict in graded.verdicts]
    return cfg, keys


def test_each_domain_has_its_words_in_its_own_ledger(judged) -> None:
    cfg, keys = judged
    words = Words(Path(cfg.run_dir), cfg)
    found = [words.find("division", step(key)) for key in keys["division"]]
    assert len(found) == len(SEGMENTS)
    assert all(said.reply and f"Score: {said.reply.grade}" in said.reply.text for said in found)
    [outcome] = keys["whole"]
    said = words.find("whole", step(outcome))
    assert said.reply and said.ledger != found[0].ledger
    other = words.find("division", step(outcome))
    assert other.reply is None and "no reply under this key" in other.why
    words.close()


def test_the_words_of_a_run_that_was_moved_are_found(judged, tmp_path: Path) -> None:
    cfg, keys = judged
    moved = tmp_path / "moved"
    shutil.copytree(cfg.run_dir, moved)
    words = Words(moved, cfg)
    words.prepare()
    said = words.find("division", step(keys["division"][0]))
    assert said.reply and said.ledger == moved / "ledger"
    words.close()


def test_why_there_are_no_words_is_said(judged, tmp_path: Path) -> None:
    cfg, _ = judged
    words = Words(Path(cfg.run_dir), cfg)
    assert "no reply under this key" in words.find("division", step(MISSING_KEY)).why
    assert "(timeout)" in words.find("division", step(None, "timeout")).why
    assert "was not asked" in words.find("division", step(None, None)).why
    assert "no judge is asked about the domain sure" in words.find("sure", step(MISSING_KEY)).why
    assert "config.toml" in Words(tmp_path, None).find("division", step(MISSING_KEY)).why
    words.close()
    lost = Words(tmp_path, cfg)
    lost.prepare()
    said = lost.find("division", step(MISSING_KEY))
    assert said.reply is None and str(tmp_path / "ledger") in said.why
