"""The commonest reason of missing grades."""

import numpy as np

from exprl.reward.missing import commonest_reason
from exprl.types import Rollout, Scored


def scored(*reasons):
    empty = np.empty(0, np.int32)
    rollout = Rollout("p", 0, empty, empty, np.empty(0, np.float32), "stop", empty)
    return Scored(rollout, (), (), (), None, reasons=reasons)


def test_reasons_that_differ_in_their_numbers_are_one():
    step = [
        scored("HTTP 400: you requested 5120 tokens", "the reply holds no line `Score: n`"),
        scored(),
        scored("HTTP 400: you requested 900 tokens", "HTTP 400: you requested 77 tokens"),
    ]
    reason = commonest_reason(step)
    assert (reason.text, reason.count, reason.of) == ("HTTP 400: you requested 5120 tokens", 3, 4)
    assert str(reason) == (
        "The commonest reason (3 of 4 missing grades): HTTP 400: you requested 5120 tokens"
    )


def test_the_id_of_a_request_makes_no_reason_of_its_own():
    step = [scored(f"HTTP 500: oops (request req_{i:02x}ab)") for i in range(9)]
    assert commonest_reason([*step, scored("refused")]).count == 9


def test_a_refusal_that_a_model_wrote_is_shown_short_and_without_control_signs():
    reason = commonest_reason([scored("\x1b[2J no\r\nnever " + "x" * 9_000)])
    assert reason.text.startswith(" [2J no  never xxx") and len(reason.text) == 400


def test_where_nothing_is_missing_there_is_no_reason():
    assert commonest_reason([scored(), scored()]) is None
