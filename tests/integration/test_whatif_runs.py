"""What if a setting had been another: as in a run that was really trained with it.

Both runs draw the same problems and sample the same rollouts in their first step. A rule judge
grades them, at random now and then and sometimes not at all, so that there is something to join, to
leave out and to learn.
"""

import json
import math
import os
import shutil

import numpy as np
import pytest
from pyarrow import parquet

from exprl import config, load_config, run_training
from exprl.errors import ConfigError, DataError, JudgeError
from exprl.judge import Judge, JudgeSettings
from exprl.study.whatif import Request, what_if

BASE = [
    *("rollout.engine=transformers", "rollout.problems_per_step=4", "rollout.group_size=4"),
    *("rollout.temperature=2.5", "rollout.max_response_tokens=72", "train.steps=1"),
    *("judge.fault_random_rate=0.7", "judge.fault_no_grade_rate=0.08"),
    *("judge.max_missing_rate=1.0", "eval.data=none", "train.torch_threads=1"),
]
RUBRIC = 'head = "Grade like a pirate."\ninstruction = "End with a line `Score: n`."\n'
OWN_REWARD = ("reward.source=rewards:score_steps", "reward.steps=rewards:cut")
OUTCOME = ("judge.view=outcome", "advantage.kind=grpo")


def division_config(words):
    return load_config("configs/division_process.toml", words)


def mixed_config(words):
    """Two domains of the same problems: steps are graded in one, whole rollouts in the other."""
    tree = config.read("configs/division_process.toml")
    source = {"path": tree["data"]["path"], "columns": {"id": "id"}}
    tree["data"] = {"sources": [source | {"domain": name} for name in ("division", "other")]}
    tree["domains"]["other"] = {"verifier": "exact", "view": "outcome", "advantage": "grpo"}
    return config.build(config.override(tree, words))


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The folder of a run of one step under these settings; made once."""
    made = {}

    def train(*settings, mixed=False):
        if (settings, mixed) not in made:
            folder = tmp_path_factory.mktemp("run") / "run"
            words = [*BASE, f"run_dir={folder}", *settings]
            make = mixed_config if mixed else division_config
            run_training(make(words), show_progress=False)
            made[settings, mixed] = folder
        return made[settings, mixed]

    return train


def learned(run):
    """By problem and index: tokens, and the advantage of each; NaN where nothing is learned."""
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
        ((), ("reward.noise=[0.2, 0.1]",)),
        (("reward.noise=[0.2, 0.1]",), ("reward.noise=none", "advantage.kind=end")),
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
    # A rollout is out where its last grade is missing, unless the verifier gives that one.
    assert np.isnan(values).any() == ("advantage.last=verifier" not in change)


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


@pytest.mark.parametrize(
    ("start", "change"),
    [
        ((), OWN_REWARD),
        (OWN_REWARD, ("advantage.kind=end",)),
        ((), ("domains.division.verifier=rewards:check", "advantage.last=verifier")),
    ],
)
def test_functions_of_ones_own_ask_no_judge_and_are_as_if_trained_with_them(
    trained, repo, monkeypatch, start, change
):
    monkeypatch.setenv("PYTHONPATH", str(repo / "examples/own_parts"))
    run = trained(*start)
    found = what_if(Request(run, change))
    assert found.forecast.requests == found.forecast.from_ledger == 0
    values = assert_equal(run, trained(*start, *change), found)
    assert np.nanmax(np.abs(values)) > 0.1, "nothing to learn, nothing to compare"


def test_a_rubric_of_ones_own_has_a_ledger_of_its_own(trained, tmp_path):
    run, rubric = tmp_path / "run", tmp_path / "mine.toml"
    shutil.copytree(trained(), run)
    rubric.write_text(RUBRIC)
    before = (run / "ledger" / "replies.ledger").read_bytes()
    found = what_if(Request(run, [f"judge.rubric={rubric}"], sample=4), agree_to([]))
    assert found.counts.groups == 1
    assert found.forecast.requests > 0
    assert (run / "ledger" / "replies.ledger").read_bytes() == before


@pytest.mark.parametrize("change", ["advantage.kind=end", "domains.other.advantage=rloo"])
def test_each_domain_keeps_what_is_its_own(trained, change):
    run = trained(mixed=True)
    found = what_if(Request(run, [change]))
    assert found.forecast.requests == 0
    assert set(found.treatments) == {"other" if "other" in change else "division"}
    assert_equal(run, trained(change, mixed=True), found)


def test_a_way_of_grading_finds_the_ledger_that_it_had_in_the_run(trained, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(trained(mixed=True), run)
    # Both domains are graded alike then, and yet `other` was so before, with a ledger of its own.
    asked = []
    change = ["domains.division.view=outcome", "domains.division.advantage=grpo"]
    found = what_if(Request(run, change), agree_to(asked))
    other = [one for one in found.rollouts if one.was.domain == "other"]
    assert [one.was.grades for one in other] == [one.scored.grades for one in other]
    again = what_if(Request(run, [*change, "judge.revision="]), agree_to(asked))
    assert asked[1].from_ledger >= len(other) - sum(one.was.missing for one in other)
    assert again.forecast.requests < asked[0].requests


def test_without_a_change_everything_is_as_it_was(trained):
    found = what_if(Request(trained()))
    assert (found.settings, found.flipped, found.forecast.requests) == ({}, 0.0, 0)
    assert found.token_correlation == pytest.approx(1.0)
    for pair in (found.counts.missing, found.counts.silent_groups, found.counts.reward):
        assert pair.before == pair.after
    assert found.counts.missing.before > 0
    assert all(problem.change == 0.0 for problem in found.problems)
    np.testing.assert_array_equal(found.transitions, np.diag(found.transitions.diagonal()))


def test_a_function_of_ones_own_is_not_called_again_for_another_advantage(
    trained, tmp_path, monkeypatch
):
    calls = tmp_path / "calls"
    (tmp_path / "whatif_rewards.py").write_text(
        f"""
