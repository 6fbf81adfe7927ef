"""bench/loss.py in its smoke mode: every adapter computes the same loss as the fp64 reference."""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def rows(repo: Path, tmp_path_factory: pytest.TempPathFactory) -> list[dict]:
    """What one run of the tiny shape in fp32 writes."""
    results = tmp_path_factory.mktemp("bench") / "loss.jsonl"
    command = [sys.executable, "bench/loss.py", "--smoke", "--dtype", "float32", "--repeats", "1"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run(
        [*command, "--results", str(results)], cwd=repo, env=environment, check=True, timeout=300
    )
    return [json.loads(line) for line in results.read_text().splitlines()]


def test_every_provider_that_runs_gives_the_reference_s_loss_and_gradients(
    rows: list[dict],
) -> None:
    compared = [row for row in rows if row["loss_ratio"] is not None and not row["note"]]
    assert {row["name"] for row in compared} >= {
        "exprl linear_grpo_loss",
        "exprl linear_logp + torch loss",
        "torch as TRL, logits in fp32",
        "torch.compile, chunks",
        "from logits: exprl",
        "from logits: exprl, in place",
    }
    for row in compared:
        assert row["loss_ratio"] == pytest.approx(1, abs=1e-5), row["name"]
        for error in ("d_hidden_error", "d_weight_error", "d_logits_error", "logp_error"):
            assert row.get(error) is None or row[error] < 1e-5, (row["name"], error)


def test_a_provider_without_numbers_says_why(rows: list[dict]) -> None:
    silent = [row for row in rows if row["median"] is None]
    for row in silent:
        assert row["status"].startswith(("absent (", "not on a CPU: ")), row


def test_rows_of_a_cpu_say_that_they_are_a_rehearsal(rows: list[dict]) -> None:
    if any(row["device"] != "cpu" for row in rows):
        pytest.skip("this machine has a GPU")
    assert all(row["smoke"] for row in rows)
    assert {row["advantage_per"] for row in rows} == {"sequence", "segment"}


def test_liger_takes_advantages_per_token_and_returns_another_loss(rows: list[dict]) -> None:
    wrong = [row for row in rows if row["note"] == "accepted in silence, and wrong"]
    if any(row["status"] != "ok" for row in wrong):
        pytest.skip(f"liger-kernel did not run: {wrong[0]['status']}")
    assert len(wrong) == 2
    assert all(abs(row["loss_ratio"] - 1) > 0.2 for row in wrong)


def test_a_shape_too_large_for_a_cpu_is_refused_with_the_remedy(
    repo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(repo / "bench"))
    import loss

    asked = argparse.Namespace(shapes="small,8b", smoke=False)
    with pytest.raises(SystemExit, match=r"shape 8b needs a GPU.*--shapes small"):
        loss.shapes(asked, on_gpu=False)
    asked.shapes = "9b"
    with pytest.raises(SystemExit, match="no shape '9b'; there are tiny, small, 4b, 8b"):
        loss.shapes(asked, on_gpu=False)
