"""bench/gpu/run.sh, the one command of a visit to a GPU, rehearsed on the CPU."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROWS = ("parts", "loss", "train", "ranks")


def visit(repo: Path, out: Path, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run the script to its end."""
    environment = {**os.environ, "PYTHON": sys.executable, "OUT": str(out), **variables}
    return subprocess.run(
        ["bench/gpu/run.sh", *words],
        cwd=repo,
        env=environment,
        capture_output=True,
        text=True,
        timeout=560,
        check=False,
    )


def rows(file: Path) -> list[dict]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_a_smoke_visit_runs_every_part_and_leaves_their_rows(repo: Path, tmp_path: Path) -> None:
    done = visit(repo, tmp_path, "--smoke")
    assert done.returncode == 0, done.stdout + done.stderr
    script = (repo / "bench/gpu/run.sh").read_text()
    every = re.search(r"^PARTS=\((.*)\)$", script, re.MULTILINE)[1].split()
    assert [(row["part"], row["code"]) for row in rows(tmp_path / "run.jsonl")] == [
        (part, 0) for part in every
    ]
    for name in ROWS:
        for row in rows(tmp_path / f"{name}.jsonl"):
            assert row["smoke"], row
    assert all(row["status"] == "ok" for row in rows(tmp_path / "train.jsonl"))
    (learned,) = rows(tmp_path / "miniature.jsonl")
    assert learned["rollout/count"] == 8
    assert done.stdout in (tmp_path / "log.txt").read_text()


def test_a_part_that_fails_costs_no_other_and_is_named_with_its_command(
    repo: Path, tmp_path: Path
) -> None:
    done = visit(repo, tmp_path, "--smoke", "selftest", "loss", PYTHON="/bin/false")
    assert done.returncode == 1
    assert [row["code"] for row in rows(tmp_path / "run.jsonl")] == [1, 1]
    assert done.stdout.splitlines()[-1] == (
        "failed: selftest loss; again: bench/gpu/run.sh --smoke selftest loss"
    )


def test_what_does_not_fit_into_the_visit_is_not_begun_and_named(
    repo: Path, tmp_path: Path
) -> None:
    done = visit(repo, tmp_path, "--smoke", "train", PYTHON="/bin/true", SECONDS_IN_ALL="5")
    assert done.returncode == 1
    assert "not begun: no time is left" in done.stdout
    assert not (tmp_path / "train.jsonl").exists()


def test_a_part_that_does_not_exist_is_refused_with_those_that_do(
    repo: Path, tmp_path: Path
) -> None:
    done = visit(repo, tmp_path, "trian")
    assert done.returncode == 2
    assert "error: no part 'trian'; there are: selftest tests parts" in done.stderr


@pytest.fixture
def bench(repo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the scripts of bench/ importable."""
    monkeypatch.syspath_prepend(str(repo / "bench"))


@pytest.mark.usefixtures("bench")
def test_the_shapes_have_the_sizes_of_the_real_models() -> None:
    from _shapes import SHAPES

    billions = {name: shape.parameters() / 1e9 for name, shape in SHAPES.items()}
    assert billions["0.6b"] == pytest.approx(0.596, abs=1e-3)
    assert billions["1.7b"] == pytest.approx(1.721, abs=1e-3)
    assert billions["4b"] == pytest.approx(4.022, abs=1e-3)
    assert billions["8b"] == pytest.approx(8.191, abs=1e-3)
    embedding = 151_936 * 4096 / 1e9
    assert SHAPES["8b"].multiplied() / 1e9 == pytest.approx(billions["8b"] - embedding, abs=1e-3)
    assert SHAPES["4b"].multiplied() == SHAPES["4b"].parameters()


@pytest.mark.usefixtures("bench")
def test_attention_counts_the_pairs_of_a_causal_mask() -> None:
    from _shapes import SHAPES

    shape, tokens = SHAPES["tiny"], 1000
    pairs = tokens * (tokens + 1) / 2  # a token sees itself and those before it
    counted = 2 * 2 * pairs * shape.head_dim * shape.heads * shape.layers
    assert shape.attention_flops(tokens) == pytest.approx(counted, rel=2e-3)


@pytest.mark.usefixtures("bench")
def test_the_bench_packs_rollouts_of_the_lengths_that_it_states() -> None:
    import numpy as np
    from _rollouts import packed
    from _shapes import SHAPES

    (mini,) = packed(SHAPES["4b"], 600, 32_768)
    lengths = np.concatenate([np.diff(batch.cu_seqlens) for batch in mini])
    assert len(lengths) == 600
    assert lengths.max() == 16_384
    assert lengths.mean() == pytest.approx(9_800, rel=0.03)
    assert sum(batch.token_weight.sum() for batch in mini) == pytest.approx(1.0)


@pytest.mark.usefixtures("bench")
def test_a_setting_that_cannot_run_here_is_a_row_that_says_why(tmp_path: Path) -> None:
    import torch
    import train_step
    from _shapes import SHAPES

    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    args = train_step.arguments(["--smoke", "--rollouts", "2", "--repeats", "1"])
    with train_step.weights(SHAPES["tiny"], torch.device("cpu"), tmp_path) as folder:
        setting = train_step.Setting("tiny", 0, "adamw", 0.0, "flash_attention_4", "none", 0.0)
        row = train_step.measure(setting, SHAPES["tiny"], folder, args)
    assert row.values == []
    assert row.extra["status"].startswith("cannot run here: ")
    assert "NVIDIA GPU" in row.extra["status"]
    assert list(tmp_path.iterdir()) == []
