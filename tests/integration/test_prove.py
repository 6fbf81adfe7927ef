"""`exprl prove` through the real trainer: a plan first, then four arms, then a page.

One step each, with the engine of transformers: what is proven here is that the arms are what they
are called, and that nothing is done twice. That the verdict is true is bench/known_faults.py's.
"""

import json
import re
import shutil
from collections import Counter

import pytest
from pyarrow import parquet

from exprl import config
from exprl.monitor.metrics_log import read_metrics
from exprl.study.prove.arms import ARMS
from exprl.study.prove.plan import hash_plan

RUNS = [f"{arm}-seed0" for arm in ARMS]


@pytest.fixture(scope="module")
def prove(exprl, tmp_path_factory, repo):
    """Run the command on twelve divisions; returns what it printed."""
    folder = tmp_path_factory.mktemp("prove")
    lines = (repo / "examples/division/train.jsonl").read_text().splitlines(keepends=True)
    (folder / "data.jsonl").write_text("".join(lines[:12]))

    def run(*words, out="out"):
        return exprl(
            *("prove", folder / "data.jsonl", "--config", "configs/division_process.toml"),
            *("--out", folder / out, "--steps", "1", "--seeds", "1", "--held-out", "4"),
            *("--set", "rollout.engine=transformers", "--set", "eval.samples=1"),
            *("--set", "rollout.problems_per_step=3", "--set", "rollout.group_size=4"),
            *words,
            timeout=570,
        )

    run.folder = folder
    return run


@pytest.fixture(scope="module")
def pilot(prove):
    done = prove()
    assert done.returncode == 0, done.stderr[-2000:]
    return done


def grades_of(run_dir):
    """Problem and index -> text and grades, of the first step."""
    [path] = (run_dir / "rollouts").glob("step-*.parquet")
    rows = parquet.read_table(path).to_pylist()
    return {(r["problem_id"], r["index"]): (r["segments"], r["grades"]) for r in rows}


def test_a_pilot_trains_every_arm_and_says_what_it_found(prove, pilot):
    out = prove.folder / "out"
    assert sorted(path.name for path in (out / "runs").iterdir()) == sorted(RUNS)
    tree = json.loads((out / "prove.json").read_text())
    assert tree["verdict"] == "cannot tell"
    assert tree["plan_sha256"] == hash_plan(out)
    assert tree["seeds"] == [0]
    assert tree["first_run_started"] > 0
    assert hash_plan(out) in (out / "prove.html").read_text()
    assert "cannot tell" in pilot.stdout
    assert tree["cost"]["rollouts"] == len(RUNS) * 12
    # The start of a seed is measured in its first arm, and the end in each.
    assert pilot.stderr.count("after 0 steps") == 1
    assert pilot.stderr.count("after 1 steps") == len(ARMS)
    assert tree["cost"]["samples"] == (len(ARMS) + 1) * 4


def test_each_arm_is_trained_with_the_reward_that_it_is_called_after(prove, pilot):
    runs = prove.folder / "out" / "runs"
    cfgs = {arm: config.load(runs / f"{arm}-seed0" / "config.toml") for arm in ARMS}
    assert {arm: cfg.judge.condition for arm, cfg in cfgs.items()} == {
        "right": "right",
        "wrong": "wrong",
        "shuffled": "right",
        "sparse": "right",
    }
    assert [arm for arm, cfg in cfgs.items() if cfg.reward.shuffle] == ["shuffled"]
    assert [arm for arm, cfg in cfgs.items() if cfg.reward.source == "verifier"] == ["sparse"]
    requests = {arm: read_metrics(runs / f"{arm}-seed0")[0].get("judge/requests") for arm in ARMS}
    assert requests["right"] > 0
    assert not requests["sparse"]


def test_shuffled_grades_are_those_of_the_same_rollouts_at_other_places(prove, pilot):
    runs = prove.folder / "out" / "runs"
    right, shuffled = (grades_of(runs / f"{arm}-seed0") for arm in ("right", "shuffled"))
    assert {key: text for key, (text, _) in right.items()} == {
        key: text for key, (text, _) in shuffled.items()
    }
    for problem in {key[0] for key in right}:
        own = [
            Counter(g for key, (_, grades) in rows.items() if key[0] == problem for g in grades)
            for rows in (right, shuffled)
        ]
        assert own[0] == own[1]
    assert right != shuffled


def test_held_out_problems_are_in_no_training_step(prove, pilot):
    out = prove.folder / "out"
    held_out = set(json.loads((out / "plan.json").read_text())["held_out"])
    trained = {key[0] for name in RUNS for key in grades_of(out / "runs" / name)}
    assert len(held_out) == 4
    assert trained
    assert not trained & held_out


def test_the_same_command_does_only_what_is_missing(prove, pilot):
    runs = prove.folder / "out" / "runs"
    shutil.rmtree(runs / "sparse-seed0")
    before = {name: (runs / name / "metrics.jsonl").stat().st_mtime_ns for name in RUNS[:-1]}
    again = prove()
    assert again.returncode == 0, again.stderr[-2000:]
    assert again.stderr.count("prove: arm ") == 1
    assert "prove: arm sparse, seed 0" in again.stderr
    assert before == {
        name: (runs / name / "metrics.jsonl").stat().st_mtime_ns for name in RUNS[:-1]
    }
    assert again.stdout.splitlines()[0] == pilot.stdout.splitlines()[0]


def test_another_plan_is_refused_before_anything_is_trained(prove, pilot):
    refused = prove("--set", "optim.lr=1e-3")
    assert refused.returncode == 2
    assert "optim.lr: 0.0003 then, 0.001 now" in refused.stderr


def test_a_dry_run_says_the_cost_and_writes_nothing(prove):
    dry = prove("--dry-run", out="dry")
    assert dry.returncode == 0, dry.stderr[-2000:]
    [total] = re.findall(r"^all +\d.*$", dry.stdout, re.MULTILINE)
    assert total.split()[1] == "48"
    assert "?" not in total
    assert "those of one step that was trained just now" in " ".join(dry.stdout.split())
    assert not (prove.folder / "dry").exists()