def score(steps: list[str], question: str) -> list[float | None]:
    with open({str(calls)!r}, "a") as file:
        file.write("x")
    return [None if i == 1 else len(step) % 5 / 4 for i, step in enumerate(steps)]
"""
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}")
    own = "reward.source=whatif_rewards:score"
    run, other = trained(own), trained(own, "advantage.kind=end")
    before = calls.stat().st_size
    assert_equal(run, other, what_if(Request(run, ["advantage.kind=end"])))
    assert calls.stat().st_size == before
    asked = what_if(Request(run, ["reward.overlong=none"]))
    assert calls.stat().st_size > before
    assert_equal(run, trained(own, "reward.overlong=none"), asked)


def test_groups_that_the_run_replaced_are_told_apart(trained, tmp_path):
    plain = ("judge.fault_random_rate=0", "judge.fault_no_grade_rate=0", "rollout.redraw=2")
    run = tmp_path / "run"
    shutil.copytree(trained(*plain), run)
    found = what_if(Request(run, ["advantage.kind=end"]))
    assert (found.replaced, found.replaced_teach) == (2, 0)
    assert found.counts.groups == 4
    # Grades at random teach something everywhere.
    found = what_if(Request(run, ["judge.fault_random_rate=0.9"]), agree_to([]))
    assert (found.replaced, found.replaced_teach) == (2, 2)


def test_a_run_that_has_its_ledger_open_is_read_and_not_asked(trained, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(trained(), run)
    settings = JudgeSettings(("http://127.0.0.1:9/v1",), "m", ledger=str(run / "ledger"))
    with Judge(settings):
        assert what_if(Request(run, ["judge.score_map=binary"])).forecast.requests == 0
        with pytest.raises(JudgeError, match="ledger"):
            what_if(Request(run, ["judge.revision="]), agree_to([]))


def test_a_folder_that_is_no_run_is_told_as_such(tmp_path):
    with pytest.raises(ConfigError, match="is no run folder"):
        what_if(Request(tmp_path))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["optim.lr=1"], "does not read optim.lr"),
        (["advantage.kind=grpo"], "does not fit a reward of one score per step"),
        (["judge.score_map=round"], "score_map"),
        (["judge.max_missing_rate=0.5"], "no run is stopped here"),
        (["advantage.kind=batch"], "--sample draws groups"),
    ],
)
def test_a_setting_that_cannot_be_used_is_refused(trained, settings, message):
    with pytest.raises(ConfigError, match=message):
        what_if(Request(trained(), settings, sample=4))


def test_a_setting_that_every_domain_has_for_itself_is_refused(trained):
    run = trained("domains.division.advantage=end")
    with pytest.raises(ConfigError, match=r"set domains\.division\.advantage"):
        what_if(Request(run, ["advantage.kind=group"]))


def test_a_file_of_an_older_run_is_refused_with_the_remedy(trained, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(trained(), run)
    first = run / "rollouts" / "step-00001.parquet"
    shutil.copy(first, run / "rollouts" / "step-00002.parquet")
    parquet.write_table(parquet.read_table(first).drop_columns(["statuses", "masked"]), first)
    with pytest.raises(DataError, match=r"lacks masked, statuses.*--steps 2-2"):
        what_if(Request(run))
    assert what_if(Request(run, steps="2")).steps == [2]
    with pytest.raises(DataError, match="into another run_dir"):
        what_if(Request(run, steps="1"))
    with pytest.raises(DataError, match=r"has rollouts of the steps 1-2"):
        what_if(Request(run, steps="7"))


def test_the_command_counts_first_asks_after_yes_and_writes_what_it_found(trained, tmp_path, exprl):
    run, out = tmp_path / "run", tmp_path / "found.json"
    shutil.copytree(trained(), run)
    words = ("whatif", str(run), "--view", "outcome", "--advantage", "grpo")
    prices = ("--set", "judge.prices={prompt=1.0, cached=0.1, completion=2.0}")
    looked = exprl(*words, *prices, "--dry-run")
    assert looked.returncode == 0, looked.stderr
    assert "requests to send" in looked.stdout
    assert "cost 0.0" in looked.stdout
    ledger = (run / "ledger" / "replies.ledger").read_bytes()
    refused = exprl(*words)
    assert (refused.returncode, "--yes" in refused.stderr) == (1, True)
    assert (run / "ledger" / "replies.ledger").read_bytes() == ledger, "it asked"

    done = exprl(*words, "--yes", "-o", str(out))
    assert done.returncode == 0, done.stderr
    assert "judge.view" in done.stdout
    found = json.loads(out.read_text())
    assert found["settings"]["judge.view"] == {"before": "prefix", "after": "outcome"}
    assert found["judge"]["requests"] > 0
    assert 0.0 <= found["flipped"] <= 1.0
    assert len(found["problems"]) == 4

    rows = tmp_path / "found.parquet"
    assert exprl("whatif", str(run), "--advantage", "end", "-o", str(rows)).returncode == 0
    table = parquet.read_table(rows).to_pylist()
    assert len(table) == 16
    own = learned(trained("advantage.kind=end"))
    for row in table:
        _, values = own[row["problem_id"], row["index"]]
        after = [math.nan if value is None else value for value in row["advantages_after"]]
        np.testing.assert_array_equal(
            np.repeat(after, np.diff(row["piece_end"], prepend=0)), values
        )
    wrong = exprl("whatif", str(run), "-o", "found.txt")
    assert (wrong.returncode, ".parquet" in wrong.stderr) == (2, True)
