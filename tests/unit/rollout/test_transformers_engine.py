"""Rollouts by transformers' generate, on the miniature's base policy."""

import json
import shutil
import sys

import numpy as np
import pytest
import torch

from exprl import config
from exprl.data.tokenizer import load_tokenizer, prompt_ids
from exprl.errors import EngineError
from exprl.learn.policy import Policy
from exprl.rollout.engine import open_engine
from exprl.types import Message, Packed, Prompt

BASE = "examples/division/base"
PROMPTS = [
    Prompt("short", (Message("user", "5)17="),)),
    Prompt("long", (Message("user", "7)1234567="),)),
]


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer(config.Model(path=BASE))


@pytest.fixture(scope="module")
def engine(tokenizer):
    return opened(tokenizer)


def opened(tokenizer, weights=BASE, **rollout):
    model = config.Model(path=str(weights), dtype="float32")
    settings = config.Rollout(engine="transformers", **rollout)
    return open_engine(model, settings, tokenizer=tokenizer, weights=str(weights))


def sampled(engine, n=3, seed=5, temperature=0.7, max_response_tokens=96):
    rollouts = engine.sample(PROMPTS, n, seed, temperature, max_response_tokens)
    return {(r.problem_id, r.index): r for r in rollouts}


def tokens(rollouts):
    return {key: r.token_ids.tolist() for key, r in rollouts.items()}


def test_the_same_call_gives_the_same_rollouts_and_another_seed_others(engine, tokenizer):
    torch.manual_seed(1)
    once = sampled(engine)
    torch.manual_seed(2)
    again = sampled(opened(tokenizer))
    assert once.keys() == {(p.problem_id, i) for p in PROMPTS for i in range(3)}
    assert tokens(once) == tokens(again) != tokens(sampled(engine, seed=6))
    for key, one in once.items():
        np.testing.assert_array_equal(one.generator_logp, again[key].generator_logp)
        assert one.prompt_ids.tolist() == prompt_ids(
            tokenizer, PROMPTS[key[0] == "long"], config.Model(path=BASE)
        )


def test_sampling_leaves_the_trainers_random_numbers_alone(engine):
    torch.manual_seed(1)
    expected = torch.rand(1)
    torch.manual_seed(1)
    sampled(engine)
    assert torch.rand(1) == expected


def one_row(prompt, response):
    """A rollout as the trainer reads it."""
    ids = np.concatenate([prompt, response]).astype(np.int64)
    ends = np.array([0, len(ids)], np.int32)
    return Packed(ids, np.arange(len(ids)), ends, np.arange(len(prompt), len(ids)))


@pytest.fixture(scope="module")
def policy():
    model = config.Model(path=BASE, dtype="float32")
    return Policy(model, config.Optim(), temperature=0.7, needs_initial=False)


def test_log_probs_are_the_trainers_at_the_sampling_temperature_beside_longer_prompts(
    engine, policy
):
    for one in sampled(engine).values():
        expected = policy.logp(one_row(one.prompt_ids, one.token_ids)).numpy()
        np.testing.assert_allclose(one.generator_logp, expected, atol=1e-4, rtol=0)
        whole = np.concatenate([one.prompt_ids, one.token_ids])
        expected = policy.logp(one_row(whole[:1], whole[1:]), temperature=1.0).numpy()
        np.testing.assert_allclose(engine.logp(whole)[0], expected, atol=1e-4, rtol=0)


def test_a_rollout_ends_with_a_stop_token_or_at_the_limit(engine, tokenizer):
    whole = sampled(engine)
    for one in whole.values():
        ends = one.token_ids == tokenizer.eos_token_id
        assert one.finish_reason == "stop" and ends[-1] and not ends[:-1].any()
    limit = min(len(r.token_ids) for r in whole.values()) - 1
    for one in sampled(engine, max_response_tokens=limit).values():
        assert one.finish_reason == "length" and len(one.token_ids) == limit


