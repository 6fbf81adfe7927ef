"""GSM8K, Minerva and HumanEval, as they lie on disk, in one run with the sandbox."""

import json
import math

import pytest

DOMAINS = ("code", "math", "science")
NAMES = ("gsm8k/train.jsonl", "minerva/test.jsonl", "humaneval/HumanEval.jsonl.gz")


@pytest.fixture
def words(confined, shared_data):
    """Of a run that needs the sandbox and the three datasets."""
    confined()
    paths = (f"data.sources.{i}.path={shared_data(name)}" for i, name in enumerate(NAMES))
    return ("train", "configs/mixed_smoke.toml", *paths)


def test_three_steps_on_three_datasets_have_metrics_by_domain(exprl, words, tmp_path):
    run = tmp_path / "run"
    # By the engine that starts sooner; test_real_rows.py starts the other one.
    result = exprl(*words, f"run_dir={run}", "rollout.engine=transformers", timeout=400)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "programs run confined in network, reading, writing" in result.stderr
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2, 3]
    for row in rows:
        assert sum(row[f"rollouts/{name}"] for name in DOMAINS) == 32
        for name in DOMAINS:
            assert row[f"rollouts/{name}"] >= 4  # every source has its share of every step
            assert row[f"missing/{name}"] == 0.0
            assert 0.0 <= row[f"score/{name}"] <= 1.0
            assert 0.0 <= row[f"correct/{name}"] <= 1.0
            assert 0.9 < row[f"unsolved/{name}"] <= 1.0  # a model that knows nothing
        assert row["correct/code"] == 0.0
        assert math.isfinite(row["policy/loss"])
        assert row["judge/missing_rate"] == 0.0
    assert {path.name for path in run.iterdir()} >= {"ledger", "ledger-outcome"}


def test_the_dry_run_lets_references_take_their_own_tests(exprl, words):
    result = exprl(*words, "--dry-run", timeout=200)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "8 of the first 8 references pass their unit tests" in result.stdout
    for name in DOMAINS:
        assert f"judge      {name}: answers" in result.stdout
