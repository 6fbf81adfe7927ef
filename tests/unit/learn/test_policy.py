"""The policy: packed log-probs are those of each sequence alone; a step is AdamW on the loss."""

import copy
import dataclasses

import numpy as np
import pytest
import torch
from torch.overrides import TorchFunctionMode

from exprl import config
from exprl.errors import ConfigError
from exprl.learn.batch import pack, rollout_examples
from exprl.learn.policy import Policy
from exprl.types import Rollout, Scored, Segment

TEMPERATURE = 0.7
NO_KL = config.Loss(kl_coef=0.0)


@pytest.fixture
def policy(tiny_qwen3):
    return load(tiny_qwen3)


def load(path, *, needs_initial=False, lr=1e-2, **model):
    return Policy(
        config.Model(**{"path": path, "dtype": "float32"} | model),
        config.Optim(lr=lr, max_grad_norm=1e9),
        temperature=TEMPERATURE,
        needs_initial=needs_initial,
    )


def rollouts(count=5):
    rng = np.random.default_rng(0)
    for i in range(count):
        n = int(rng.integers(3, 12))
        rollout = Rollout(
            "p",
            i,
            rng.integers(0, 16, 4).astype(np.int32),
            rng.integers(0, 16, n).astype(np.int32),
            np.full(n, -2.0, np.float32),
            "stop",
            np.zeros(n, np.int32),
        )
        yield Scored(rollout, (Segment(0, 2, "a"), Segment(2, n, "b")), (5, 1), (1.0, 0.0), None)


def batches(micro_batch_tokens=1000, advantages=(1.0, -1.0), mini_batches=1, teacher=False):
    items = list(rollouts())
    teacher_prompts = {"p": np.arange(6, dtype=np.int32)} if teacher else None
    return pack(
        rollout_examples(items, [np.array(advantages)] * len(items), teacher_prompts),
        mini_batches=mini_batches,
        micro_batch_tokens=micro_batch_tokens,
        aggregation="token_mean",
        max_response_tokens=12,
    )


def longest_first():
    """The rollouts in the order in which `batches` packs them."""
    return sorted(rollouts(), key=lambda s: -len(s.rollout.token_ids))


def alone(model, scored, dtype=None):
    """Log-probs of a rollout's tokens by a plain forward of that sequence only."""
    ids = np.concatenate([scored.rollout.prompt_ids, scored.rollout.token_ids])
    tokens = torch.from_numpy(ids).long()[None]
    prompt = len(scored.rollout.prompt_ids)
    logp = (model(tokens).logits[0].to(dtype) / TEMPERATURE).log_softmax(-1)
    return logp[prompt - 1 : -1].gather(1, tokens[0, prompt:, None])[:, 0]


def plain(path, dtype=torch.float32):
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(path, attn_implementation="eager", dtype=dtype)


def test_packed_log_probs_are_those_of_each_sequence_alone(policy, tiny_qwen3):
    [[batch]] = batches()
    model = plain(tiny_qwen3)
    with torch.no_grad():
        expected = torch.cat([alone(model, s) for s in longest_first()])
    torch.testing.assert_close(policy.logp(batch), expected, rtol=0, atol=1e-5)


def test_the_gradient_is_that_of_the_written_out_objective(policy, tiny_qwen3):
    """On-policy and without KL the loss's gradient is that of -mean(A * logp)."""
    [micro] = batches()
    model = plain(tiny_qwen3)
    logp = torch.cat([alone(model, s) for s in rollouts()])
    advantages = torch.cat(
        [torch.tensor([1.0] * 2 + [-1.0] * (len(s.rollout.token_ids) - 2)) for s in rollouts()]
    )
    (-(advantages * logp).mean()).backward()
    norm = torch.stack([p.grad.norm() for p in model.parameters()]).norm().item()
    stats = policy.step([micro], NO_KL)[0]
    assert stats.grad_norm == pytest.approx(norm, rel=1e-4)
    assert not stats.skipped
    assert policy.version == 1


