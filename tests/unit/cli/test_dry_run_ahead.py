"""What the dry run says of settings of sampling ahead that change nothing."""

import pytest

from exprl import config
from exprl.cli.dry_run import warnings


@pytest.mark.parametrize(
    ("rollout", "ignored"),
    [
        ({"in_flight": False}, "rollout.in_flight has no effect: rollout.ahead = 0"),
        ({"max_lag": 1}, "rollout.max_lag has no effect: rollout.ahead = 0"),
        ({"ahead": 1, "max_lag": 2}, "no token is more than 2 updates old"),
        ({"ahead": 1, "max_lag": 1}, None),
        ({"ahead": 1, "in_flight": False}, None),
        ({"ahead": 1}, None),
        ({}, None),
    ],
)
def test_settings_of_sampling_ahead_that_change_nothing_are_named(rollout, ignored):
    cfg = config.build(
        {
            "model": {"path": "m"},
            "data": {"path": "d"},
            "judge": {"kind": "rules"},
            "engine": {"kind": "child"},
            "optim": {"mini_batches": 2},
            "rollout": rollout,
        }
    )
    told = [text for text in warnings(cfg) if text.startswith("rollout.")]
    assert [ignored in text for text in told] == ([True] if ignored else [])
