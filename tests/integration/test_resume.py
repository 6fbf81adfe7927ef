"""A run that was killed, or interrupted, goes on as if nothing had happened."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from pyarrow import parquet

from exprl.errors import ConfigError
from exprl.run import checkpoint, recorded

pytestmark = pytest.mark.engine

STEPS = 4
# Where the engine does not matter: it starts sooner.
WITHOUT_VLLM = {"rollout.engine": "transformers"}
HERE = Path(__file__).parent
# What a resumed run may not share with an uninterrupted one: time, and what the ledger saved.
TRAFFIC = (
    "time",
    "judge/requests",
    "judge/cached",
    "judge/latency",
    "judge/prompt",
    "judge/completion",
    "engine/",
    "functions/",
    "sync/pause",
    "sync/send",
    "rollout/tokens_per_s",
    "bubble",
)
# Steps in flight share the judge, whose counters are those of a stretch of time.
OF_ALL_STEPS = ("judge/retries", "judge/re", "judge/truncated", "judge/readout")


def start(repo, run_dir, place="never", step=0, **change):
    overrides = {
        "run_dir": run_dir,
        "train.steps": STEPS,
        "train.checkpoint_every": 1,
        "rollout.problems_per_step": 4,
        "rollout.group_size": 4,
        "eval.data": "none",
    } | change
    words = [f"{key}={value}" for key, value in overrides.items()]
    return subprocess.Popen(
        [
            sys.executable,
            HERE / "killed_run.py",
            place,
            str(step),
            "configs/division_process.toml",
            *words,
        ],
        cwd=repo,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def ended(process):
    output, _ = process.communicate(timeout=300)
    return process.returncode, output


def learned(run_dir, *, ahead=False):
    """All that the run computed: metrics, rollouts, weights, optimizer."""
    rows = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    left_out = (*TRAFFIC, *OF_ALL_STEPS) if ahead else TRAFFIC
    rows = [{k: v for k, v in row.items() if not k.startswith(left_out)} for row in rows]
    folder = run_dir / "checkpoints" / f"step-{STEPS:05d}"
    files = {p.name: p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    rollouts = {path.name: recorded_rollouts(path) for path in (run_dir / "rollouts").iterdir()}
    return rows, files, rollouts


def recorded_rollouts(file):
    """All that a file of rollouts holds, without the places in this run's own ledger.

    A key is that of a whole request, whose fences around judged text are a secret of the ledger.
    """
    table = parquet.read_table(file)
    known = [[key is not None for key in keys] for keys in table["ledger_keys"].to_pylist()]
    return table.schema.metadata, table.drop_columns("ledger_keys").to_pylist(), known


def test_a_run_killed_while_sampling_judging_and_saving_equals_an_uninterrupted_one(repo, tmp_path):
    through = start(repo, tmp_path / "through")
    assert ended(through)[0] == 0
    for place, step in (("sample", 2), ("judge", 3), ("save", 3)):
        code, output = ended(start(repo, tmp_path / "killed", place, step))
        assert code == -signal.SIGKILL, output
    code, output = ended(start(repo, tmp_path / "killed"))
    assert code == 0, output

    rows, files, rollouts = learned(tmp_path / "through")
    killed_rows, killed_files, killed_rollouts = learned(tmp_path / "killed")
    assert killed_rows == rows
    assert [row["step"] for row in rows] == list(range(1, STEPS + 1))
    assert killed_rollouts == rollouts
    assert killed_files == files


def test_an_adapter_killed_while_judging_and_saving_equals_an_uninterrupted_one(repo, tmp_path):
    """It goes on from the frozen base and the adapter; the merged model beside them is no start."""
    lora = {"lora.rank": 8, "optim.lr": 1e-3, **WITHOUT_VLLM}
    assert ended(start(repo, tmp_path / "through", **lora))[0] == 0
    for place, step in (("judge", 2), ("save", 3)):
        code, output = ended(start(repo, tmp_path / "killed", place, step, **lora))
        assert code == -signal.SIGKILL, output
    code, output = ended(start(repo, tmp_path / "killed", **lora))
    assert code == 0, output

    killed, through = learned(tmp_path / "killed"), learned(tmp_path / "through")
    assert killed == through
    rows, files, _ = through
    assert [row["step"] for row in rows] == list(range(1, STEPS + 1))
    assert {
        "model.safetensors",
        "adapter_model.safetensors",
        "optimizer.safetensors",
    } <= files.keys()


def test_a_run_killed_with_steps_in_flight_equals_an_uninterrupted_one(repo, tmp_path):
    """In each place another step is sampled or judged beside the one that dies."""
    ahead = {
        "engine.kind": "child",
        "rollout.ahead": 1,
        "rollout.in_flight": "false",
    }
    assert ended(start(repo, tmp_path / "through", **ahead))[0] == 0
    for place, step in (("judge", 3), ("train", 4)):
        code, output = ended(start(repo, tmp_path / "killed", place, step, **ahead))
        assert code == -signal.SIGKILL, output
    code, output = ended(start(repo, tmp_path / "killed", **ahead))
    assert code == 0, output

    rows, files, rollouts = learned(tmp_path / "through", ahead=True)
    killed_rows, killed_files, killed_rollouts = learned(tmp_path / "killed", ahead=True)
    assert killed_rows == rows
    assert [row["lag/max"] for row in rows] == [0.0, 2.0, 2.0, 2.0]
    assert killed_rollouts == rollouts
    assert killed_files == files


def test_ctrl_c_finishes_the_step_saves_and_exits_with_130(repo, tmp_path):
    run_dir = tmp_path / "run"
    long = {"train.steps": 500, "train.checkpoint_every": 500, **WITHOUT_VLLM}
    process = start(repo, run_dir, **long)
    log = run_dir / "metrics.jsonl"
    deadline = time.monotonic() + 240
    while not (log.exists() and log.read_text()) and time.monotonic() < deadline:
        assert process.poll() is None, process.stdout.read()
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGINT)
    code, output = ended(process)
    assert code == 130, output
    assert output.count("the run ends once this step is finished and saved") == 1
    state = checkpoint.load_state(checkpoint.latest(run_dir))
    assert state.step == len(log.read_text().splitlines()) < 500


def test_a_run_may_be_moved_and_graded_by_other_servers(repo, tmp_path):
    from exprl import config

    run_dir = tmp_path / "moved"
    (run_dir / "checkpoints" / "step-00001").mkdir(parents=True)
    judge = ["judge.kind=server", "judge.model=m"]
    path = repo / "configs/division_process.toml"
    before = config.load(path, [*judge, 'judge.endpoints=["http://a/v1"]', "run_dir=runs/old"])
    (run_dir / "config.toml").write_text(config.to_toml(before))
    here = f"run_dir={run_dir}"
    now = ['judge.endpoints=["http://b/v1"]', "judge.deadline_s=60", "judge.max_missing_rate=0.5"]
    recorded.check_same_run(config.load(path, [*judge, *now, here]))
    with pytest.raises(ConfigError, match=r"judge\.model: 'm' then, 'n' now"):
        recorded.check_same_run(config.load(path, [*judge, *now, here, "judge.model=n"]))


def test_a_run_may_be_made_longer_unless_its_learning_rate_falls_to_the_end(repo, tmp_path):
    from exprl import config

    (tmp_path / "checkpoints" / "step-00001").mkdir(parents=True)
    path, here = repo / "configs/division_process.toml", f"run_dir={tmp_path}"
    for schedule in ("constant", "cosine"):
        falls = f"optim.schedule={schedule}"
        before = config.load(path, [here, falls, "train.steps=16"])
        (tmp_path / "config.toml").write_text(config.to_toml(before))
        longer = config.load(path, [here, falls, "train.steps=32"])
        if schedule == "constant":
            recorded.check_same_run(longer)
        else:
            with pytest.raises(ConfigError, match=r"train\.steps: 16 then, 32 now.*cosine"):
                recorded.check_same_run(longer)


def test_other_settings_are_refused_in_an_existing_run(repo, tmp_path):
    run_dir = tmp_path / "run"
    (run_dir / "checkpoints" / "step-00001").mkdir(parents=True)
    from exprl import config

    cfg = config.load(repo / "configs/division_process.toml", [f"run_dir={run_dir}"])
    (run_dir / "config.toml").write_text(config.to_toml(cfg))
    code, output = ended(start(repo, run_dir, **{"optim.lr": 0.5}))
    assert code == 2
    assert "optim.lr: 0.0003 then, 0.5 now" in output
    assert f"fork it: run_dir=NEW init_from={run_dir}" in output
    code, output = ended(start(repo, run_dir, **{"domains.division.rubric": "r.toml"}))
    assert code == 2
    assert "domains.division.rubric: None then, 'r.toml' now" in output
