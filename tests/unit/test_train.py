"""When a run stops by itself, and whom it names."""

import numpy as np
import pytest

from exprl import config
from exprl.errors import EngineError, JudgeError, NumericsError
from exprl.reward.scorer import ENGINE_FAILED
from exprl.run.checkpoint import RunState
from exprl.train import reason_to_stop
from exprl.types import Rollout, Scored

TIMEOUT = "no server answered within 60 s"


def settings(**changes):
    tree = {"method": "exprl-outcome", "model": {"path": "m"}, "data": {"path": "d"}}
    return config.build(tree | {"judge": {"kind": "rules", "max_missing_rate": 0.2}} | changes)


def step(failed=0, unjudged=0, graded=0, rewarded=True):
    def one(grades, finish, reasons=()):
        empty = np.zeros(0, np.int32)
        rollout = Rollout("p", 0, empty, empty, np.zeros(0, np.float32), finish, empty)
        scores = tuple(None if grade is None else 0.75 for grade in grades)
        return Scored(
            rollout, (), grades, scores, None, rewarded=rewarded, reasons=reasons, per_segment=False
        )

    return [
        *(one((), "failed", (ENGINE_FAILED,)) for _ in range(failed)),
        *(one((None,), "stop", (TIMEOUT,)) for _ in range(unjudged)),
        *(one((4,), "stop") for _ in range(graded)),
    ]


def test_rollouts_that_the_engine_gave_up_are_not_blamed_on_the_judge():
    error = reason_to_stop(settings(), RunState(step=3), step(failed=8))
    assert isinstance(error, EngineError)
    assert "step 3: 100% of the 8 rollouts" in str(error)
    assert "the engine gave up on 8, and the judge gave no grade for 0" in str(error)
    assert ENGINE_FAILED in str(error)


def test_grades_that_the_judge_owes_are_not_blamed_on_the_engine():
    error = reason_to_stop(settings(), RunState(step=3), step(unjudged=4, failed=1, graded=3))
    assert isinstance(error, JudgeError)
    assert "the engine gave up on 1, and the judge gave no grade for 4" in str(error)
    assert TIMEOUT in str(error)
    assert ENGINE_FAILED not in str(error)


def test_where_no_judge_is_asked_none_is_named():
    cfg = settings(method="sparse-grpo", judge={"max_missing_rate": 0.2})
    error = reason_to_stop(cfg, RunState(step=1), step(unjudged=2, graded=1))
    assert "the verifier gave no grade for 2" in str(error)
    assert "judge gave" not in str(error)


def test_a_dead_engine_stops_a_run_that_wants_no_grades_too():
    cfg = settings(method="self-distillation")
    assert isinstance(
        reason_to_stop(cfg, RunState(step=1), step(failed=8, rewarded=False)), EngineError
    )
    assert reason_to_stop(cfg, RunState(step=1), step(unjudged=8, rewarded=False)) is None


@pytest.mark.parametrize(("failed", "unjudged"), [(0, 0), (2, 0), (0, 2), (1, 1)])
def test_a_run_goes_on_while_no_more_are_missing_than_it_allows(failed, unjudged):
    scored = step(failed=failed, unjudged=unjudged, graded=10 - failed - unjudged)
    assert reason_to_stop(settings(), RunState(step=1), scored) is None


def test_numbers_that_are_not_finite_stop_a_run_that_is_graded():
    cfg = settings(train={"max_bad_steps": 3})
    assert reason_to_stop(cfg, RunState(step=1, bad_steps=2), step(graded=4)) is None
    error = reason_to_stop(cfg, RunState(step=1, bad_steps=3), step(graded=4))
    assert isinstance(error, NumericsError)
