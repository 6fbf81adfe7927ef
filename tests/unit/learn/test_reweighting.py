"""RLSD: what the reference says of a token scales its advantage, and never turns it around."""

import math

import numpy as np
import pytest
import torch

from exprl import config
from exprl.errors import ConfigError
from exprl.learn.batch import pack, rollout_examples
from exprl.learn.policy import Policy
from exprl.learn.reweighting import reweight
from exprl.types import Rollout, Scored, Segment

WEIGHT = 0.5
PLAIN = config.Loss(kl_coef=0.0, clip_low=None, clip_high=None)
RLSD = PLAIN.model_copy(update={"teacher_weight": WEIGHT})


def tensor(*values):
    return torch.tensor(values, dtype=torch.float64)


def test_a_token_that_the_reference_makes_likelier_earns_more_and_is_blamed_less():
    gain = tensor(math.log(1.1), math.log(1.1), 0.0)
    weighed = reweight(tensor(2.0, -2.0, 2.0), gain, weight=1.0)
    assert weighed.tolist() == pytest.approx([2.0 * 1.1, -2.0 / 1.1, 2.0])


def test_a_weight_stays_within_a_fifth_of_1():
    gain = tensor(5.0, -5.0, 5.0, -5.0)
    weighed = reweight(tensor(1.0, 1.0, -1.0, -1.0), gain, weight=1.0)
    assert weighed.tolist() == pytest.approx([1.2, 0.8, -0.8, -1.2])


def test_the_setting_mixes_the_weighed_advantage_with_the_plain_one():
    gain = tensor(5.0, math.log(1.1))
    assert reweight(tensor(1.0, 1.0), gain, 0.25).tolist() == pytest.approx([1.05, 1.025])
    assert reweight(tensor(1.0, 1.0), gain, 0.0).tolist() == [1.0, 1.0]


def test_no_advantage_changes_its_sign():
    generator = torch.Generator().manual_seed(0)
    advantages = torch.randn(1000, generator=generator)
    advantages[::10] = 0.0
    weighed = reweight(advantages, 10 * torch.randn(1000, generator=generator), 1.0)
    assert torch.equal(weighed.sign(), advantages.sign())


def moved(path):
    """A policy that is no longer the initial one, and the same weights as a plain model."""
    from transformers import AutoModelForCausalLM

    policy = Policy(
        config.Model(path=path, dtype="float32"),
        config.Optim(max_grad_norm=1e9),
        temperature=1.0,
        needs_initial=False,
    )
    model = AutoModelForCausalLM.from_pretrained(path, attn_implementation="eager").float()
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for own, other in zip(policy.model.parameters(), model.parameters(), strict=True):
            own.add_(0.05 * torch.randn(own.shape, generator=generator))
            other.copy_(own)
    return policy, model


def samples():
    """Rollouts of two steps with their advantages, and what the teacher reads before them."""
    rng = np.random.default_rng(1)
    scored, advantages, shown = [], [], {}
    for name, prompt, length in (("a", 4, 6), ("b", 2, 9), ("c", 5, 7)):
        ids, tokens = (rng.integers(0, 16, n).astype(np.int32) for n in (prompt, length))
        versions = np.zeros(length, np.int32)
        rollout = Rollout(name, 0, ids, tokens, np.full(length, -2.0, np.float32), "stop", versions)
        segments = (Segment(0, 3, "x"), Segment(3, length, "y"))
        scored.append(Scored(rollout, segments, (5, 1), (1.0, 0.0), None))
        advantages.append(np.array([1.5, -0.5]))
        shown[name] = np.concatenate([ids, rng.integers(0, 16, 4).astype(np.int32)])
    return scored, advantages, shown


def packed(mini_batches=1, micro_batch_tokens=1000):
    scored, advantages, shown = samples()
    return pack(
        rollout_examples(scored, advantages, shown),
        mini_batches=mini_batches,
        micro_batch_tokens=micro_batch_tokens,
        aggregation="token_mean",
        max_response_tokens=16,
    )


def logp(model, prompt, tokens):
    ids = torch.from_numpy(np.concatenate([prompt, tokens])).long()[None]
    rows = model(ids).logits[0, len(prompt) - 1 : -1].log_softmax(-1)
    return rows.gather(1, torch.from_numpy(tokens).long()[:, None])[:, 0]


def written_out(model):
    """The loss by plain forwards, and the mean |gain|."""
    losses, gains = [], []
    for one, (first, last), shown in zip(*samples()[:2], samples()[2].values(), strict=True):
        rollout = one.rollout
        own = logp(model, rollout.prompt_ids, rollout.token_ids)
        gain = (logp(model, shown, rollout.token_ids) - own).detach()
        plain = torch.tensor([first] * 3 + [last] * (len(own) - 3), dtype=torch.float32)
        evidence = (plain.sign() * gain).exp().clamp(0.8, 1.2)
        losses.append(-plain * (1 - WEIGHT + WEIGHT * evidence) * own)
        gains.append(gain.abs())
    return torch.cat(losses).mean(), torch.cat(gains).mean().item()


@pytest.mark.parametrize("micro_batch_tokens", [1000, 12])
def test_a_step_learns_from_the_weighed_advantages_of_the_policy_that_reads_the_reference(
    tiny_qwen3, micro_batch_tokens
):
    policy, model = moved(tiny_qwen3)
    loss, gain = written_out(model)
    loss.backward()
    norm = torch.stack([p.grad.norm() for p in model.parameters()]).norm().item()
    [stats] = policy.step(packed(micro_batch_tokens=micro_batch_tokens), RLSD)
    assert stats.grad_norm == pytest.approx(norm, rel=1e-4)
    assert stats.loss.teacher_gap / stats.loss.tokens == pytest.approx(gain, rel=1e-4)


def test_later_mini_batches_are_weighed_by_the_policy_from_before_the_step(tiny_qwen3):
    policy, model = moved(tiny_qwen3)
    _, gain = written_out(model)
    updates = policy.step(packed(mini_batches=3), RLSD)
    tokens = sum(one.loss.tokens for one in updates)
    assert sum(one.loss.teacher_gap for one in updates) / tokens == pytest.approx(gain, rel=1e-4)


def test_without_the_setting_the_teacher_is_not_asked(tiny_qwen3):
    policy, _ = moved(tiny_qwen3)
    [plain] = policy.step(packed(), PLAIN)
    assert math.isnan(plain.loss.teacher_gap)


def build(**loss):
    return config.build(
        {
            "method": "sparse-grpo",
            "model": {"path": "m"},
            "data": {"path": "d", "columns": {"answer": "a"}},
            "loss": loss,
        }
    )


def test_a_sparse_reward_reads_references_for_the_teacher_alone():
    assert not build().needs_references
    cfg = build(teacher_weight=0.5, kl_coef=0.0)
    assert cfg.needs_references and cfg.needs_teacher
    assert not cfg.needs_initial_policy, "the policy is its own teacher"
    assert not cfg.asks_judge


def test_only_advantages_can_be_weighed():
    with pytest.raises(ConfigError, match="has none; set it to 0"):
        config.build(
            {
                "method": "self-distillation",
                "model": {"path": "m"},
                "data": {"path": "d"},
                "loss": {"teacher_weight": 0.5},
            }
        )
