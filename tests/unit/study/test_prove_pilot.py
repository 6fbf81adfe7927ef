"""The runs of a pilot, read from their folders: which seeds count, and when it is at its end."""

import numpy as np
import pytest

from exprl import config
from exprl.evaluate.during_training import append_evaluation
from exprl.evaluate.pass_at_k import Evaluation, Outcome
from exprl.study.prove.arms import ARMS, prepare_base
from exprl.study.prove.pilot import conclude, find_effects, name_run, read_pilot, run_pilot
from exprl.study.prove.plan import make_plan
from exprl.study.prove.split import Split

HELD_OUT = tuple(f"h{i}" for i in range(90))
STEPS = 5


@pytest.fixture
def base(tmp_path):
    tree = {"model": {"path": "m"}, "data": {"path": "d"}, "judge": {"kind": "rules"}}
    return prepare_base(config.build(tree), tmp_path, STEPS, 50)


@pytest.fixture
def plan(base):
    split = Split(140, ({},) * 50, ({},) * 90, ("t",) * 50, HELD_OUT, {}, "digest")
    return make_plan("1.0", "d", split, base, 3, 0.05)


@pytest.fixture
def finish(tmp_path):
    """Leave what a finished run leaves: pass@1 at its start and after its last step."""

    def evaluation(step, right, samples=4):
        counts = [samples if i < round(right * 90) else 0 for i in range(90)]
        outcomes = tuple(Outcome(h, samples, c, 0) for h, c in zip(HELD_OUT, counts, strict=True))
        return Evaluation(step, 0, samples, 1.0, (1,), outcomes)

    def run(seed, after, steps=(0, STEPS)):
        for arm in ARMS:
            folder = name_run(tmp_path, arm, seed)
            folder.mkdir()
            for step in steps:
                right = after.get(arm, 0.0) if step else 0.0
                append_evaluation(folder, evaluation(step, right))

    return run


def test_the_first_decided_look_ends_the_pilot_and_later_seeds_do_not_count(
    plan, base, tmp_path, finish
):
    for seed, right in ((0, 0.6), (1, 0.7), (2, 0.0)):
        finish(seed, {"right": right})
    pilot = read_pilot(plan, base, tmp_path)
    assert list(pilot.seeds) == [0, 1]
    assert conclude(plan, pilot).answer == "yes"
    assert find_effects(plan, pilot)[0].value == pytest.approx(0.65)


def test_an_undecided_look_goes_on_to_the_next_seed(plan, base, tmp_path, finish):
    for seed, right in ((0, 0.0), (1, 0.5), (2, 0.2)):
        finish(seed, {"right": right})
    pilot = read_pilot(plan, base, tmp_path)
    assert list(pilot.seeds) == [0, 1, 2]
    assert conclude(plan, pilot).answer == "cannot tell"


def test_nothing_is_concluded_before_a_seed_is_whole(plan, base, tmp_path, finish):
    assert conclude(plan, read_pilot(plan, base, tmp_path)) is None
    finish(0, {"right": 0.5}, steps=(0,))
    pilot = read_pilot(plan, base, tmp_path)
    assert list(pilot.seeds) == []
    assert conclude(plan, pilot) is None


def test_a_pilot_at_its_end_starts_no_engine(plan, base, tmp_path, finish):
    """The config's model does not exist: whatever opens it fails."""
    finish(0, {"right": 0.6})
    finish(1, {"right": 0.6})
    said = []
    assert run_pilot(plan, base, tmp_path, said.append)
    assert said == ["stops after 2 of 3 seeds: yes"]


def test_the_controls_are_the_other_arms_and_the_start(plan, base, tmp_path, finish):
    for seed in (0, 1):
        finish(seed, {"right": 0.5, "wrong": 0.1, "shuffled": 0.2, "sparse": 0.3})
    effects = {e.control: e.value for e in find_effects(plan, read_pilot(plan, base, tmp_path))}
    assert effects == pytest.approx(
        {"wrong": 0.4, "shuffled": 0.3, "sparse": 0.2, "before": 0.5}, abs=0.01
    )
    assert np.isfinite(list(effects.values())).all()
