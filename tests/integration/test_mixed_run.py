"""GSM8K, Minerva and HumanEval, as they lie on disk, in one run with the sandbox."""

import json
import math
import subprocess
import sys

import pytest

from exprl.errors import ConfigError
from exprl.sandbox import Sandbox

DOMAINS = ("code", "math", "science")


@pytest.mark.engine
def test_three_steps_on_three_datasets_have_metrics_by_domain(repo, shared_data, tmp_path):
    try:
        Sandbox()
    except ConfigError as error:
        pytest.skip(f"no full confinement here: {error}")
    names = ("gsm8k/train.jsonl", "minerva/test.jsonl", "humaneval/HumanEval.jsonl.gz")
    paths = [f"data.sources.{i}.path={shared_data(name)}" for i, name in enumerate(names)]
    script = "from exprl.cli import main; main()"
    command = [sys.executable, "-c", script, "train", "configs/mixed_smoke.toml", *paths]
    run = tmp_path / "run"
    result = subprocess.run(
        [*command, f"run_dir={run}"],
        cwd=repo,
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert "programs run confined in network, reading, writing" in result.stderr
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [0, 1, 2]
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


def test_the_dry_run_lets_references_take_their_own_tests(repo, shared_data):
    try:
        Sandbox()
    except ConfigError as error:
        pytest.skip(f"no full confinement here: {error}")
    names = ("gsm8k/train.jsonl", "minerva/test.jsonl", "humaneval/HumanEval.jsonl.gz")
    paths = [f"data.sources.{i}.path={shared_data(name)}" for i, name in enumerate(names)]
    script = "from exprl.cli import main; main()"
    result = subprocess.run(
        [sys.executable, "-c", script, "train", "configs/mixed_smoke.toml", "--dry-run", *paths],
        cwd=repo,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert "8 of the first 8 references pass their unit tests" in result.stdout
    for name in DOMAINS:
        assert f"judge      {name}: answers" in result.stdout
