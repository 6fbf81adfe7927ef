"""Training without vLLM: the miniature learns by the transformers engine, and goes on exactly."""

import sys

import pytest

from exprl import config, examine, metrics, prepare, train

CONFIG = "configs/division_process.toml"


@pytest.fixture(autouse=True)
def no_vllm(monkeypatch):
    """Importing it fails, as where it is not installed."""
    monkeypatch.setitem(sys.modules, "vllm", None)


def run(run_dir, *overrides):
    cfg = config.load(CONFIG, [f"run_dir={run_dir}", "rollout.engine=transformers", *overrides])
    with metrics.Progress() as progress, prepare.opened(cfg) as (parts, state):
        assert train.train(cfg, parts, state, progress) == 0
    return metrics.read(run_dir)


def test_exprl_process_learns_without_vllm(tmp_path):
    rows = run(tmp_path, "train.steps=8", "eval.samples=8")
    before, after = examine.read(tmp_path)
    assert before.at(1) == 0.0 and after.at(1) >= 0.4
    assert max(row["sync/probe_gap"] for row in rows) < 2e-5
    assert max(row["sync/logp_gap"] for row in rows) < 1e-4


def test_a_run_that_goes_on_equals_an_uninterrupted_one(tmp_path):
    small = ["eval.data=none", "rollout.problems_per_step=4", "rollout.max_num_seqs=24"]
    through = run(tmp_path / "through", "train.steps=3", *small)
    run(tmp_path / "cut", "train.steps=2", *small)
    cut = run(tmp_path / "cut", "train.steps=3", *small)

    assert [computed(row) for row in cut] == [computed(row) for row in through]
    for name in ("rollouts/step-00002.parquet", "checkpoints/step-00003/model.safetensors"):
        cut_file, through_file = tmp_path / "cut" / name, tmp_path / "through" / name
        assert cut_file.read_bytes() == through_file.read_bytes()


def computed(row):
    """Without times, and without what the ledger saved."""
    return {k: v for k, v in row.items() if not k.startswith(("time/", "judge/"))}
