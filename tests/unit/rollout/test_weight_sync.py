"""The probe that proves a weight update, with an engine that is a real one."""

import numpy as np
import pytest

from exprl import config
from exprl.data.tokenizer import load_tokenizer
from exprl.errors import EngineError
from exprl.learn.policy import Policy
from exprl.rollout.engine import NO_POLICY, open_engine
from exprl.rollout.weight_sync import FP32_NOISE, Probe, lend_gpu, open_probe, wake_engine
from exprl.types import Message, Problem, Prompt

MODEL = config.Model(path="examples/division/base", dtype="float32")
ROLLOUT = config.Rollout(engine="transformers", max_prompt_tokens=32, max_response_tokens=96)
CEILING = ROLLOUT.sync_gap_limit
PROBLEM = Problem("p", Prompt("p", (Message("user", "5)106973="),)), None, "division")


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer(MODEL)


@pytest.fixture
def policy():
    return Policy(MODEL, config.Optim(), temperature=0.5, needs_initial=False)


@pytest.fixture
def engine(tokenizer):
    return open_engine(MODEL, ROLLOUT, tokenizer=tokenizer, weights=MODEL.path)


@pytest.fixture
def probe(tokenizer, policy):
    one = open_probe([PROBLEM], tokenizer, MODEL, ROLLOUT)
    one.score_by_policy(policy)
    return one


def moved(policy, by=0.002):
    """What an optimizer step does."""
    policy.version += 1
    for parameter in policy.model.parameters():
        parameter.data += by * parameter.data.abs().mean()


def test_the_first_check_sets_a_limit_that_no_rounding_of_fp32_reaches(engine, policy, probe):
    assert probe.limit is None and np.isnan(probe.gap)
    assert wake_engine(policy, engine, probe) is engine
    assert probe.gap < 1e-5 and probe.limit == FP32_NOISE
    assert probe.row() == {"sync/probe_gap": probe.gap}


def test_an_update_that_arrives_passes_and_one_that_does_not_is_told_with_both_numbers(
    engine, policy, probe, monkeypatch
):
    wake_engine(policy, engine, probe)
    with lend_gpu(policy, engine, probe):
        moved(policy)
    wake_engine(policy, engine, probe)
    assert engine.policy_version == 1 and probe.gap < 1e-5

    with lend_gpu(policy, engine, probe):
        moved(policy)
    monkeypatch.setattr(
        engine, "load_weights", lambda _, version: setattr(engine, "policy_version", version)
    )
    with pytest.raises(EngineError) as error:
        wake_engine(policy, engine, probe)
    assert f"{probe.gap:.3g}" in str(error.value) and "0.0001 is rounding" in str(error.value)
    assert "policy version 2" in str(error.value)


def test_an_engine_that_names_another_version_stops_the_run(engine, policy, probe, monkeypatch):
    with lend_gpu(policy, engine, probe):
        moved(policy)
    load = engine.load_weights
    monkeypatch.setattr(engine, "load_weights", lambda sent, version: load(sent, version - 1))
    with pytest.raises(EngineError, match="with policy version 0, the trainer is at version 1"):
        wake_engine(policy, engine, probe)


def test_the_first_check_has_the_ceiling_for_a_limit(engine, policy, probe):
    moved(policy, by=1.0)
    policy.version = 0
    probe.score_by_policy(policy)
    with pytest.raises(EngineError, match=f"at most {CEILING} is rounding"):
        wake_engine(policy, engine, probe)
    assert probe.gap > CEILING


def test_the_limit_is_ten_times_the_first_gap_up_to_the_ceiling(engine, policy, probe):
    for by, limit in ((1e-4, None), (0.01, CEILING)):
        one = Probe(probe._token_ids, CEILING)
        moved(policy, by)
        policy.version = 0
        one.score_by_policy(policy)
        one.check(engine)
        assert one.limit == pytest.approx(limit or 10 * one.gap) and one.gap > 1e-5


def test_an_engine_that_must_sleep_before_the_policy_loads_is_heard_before(
    engine, policy, tokenizer
):
    """So the limit is that of rounding, and not the ceiling, when its weights arrive anew."""
    probe = open_probe([PROBLEM], tokenizer, MODEL, ROLLOUT)
    probe.score_by_engine(engine)
    engine.policy_version = NO_POLICY  # as after `sleep` on a GPU
    probe.score_by_policy(policy)
    assert probe.gap < 1e-5 and probe.limit == FP32_NOISE
    wake_engine(policy, engine, probe)
    assert engine.policy_version == 0

    other = open_probe([PROBLEM], tokenizer, MODEL, ROLLOUT)
    other.score_by_engine(engine)
    moved(policy, by=1.0)
    with pytest.raises(EngineError, match=f"at most {CEILING} is rounding"):
        other.score_by_policy(policy)


def test_a_gap_that_is_no_number_stops_the_run(engine, policy, probe):
    engine._model.lm_head.weight.data.fill_(float("nan"))
    with pytest.raises(EngineError, match="differ by nan"):
        wake_engine(policy, engine, probe)


def test_the_row_fits_an_engine_of_short_sequences(tokenizer):
    small = ROLLOUT.model_copy(update={"max_response_tokens": 8})
    assert len(open_probe([PROBLEM], tokenizer, MODEL, small)._token_ids) == 32 + 8 - 1
    assert len(open_probe([PROBLEM], tokenizer, MODEL, ROLLOUT)._token_ids) == 127