@pytest.mark.parametrize("cut", [{"top_k": 1}, {"top_p": 1e-6}, {"min_p": 1.0}])
def test_an_evaluation_may_leave_unlikely_tokens_out_and_training_never_does(engine, cut):
    def drawn(*rest):
        rollouts = engine.sample(PROMPTS[1:], 8, 5, 2.0, 12, *rest)
        return {tuple(r.token_ids.tolist()) for r in rollouts}

    assert len(drawn(config.Truncation(**cut))) == 1
    assert len(drawn()) > 4


def copied(folder, **generation_config):
    shutil.copytree(BASE, folder)
    (folder / "generation_config.json").write_text(json.dumps(generation_config))
    return folder


def test_every_stop_token_of_the_models_own_settings_ends_a_rollout(engine, tokenizer, tmp_path):
    delimiter = tokenizer.convert_tokens_to_ids("###")
    stopping = opened(tokenizer, copied(tmp_path / "m", eos_token_id=[2, delimiter]))
    for key, one in sampled(stopping).items():
        assert one.finish_reason == "stop" and one.token_ids[-1] == delimiter, key


def test_the_models_own_ways_of_sampling_are_not_used(engine, tokenizer, tmp_path):
    """Else the engine would sample from another policy than the one that is trained."""
    folder = copied(
        tmp_path / "m", eos_token_id=2, top_k=1, top_p=0.1, min_p=0.5, repetition_penalty=2.0
    )
    assert tokens(sampled(opened(tokenizer, folder))) == tokens(sampled(engine))


def test_a_batch_has_at_most_max_num_seqs_rows(tokenizer, monkeypatch):
    engine = opened(tokenizer, max_num_seqs=4)
    sizes = []
    generate = engine._model.generate
    monkeypatch.setattr(
        engine._model,
        "generate",
        lambda ids, **more: (sizes.append(len(ids)), generate(ids, **more))[1],
    )
    assert len(sampled(engine)) == 6
    assert sizes == [4, 2]


def test_a_continuation_keeps_its_beginning_and_the_limit_of_both(engine):
    beginning = next(iter(sampled(engine).values())).token_ids[:3]
    begun = [("short", PROMPTS[0], beginning), ("long", PROMPTS[1], beginning[:1])]
    for one in engine.sample_continuations(begun, 2, 5, 0.7, 6):
        given = 3 if one.problem_id == "short" else 1
        assert one.prompt_ids[-given:].tolist() == beginning[:given].tolist()
        assert one.finish_reason == "length" and len(one.token_ids) == 6 - given


def test_weights_arrive_whole_or_not_at_all(tokenizer, policy):
    engine = opened(tokenizer)
    shifted = {name: value + 0.01 for name, value in policy.weights()}
    row = np.arange(3, 20, dtype=np.int32)
    [before] = engine.logp(row)
    engine.load_weights(iter(shifted.items()), 4)
    assert np.abs(engine.logp(row)[0] - before).max() > 1e-3
    assert {r.policy_version for r in sampled(engine).values()} == {4}
    last = list(shifted)[-1]
    with pytest.raises(EngineError, match=f"was sent no {last}"):
        engine.load_weights(((k, v) for k, v in shifted.items() if k != last), 5)
    with pytest.raises(EngineError, match="no weight 'other'"):
        engine.load_weights(iter({"other": torch.zeros(1)}.items()), 5)
    assert engine.policy_version == 4


def test_vllm_is_not_needed_and_its_absence_names_the_other_engine(tokenizer, monkeypatch):
    monkeypatch.setitem(sys.modules, "vllm", None)
    assert len(sampled(opened(tokenizer))) == 6
    model = config.Model(path=BASE, dtype="float32")
    with pytest.raises(EngineError, match=r'rollout\.engine = "transformers"'):
        open_engine(model, config.Rollout(), tokenizer=tokenizer, weights=BASE)
