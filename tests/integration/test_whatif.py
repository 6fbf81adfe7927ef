"""What if a setting had been another: as in a run that was really trained with it.

Both runs draw the same problems and sample the same rollouts in their first step. A rule judge
grades them, at random now and then and sometimes not at all, so that there is something to join, to
leave out and to learn.
"""

import json
import math
import shutil

import numpy as np
import pytest
from pyarrow import parquet

from exprl import load_config, run_training
from exprl.errors import ConfigError, DataError
from exprl.study.whatif import Request, what_if

BASE = [
    *("rollout.engine=transformers", "rollout.problems_per_step=4", "rollout.group_size=4"),
    *("rollout.temperature=2.5", "rollout.max_response_tokens=72", "train.steps=1"),
    *("judge.fault_random_rate=0.7", "judge.fault_no_grade_rate=0.08"),
    *("judge.max_missing_rate=1.0", "eval.data=none", "train.torch_threads=1"),
]
OUTCOME = ("judge.view=outcome", "advantage.kind=grpo")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The folder of a run of one step under these settings; made once."""
    made = {}

    def train(*settings):
        if settings not in made:
            folder = tmp_path_factory.mktemp("run") / "run"
            words = [*BASE, f"run_dir={folder}", *settings]
            run_training(load_config("configs/division_process.toml", words), show_progress=False)
            made[settings] = folder
        return made[settings]

    return train


def learned(run):
    """Tokens, and the advantage of each token, by problem and index; NaN where it learns nothing."""
    found = {}
    for row in parquet.read_table(run / "rollouts" / "step-00001.parquet").to_pylist():
        values = [math.nan if value is None else value for value in row["advantages"]]
        lengths = np.diff(row["segment_end"], prepend=0)
        if len(values) != len(lengths):
            values, lengths = values[:1], [row["length"]]
        tokens = np.repeat(values, lengths)
        if np.isnan(values).any():
            tokens[:] = math.nan
        found[row["problem_id"], row["index"]] = (row["token_ids"], tokens)
    return found


def learned_if(found):
    """The same of what whatif says."""
    return {
        (one.was.rollout.problem_id, one.was.rollout.index): np.repeat(one.after, one.tokens)
        for one in found.rollouts
    }


def agree_to(counted):
    def agree(forecast):
        counted.append(forecast)
        return True

    return agree


def assert_equal(run, other, found):
    """What if `run` had the settings of `other`: advantages to the last digit."""
    own, expected, after = learned(run), learned(other), learned_if(found)
    assert own.keys() == expected.keys() == after.keys()
    for key, (tokens, values) in expected.items():
        assert own[key][0] == tokens, "the two runs sampled other rollouts"
        np.testing.assert_array_equal(after[key], values, err_msg=str(key))
    return np.concatenate([values for _, values in expected.values()])


@pytest.mark.parametrize(
    ("start", "change"),
    [
        *(((), (f"advantage.kind={kind}",)) for kind in ("end", "group", "batch", "raw")),
        ((), ("advantage.kind=first_error",)),
        ((), ("advantage.kind=step+outcome", "advantage.outcome_weight=0.5")),
        ((), ("advantage.last=verifier",)),
        *(((), (f"judge.score_map={name}",)) for name in ("binary", "extremes", "extremes_soft")),
        ((), ("reward.missing=drop",)),
        ((), ("reward.overlong=mask",)),
        (("reward.max_steps=1",), ("advantage.single_segment=score",)),
        (("reward.max_steps=1",), ("advantage.single_segment=group",)),
        *((OUTCOME, (f"advantage.kind={kind}",)) for kind in ("dr_grpo", "rloo", "reinforce")),
        (OUTCOME, ("advantage.std_floor=0.5",)),
        (OUTCOME, ("reward.source=max",)),
        (OUTCOME, ("reward.source=weighted", "reward.verifier_weight=0.3")),
    ],
)
def test_another_rule_costs_no_request_and_is_as_if_trained_with_it(trained, start, change):
    run = trained(*start)
    found = what_if(Request(run, change))
    assert found.forecast.requests == found.forecast.from_ledger == 0
    values = assert_equal(run, trained(*start, *change), found)
    assert np.nanmax(np.abs(values)) > 0.1, "nothing to learn, nothing to compare"
    assert np.isnan(values).any(), "no rollout is out"


@pytest.mark.parametrize(
    ("start", "change"),
    [
        ((), OUTCOME),
        ((), ("judge.view=step",)),
        ((), ("judge.condition=none",)),
        ((), ("reward.overlong=none",)),
        ((), ("reward.max_steps=3",)),
        ((), ("advantage.kind=end", "advantage.compat=published")),
        (OUTCOME, ("judge.readout=expected",)),
        (("reward.source=verifier", "advantage.kind=grpo"), ("reward.source=judge", *OUTCOME)),
    ],
)
def test_what_the_ledger_does_not_know_is_counted_asked_and_as_if_trained_with_it(
    trained, tmp_path, start, change
):
    # The replies are kept in the ledger of the run, which other tests find as it was.
    run = tmp_path / "run"
    shutil.copytree(trained(*start), run)
    with pytest.raises(ConfigError, match="requests to the judge are needed"):
        what_if(Request(run, change))
    counted = []
    found = what_if(Request(run, change), agree_to(counted))
    assert counted == [found.forecast]
    assert found.forecast.requests > 0
    assert_equal(run, trained(*start, *change), found)
    again = []
    assert what_if(Request(run, change), agree_to(again)) is not None
    # What got no grade is asked again, and nothing else.
    ungraded = sum(one.requests for one in again)
    assert ungraded <= found.forecast.requests
    assert ungraded <= found.counts.missing_steps.after


def test_a_rubric_of_ones_own_has_a_ledger_of_its_own(trained, tmp_path):
    run, rubric = tmp_path / "run", tmp_path / "mine.toml"
    shutil.copytree(trained(), run)
    rubric.write_text(RUBRIC)
    before = (run / "ledger" / "replies.ledger").read_bytes()
    found = what_if(Request(run, [f"judge.rubric={rubric}"], sample=4), agree_to([]))
    assert found.counts.groups == 1
    assert found.forecast.requests > 0
    assert (run / "ledger" / "replies.ledger").read_bytes() == before
