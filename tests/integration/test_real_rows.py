"""GSM8K, as it lies on disk, through every room."""

import json
import math
import subprocess
import sys

import pytest


@pytest.mark.engine
def test_three_steps_on_gsm8k_have_finite_metrics(exprl, shared_data, tmp_path):
    data = shared_data("gsm8k/train.jsonl")
    where = (f"data.path={data}", f"run_dir={tmp_path / 'run'}")
    result = exprl("train", "configs/gsm8k_smoke.toml", *where, timeout=400)
    assert result.returncode == 0, result.stdout + result.stderr
    rows = [json.loads(t) for t in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2, 3]
    for row in rows:
        assert all(math.isfinite(value) for value in row.values() if value is not None), row
        assert math.isfinite(row["policy/loss"]) and math.isfinite(row["reward/mean"])
        assert row["judge/requests"] + row["judge/cached"] >= 32
        assert row["judge/missing_rate"] == 0.0


def test_the_numbers_judge_needs_the_right_reference(exprl, repo, shared_data, tmp_path):
    """Right: nearly no real answer misplaced. None and wrong: no better than a coin."""
    source = shared_data("gsm8k/example_model_solutions.jsonl")
    items = tmp_path / "items.jsonl"
    script = [sys.executable, "bench/gsm8k_judge.py", source, "--items", items]
    subprocess.run(script, cwd=repo, check=True, timeout=120)
    rates = {}
    for condition in ("right", "none", "wrong"):
        graded = tmp_path / f"{condition}.jsonl"
        result = exprl(
            *("judge", "score", items, "--rules", "numbers", "--label", "is_correct"),
            *("--reference", condition, "--out", graded),
            timeout=300,
        )
        assert result.returncode == 0, result.stderr
        assert "5276 graded, 0 missing" in result.stderr
        rates[condition] = float(result.stderr.split("misplacement rate ")[1].split("%")[0])
        assert len(graded.read_text().splitlines()) == 5276
    assert rates["right"] <= 5.0
    assert 45.0 <= rates["none"] <= 55.0
    assert 45.0 <= rates["wrong"] <= 55.0
