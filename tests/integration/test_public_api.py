"""Training from Python: what `exprl train` runs, with a callback after each step."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import exprl
from exprl import StepReport, TrainingResult, load_config, run_training
from exprl.run import checkpoint

SMALL = (
    "rollout.engine=transformers",
    "rollout.problems_per_step=2",
    "rollout.group_size=2",
    "rollout.max_response_tokens=16",
    "eval.data=none",
    "train.checkpoint_every=100",
)


def settings(run_dir, *overrides):
    return load_config("configs/division_process.toml", [*SMALL, f"run_dir={run_dir}", *overrides])


def test_each_step_is_reported_with_its_metrics_and_rollouts(tmp_path, capfd):
    reports: list[StepReport] = []
    result = run_training(settings(tmp_path, "train.steps=2"), reports.append, show_progress=False)
    assert result == TrainingResult(tmp_path, steps=2, interrupted=False)
    assert [(report.step, report.steps) for report in reports] == [(1, 2), (2, 2)]
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    for report, row in zip(reports, rows, strict=True):
        assert report.metrics.keys() == row.keys() - {"step", "time_s"}
        assert report.metrics["reward/mean"] == row["reward/mean"]
        assert len(report.rollouts) == 4
        assert all(scored.grades for scored in report.rollouts)
    assert "step 1/2" not in capfd.readouterr().err


def test_rows_that_are_left_out_are_told_at_the_start(tmp_path, capfd):
    lines = Path("examples/division/train.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines[:3]]
    rows[1]["reference"] = None
    data = tmp_path / "rows.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    overrides = (f"data.path={data}", "data.missing_reference=drop", "train.steps=1")
    run_training(settings(tmp_path / "run", *overrides))
    said = " ".join(capfd.readouterr().err.split())
    assert "1 of 3 rows without a reference are left out" in said
    assert said.index("first id: 'division-train-01'") < said.index("step 1/1")


def test_an_error_of_the_callback_ends_the_run_once_the_step_is_saved(tmp_path, capfd):
    class PruneError(Exception):
        pass

    def prune(report):
        raise PruneError(f"at step {report.step}")

    cfg = settings(tmp_path, "train.steps=3")
    with pytest.raises(PruneError, match="at step 1"):
        run_training(cfg, prune)
    assert "1 of 3 steps are done" in (tmp_path / "report.html").read_text()
    assert checkpoint.latest(tmp_path).name == "step-00001"
    reports: list[StepReport] = []
    assert run_training(cfg, reports.append).steps == 3
    assert [report.step for report in reports] == [2, 3]
    assert "goes on after step 1" in capfd.readouterr().err


def test_ctrl_c_finishes_and_saves_the_step_and_the_same_call_goes_on(tmp_path):
    def interrupt(report):
        signal.raise_signal(signal.SIGINT)

    cfg = settings(tmp_path, "train.steps=2")
    report = tmp_path / "report.html"
    assert run_training(cfg, interrupt) == TrainingResult(tmp_path, 1, interrupted=True)
    assert "1 of 2 steps are done" in report.read_text()
    assert run_training(cfg) == TrainingResult(tmp_path, 2, interrupted=False)
    assert "2 of 2 steps are done" in report.read_text()


def test_the_package_imports_nothing_before_a_name_is_used():
    code = "import sys, exprl; print(sorted(m for m in sys.modules if m.startswith('exprl.')))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_every_public_name_is_there_and_another_one_is_an_attribute_error():
    assert all(getattr(exprl, name) for name in exprl.__all__)
    with pytest.raises(AttributeError, match="has no attribute 'run_trainings'"):
        exprl.run_trainings  # noqa: B018


def test_the_module_runs_as_the_command(exprl):
    import exprl as package

    result = exprl("--version")
    assert result.stdout.strip() == f"exprl {package.__version__}"
