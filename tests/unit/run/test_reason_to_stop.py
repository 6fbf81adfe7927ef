"""Why a run stops after a step of which grades are missing."""

import numpy as np
import pytest

from exprl import config
from exprl.run.checkpoint import RunState
from exprl.train import reason_to_stop
from exprl.types import Rollout, Scored, Segment

TOO_LONG = (
    "HTTP 400: This model's maximum context length is 4096 tokens. However, you requested {n}"
    " tokens; lower judge.max_tokens (--max-tokens), or serve the judge with a longer context"
)


def scored(grade, *reasons):
    ids = np.zeros(3, np.int32)
    rollout = Rollout("p", 0, ids, ids, np.zeros(3, np.float32), "stop", ids)
    score = None if grade is None else 1.0
    return Scored(rollout, (Segment(0, 3, "x"),), (grade,), (score,), None, reasons=reasons)


def stop(step, **judge):
    sections = {"model": {"path": "-"}, "data": {"path": "-"}, "judge": {"kind": "rules", **judge}}
    return reason_to_stop(config.build(sections), RunState(step=7), step)


def test_the_commonest_reason_and_its_remedy_stand_in_the_message():
    step = [scored(5), *(scored(None, TOO_LONG.format(n=n)) for n in (5000, 5001, 6400))]
    step.append(scored(None, "the reply holds no line `Score: n`"))
    message = str(stop(step))
    assert "step 7: 80% of the 5 rollouts have no grade" in message
    assert f"The commonest reason (3 of 4 missing grades): {TOO_LONG.format(n=5000)}" in message
    assert "raise judge.max_tokens" not in message


def test_an_engine_that_fails_is_not_blamed_on_the_judge():
    failed = "the engine gave no usable tokens for the rollout, so that nothing was judged"
    assert failed in str(stop([scored(None, failed)] * 3))


@pytest.mark.parametrize("rate", [0.5, 1.0])
def test_a_share_that_is_allowed_does_not_stop(rate):
    assert stop([scored(5), scored(None, "no")], max_missing_rate=rate) is None
