"""Training without vLLM: the miniature learns by the transformers engine, and goes on exactly."""

import json
import sys

import pytest
from pyarrow import parquet

from exprl import config, run_training
from exprl.monitor.metrics_log import read_metrics
from exprl.run import checkpoint

CONFIG = "configs/division_process.toml"


@pytest.fixture(autouse=True)
def no_vllm(monkeypatch):
    """Importing it fails, as where it is not installed."""
    monkeypatch.setitem(sys.modules, "vllm", None)


def run(run_dir, *overrides):
    cfg = config.load(CONFIG, [f"run_dir={run_dir}", "rollout.engine=transformers", *overrides])
    assert not run_training(cfg).interrupted
    return read_metrics(run_dir)


def test_exprl_process_learns_without_vllm(tmp_path):
    rows = run(tmp_path, "train.steps=5", "optim.mini_batches=4", "eval.data=none")
    assert rows[0]["reward/correct_rate"] == 0.0
    assert rows[-1]["reward/correct_rate"] >= 0.4
    assert max(row["sync/probe_gap"] for row in rows) < 2e-5
    assert max(row["sync/logp_gap"] for row in rows) < 1e-4


def test_a_run_that_goes_on_equals_an_uninterrupted_one(tmp_path):
    """Of two batches a step: 8 rollouts, at most 6 at once."""
    small = ["rollout.problems_per_step=2", "rollout.group_size=4", "rollout.max_num_seqs=6"]
    small.append("eval.data=none")
    through = run(tmp_path / "through", "train.steps=2", *small)
    run(tmp_path / "cut", "train.steps=1", *small)
    cut = run(tmp_path / "cut", "train.steps=2", *small)

    assert [computed(row) for row in cut] == [computed(row) for row in through]
    [rollouts, again] = (recorded(tmp_path / name) for name in ("through", "cut"))
    assert again == rollouts
    [model, again] = (
        (tmp_path / name / "checkpoints/step-00002/model.safetensors").read_bytes()
        for name in ("through", "cut")
    )
    assert again == model


def test_steps_count_from_1_in_every_file_and_an_older_run_goes_on_from_0(tmp_path):
    small = ["rollout.problems_per_step=2", "rollout.group_size=2", "eval.data=none"]
    [first] = run(tmp_path, "train.steps=1", *small)
    assert first["step"] == 1
    assert [p.name for p in (tmp_path / "rollouts").iterdir()] == ["step-00001.parquet"]

    # As an earlier exprl left it.
    (tmp_path / "run.json").unlink()
    (tmp_path / "metrics.jsonl").write_text(json.dumps(first | {"step": 0}) + "\n")
    rollouts = tmp_path / "rollouts"
    (rollouts / "step-00001.parquet").rename(rollouts / "step-00000.parquet")
    for steps in (2, 3):
        rows = run(tmp_path, f"train.steps={steps}", *small)
        assert [row["step"] for row in rows] == list(range(steps))
    assert sorted(p.name for p in rollouts.iterdir()) == [f"step-{i:05d}.parquet" for i in range(3)]
    assert checkpoint.latest(tmp_path).name == "step-00003"


def recorded(run_dir):
    """The rollouts of step 2; their keys are those of the run's own ledger."""
    table = parquet.read_table(run_dir / "rollouts/step-00002.parquet")
    return table.drop_columns("ledger_keys").to_pylist()


def computed(row):
    """Without times, and without what the ledger saved."""
    return {k: v for k, v in row.items() if not k.startswith(("time", "judge/", "bubble"))}
