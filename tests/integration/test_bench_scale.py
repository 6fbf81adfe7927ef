"""bench/scale.py in its smoke mode: the real loop around a timed engine, with a slow judge too."""

import json
import os
import subprocess
import sys

import pytest


@pytest.fixture(scope="module")
def rows(repo, tmp_path_factory):
    """By name, what a run of five tiny steps writes."""
    results = tmp_path_factory.mktemp("bench") / "scale.jsonl"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "bench/scale.py", "--smoke", "--results", str(results)]
    subprocess.run(command, cwd=repo, env=environment, check=True, timeout=300)
    return {row["name"]: row for row in map(json.loads, results.read_text().splitlines())}


def test_a_judge_ten_times_slower_costs_no_rollout_and_makes_none_older(rows):
    slow = rows["ahead 1, judge / 10"]
    assert slow["graded"] == slow["rollouts"] == 5 * 128
    assert slow["lag_max"] == rows["ahead 1"]["lag_max"] == 2  # one step of two mini-batches


def test_the_bench_and_the_run_s_own_metrics_say_who_waits(rows):
    """Waiting for grades is most of a step, and the run calls it bubble and the trainer's wait."""
    slow = rows["ahead 1, judge / 10"]
    assert slow["shares"]["for_grades"][0] > rows["ahead 1"]["shares"]["for_grades"][0]
    assert slow["shares"]["engine_idle"][0] > 0.5
    assert slow["metrics"]["bubble"][0] > 0.5