@pytest.mark.parametrize(
    ("model", "micro_batch_tokens"),
    [({"gradient_checkpointing": True}, 1000), ({}, 16)],
    ids=["gradient checkpointing", "one rollout per micro-batch"],
)
def test_memory_settings_do_not_change_the_step(tiny_qwen3, model, micro_batch_tokens):
    plain_policy, other = load(tiny_qwen3), load(tiny_qwen3, **model)
    [whole], [cut] = batches(), batches(micro_batch_tokens)
    plain_policy.step([whole], NO_KL), other.step([cut], NO_KL)
    for (name, a), (_, b) in zip(plain_policy.weights(), other.weights(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-5, msg=name)


def test_a_step_towards_good_steps_makes_them_likelier(policy):
    [[batch]] = batches()
    before = policy.logp(batch)
    policy.step([[batch]], NO_KL)
    change = policy.logp(batch) - before
    good = torch.from_numpy(batch.seg_adv[batch.seg_id] > 0)
    assert change[good].mean() > 0 > change[~good].mean()


def test_kl_pulls_towards_the_frozen_initial_policy(tiny_qwen3):
    one = load(tiny_qwen3, needs_initial=True)
    [[batch]] = batches()
    initial = one.initial_logp(batch)
    torch.testing.assert_close(initial, one.logp(batch))
    for _ in range(3):
        stats = one.step([[batch]], config.Loss(kl_coef=0.1))[0]
    assert stats.loss.kl > 0
    torch.testing.assert_close(one.initial_logp(batch), initial, rtol=0, atol=0)


def test_later_mini_batches_are_held_against_the_policy_from_before_the_step(tiny_qwen3):
    step, alone = load(tiny_qwen3), load(tiny_qwen3)
    first, second = batches(mini_batches=2)
    before = torch.cat([alone.logp(batch) for batch in second])
    alone.step([first], NO_KL)
    ratio = (torch.cat([alone.logp(batch) for batch in second]) - before).exp()
    one, two = step.step([first, second], NO_KL)
    assert one.loss.ratio_max == 1.0
    assert two.loss.ratio_max == pytest.approx(ratio.max().item(), rel=1e-4)
    assert two.loss.ratio_max > 1.01


OFF_POLICY = config.Loss(kl_coef=0.0, importance_cap=2.0)


def test_the_first_mini_batch_is_its_own_policy_from_before_the_step_also_for_older_tokens(
    tiny_qwen3,
):
    """Its weights are those of before the step, so a forward of its own would say the same.

    The tokens of `batches` are such: the engine gave each -2, whatever the policy gives it.
    """
    without, given = load(tiny_qwen3), load(tiny_qwen3)
    [mini] = batches(16)
    [nothing] = without._before([mini], OFF_POLICY)
    assert {one.trainer_logp for one in nothing} == {None}
    before = [
        one._replace(trainer_logp=given.logp(b)) for one, b in zip(nothing, mini, strict=True)
    ]
    one, other = (
        without.step([mini], OFF_POLICY)[0],
        given._update(mini, before, OFF_POLICY, lambda: None),
    )
    assert other.loss.loss == pytest.approx(one.loss.loss, rel=1e-5)
    assert other.grad_norm == pytest.approx(one.grad_norm, rel=1e-5)
    assert other.loss.capped == one.loss.capped
    for (name, a), (_, b) in zip(without.weights(), given.weights(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-6, msg=name)


def test_tokens_whose_importance_weight_is_capped_are_counted(policy):
    [[batch]] = batches()
    gap = policy.logp(batch).numpy() - np.linspace(-4.0, 0.0, len(batch.token_weight))
    moved = dataclasses.replace(batch, generator_logp=(policy.logp(batch).numpy() - gap))
    capped = int((gap > np.log(2.0)).sum())
    assert 0 < capped < len(gap)
    assert policy.step([[moved]], OFF_POLICY)[0].loss.capped == capped
    assert np.isnan(policy.step([[moved]], NO_KL)[0].loss.capped)


def test_tokens_of_weight_0_leave_no_trace_in_weights_and_numbers(tiny_qwen3):
    """As rollout.max_lag asks it of tokens that are too old, here those of two rollouts."""
    masked, alone = load(tiny_qwen3), load(tiny_qwen3)
    [[batch]] = batches()
    start, end = batch.cu_seqlens[2], batch.cu_seqlens[4]
    out = (batch.target_pos >= start) & (batch.target_pos < end)
    weight = np.where(out, 0.0, batch.token_weight).astype(np.float32)
    wild = np.where(out, 50.0, batch.generator_logp).astype(np.float32)
    found = masked.step(
        [[dataclasses.replace(batch, token_weight=weight, generator_logp=wild)]], OFF_POLICY
    )[0]
    items = [s for i, s in enumerate(longest_first()) if i not in (2, 3)]
    examples = rollout_examples(items, [np.array((1.0, -1.0))] * len(items))
    [[few]] = pack(
        examples,
        mini_batches=1,
        micro_batch_tokens=1000,
        aggregation="token_mean",
        max_response_tokens=12,
    )
    few = dataclasses.replace(few, token_weight=weight[weight > 0])
    expected = alone.step([[few]], OFF_POLICY)[0]
    assert found.loss.tokens == expected.loss.tokens == int((~out).sum())
    for name in ("loss", "entropy", "capped", "logp_gap", "ratio_max", "clipped"):
        value = getattr(expected.loss, name)
        assert getattr(found.loss, name) == pytest.approx(value, rel=1e-5, abs=1e-6), name
    assert found.loss.bad_rows == 0
    assert found.grad_norm == pytest.approx(expected.grad_norm, rel=1e-4)


def test_the_temperature_of_log_probs_can_be_another_than_that_of_training(policy):
    [[batch]] = batches()
    cold, warm = policy.logp(batch, temperature=0.1), policy.logp(batch, temperature=TEMPERATURE)
    torch.testing.assert_close(warm, policy.logp(batch), rtol=0, atol=0)
    assert not torch.allclose(cold, warm)


class Reads(TorchFunctionMode):
    """Counts what makes the host wait for a GPU: values of tensors that Python asks for."""

    NAMES = ("item", "tolist", "__bool__", "__int__", "__float__", "__index__", "numpy", "cpu")

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func.__name__ in self.NAMES:
            self.count += 1
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("objective", ["policy_gradient", "cross_entropy", "reverse_kl"])
def test_a_micro_batch_makes_the_host_wait_for_the_device_once_at_most(tiny_qwen3, objective):
    """In the check of the loss's arguments; the sums are read once per mini-batch."""
    loss = config.Loss(objective=objective, kl_coef=0.0)
    counts = []
    for micro_batch_tokens in (1000, 16):
        one = load(tiny_qwen3, needs_initial=objective == "reverse_kl")
        [micro] = batches(micro_batch_tokens, teacher=objective == "reverse_kl")
        one.step([micro], loss)  # AdamW's first step makes its state
        with Reads() as reads:
            one.step([micro], loss)
        counts.append((len(micro), reads.count))
    (one, few), (many, more) = counts
    assert (one, many) == (1, 5)
    assert more - few <= many - one
    assert few >= 1


def test_in_bf16_the_policy_starts_as_the_initial_policy_to_the_bit(tiny_qwen3):
    one = load(tiny_qwen3, needs_initial=True, dtype="bfloat16")
    [[batch]] = batches()
    assert torch.equal(one.logp(batch), one.initial_logp(batch))
    assert one.step([[batch]], config.Loss(kl_coef=0.1))[0].loss.kl == 0.0


def test_in_bf16_the_forward_is_that_of_a_bf16_model(tiny_qwen3):
    """Its residual stream too, which autocast over fp32 weights keeps in fp32."""
    one = load(tiny_qwen3, dtype="bfloat16")
    seen = []
    for layer in one.model.base_model.layers:
        layer.register_forward_hook(lambda _, inputs, output: seen.append(output.dtype))
    [[batch]] = batches()
    found = one.logp(batch)
    assert set(seen) == {torch.bfloat16}
    model = plain(tiny_qwen3, torch.bfloat16)
    with torch.no_grad():
        expected = torch.cat([alone(model, s, torch.float32) for s in longest_first()])
    torch.testing.assert_close(found, expected, rtol=0, atol=5e-3)


def test_in_bf16_steps_too_small_for_a_weight_add_up(tiny_qwen3):
    """At a learning rate of 1e-5 the first step leaves most bf16 weights as they are."""
    one = load(tiny_qwen3, dtype="bfloat16", lr=1e-5)
    began = {name: value.clone() for name, value in one.weights()}
    assert {value.dtype for value in began.values()} == {torch.bfloat16}
    masters = {name: value.detach().clone() for name, value in one.masters.named.items()}

    def moved():
        now = dict(one.weights())
        return sum((now[name] != began[name]).sum().item() for name in masters)

    [micro] = batches()
    one.step([micro], NO_KL)
    first = moved()
    for _ in range(30):
        one.step([micro], NO_KL)
    assert moved() > 3 * first
    for name, value in one.masters.named.items():
        assert value.dtype == torch.float32
        assert (value - masters[name]).abs().max() > 1e-5
        torch.testing.assert_close(dict(one.weights())[name], value.bfloat16(), rtol=0, atol=0)


def test_a_non_finite_loss_skips_the_step_and_says_so(policy):
    [micro] = batches(advantages=(3e38, -1.0))  # the gradient's norm is past the largest float
    before = copy.deepcopy(dict(policy.weights()))
    stats = policy.step([micro], NO_KL)[0]
    assert stats.skipped
    assert policy.version == 0
    assert all(torch.equal(before[name], value) for name, value in policy.weights())


def test_warm_up_is_linear(tiny_qwen3):
    one = Policy(
        config.Model(path=tiny_qwen3, dtype="float32"),
        config.Optim(lr=0.4, warmup_steps=4),
        temperature=1.0,
        needs_initial=False,
    )
    [micro] = batches()
    rates = [one.step([micro], NO_KL)[0].lr for _ in range(5)]
    assert rates == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.4])


def test_weights_carry_the_tied_head_by_name(policy):
    assert "lm_head.weight" in dict(policy.weights())


def test_a_model_that_is_not_there_is_a_config_error():
    with pytest.raises(ConfigError, match=r"model\.path = 'no/such-model'"):
        load("no/such-model")
