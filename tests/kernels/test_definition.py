"""The loss in plain torch: hand-made cases, fp64 gradients, and rows that must teach nothing."""

import math

import pytest
import torch

from exprl_kernels import ClipCode, grpo_loss_from_logits, linear_grpo_loss, linear_logp


def one_token(ratio: float, advantage: float, **settings):
    """The loss of one token whose logp differs from trainer_logp by log(ratio)."""
    logits = torch.tensor([[math.log(3.0), 0.0]], dtype=torch.float64)  # p = 3/4, 1/4
    logp = math.log(0.75)
    return grpo_loss_from_logits(
        logits,
        torch.tensor([0]),
        seg_adv=torch.tensor([advantage], dtype=torch.float64),
        seg_id=torch.tensor([0], dtype=torch.int32),
        token_weight=torch.ones(1, dtype=torch.float64),
        trainer_logp=torch.tensor([logp - math.log(ratio)], dtype=torch.float64),
        **settings,
    )


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "code"),
    [
        (1.0, 2.0, -2.0, ClipCode.NONE),
        (1.1, 2.0, -2.2, ClipCode.NONE),
        (1.5, 2.0, -2.52, ClipCode.HIGH),  # 1.26 * 2
        (0.5, 2.0, -1.0, ClipCode.NONE),  # a positive advantage is not held from below
        (0.5, -2.0, 1.6, ClipCode.LOW),  # 0.8 * 2
        (1.5, -2.0, 3.0, ClipCode.NONE),
        (1.5, 0.0, 0.0, ClipCode.NONE),
    ],
)
def test_the_clip_is_pessimistic_and_asymmetric(ratio, advantage, loss, code):
    out = one_token(ratio, advantage, clip_low=0.2, clip_high=0.26)
    assert out.loss.item() == pytest.approx(loss, abs=1e-12)
    assert out.clip_code.item() == code
    assert out.ratio.item() == pytest.approx(ratio)


def test_without_a_clip_it_is_reinforce():
    assert one_token(5.0, 2.0, clip_low=None, clip_high=None).loss.item() == pytest.approx(-10.0)


def test_dual_clip_bounds_the_loss_of_a_negative_advantage():
    out = one_token(5.0, -2.0, dual_clip=3.0)
    assert out.loss.item() == pytest.approx(6.0)
    assert out.clip_code.item() == ClipCode.DUAL


def test_kl_is_k3_and_entropy_is_a_bonus():
    initial = math.log(0.75) + 0.5
    out = one_token(
        1.0,
        0.0,
        initial_logp=torch.tensor([initial], dtype=torch.float64),
        kl_coef=2.0,
        entropy_coef=0.1,
    )
    k3 = math.exp(0.5) - 0.5 - 1.0
    entropy = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    assert out.k3.item() == pytest.approx(k3)
    assert out.entropy.item() == pytest.approx(entropy)
    assert out.loss.item() == pytest.approx(2.0 * k3 - 0.1 * entropy)


def test_the_truncated_importance_weight_scales_the_policy_gradient_only():
    trainer = math.log(0.75)
    generator = torch.tensor([trainer - math.log(4.0)], dtype=torch.float64)
    free = one_token(1.0, 1.0, generator_logp=generator, importance_cap=10.0)
    capped = one_token(1.0, 1.0, generator_logp=generator, importance_cap=2.0)
    assert free.loss.item() == pytest.approx(-4.0)
    assert capped.loss.item() == pytest.approx(-2.0)


def random_case(n=7, h=5, v=11, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=dtype)

    hidden, weight = normal(n, h), normal(v, h)
    targets = torch.randint(v, (n,), generator=generator)
    with torch.no_grad():
        logp = linear_logp(hidden, weight, targets, temperature=0.7).logp
    return (
        hidden,
        weight,
        targets,
        {
            "seg_adv": normal(3),
            "seg_id": torch.tensor([0, 0, 1, 1, 1, 2, 2], dtype=torch.int32)[:n],
            "token_weight": torch.rand(n, generator=generator, dtype=dtype),
            "trainer_logp": logp + 0.1 * normal(n),
            "initial_logp": logp + 0.3 * normal(n),
            "generator_logp": logp + 0.1 * normal(n),
            "temperature": 0.7,
            "kl_coef": 0.1,
            "entropy_coef": 0.01,
            "importance_cap": 2.0,
        },
    )


def test_gradients_agree_with_finite_differences():
    hidden, weight, targets, rest = random_case()
    hidden.requires_grad_(), weight.requires_grad_()
    assert torch.autograd.gradcheck(
        lambda x, w: linear_grpo_loss(x, w, targets, **rest).loss, (hidden, weight)
    )


def test_without_trainer_logp_the_gradient_is_that_of_an_on_policy_step():
    hidden, weight, targets, rest = random_case()
    rest |= {"importance_cap": None, "generator_logp": None}
    given = dict(rest, trainer_logp=linear_logp(hidden, weight, targets, temperature=0.7).logp)
    gradients = []
    for settings in (dict(rest, trainer_logp=None), given):
        x = hidden.clone().requires_grad_()
        linear_grpo_loss(x, weight, targets, **settings).loss.backward()
        gradients.append(x.grad)
    torch.testing.assert_close(*gradients)


def test_logp_and_entropy_are_those_of_torch_distributions():
    hidden, weight, targets, _ = random_case()
    temperature = torch.linspace(0.5, 2.0, len(hidden), dtype=torch.float64)
    out = linear_logp(hidden, weight, targets, temperature=temperature)
    truth = torch.distributions.Categorical(logits=hidden @ weight.T / temperature[:, None])
    torch.testing.assert_close(out.logp, truth.log_prob(targets))
    torch.testing.assert_close(out.entropy, truth.entropy())


def test_masked_vocabulary_entries_add_nothing_to_the_entropy():
    logits = torch.tensor([[0.0, 0.0, -torch.inf]])
    out = grpo_loss_from_logits(
        logits,
        torch.tensor([0]),
        seg_adv=torch.ones(1),
        seg_id=torch.zeros(1, dtype=torch.int32),
        token_weight=torch.ones(1),
    )
    assert out.entropy.item() == pytest.approx(math.log(2))


def test_a_broken_row_is_counted_and_teaches_nothing():
    hidden, weight, targets, rest = random_case()
    rest["trainer_logp"][2] += 25.0
    hidden.requires_grad_()
    out = linear_grpo_loss(hidden, weight, targets, **rest)
    out.loss.backward()
    assert out.bad_rows.item() == 1
    assert hidden.grad[2].abs().max() == 0
    assert torch.isfinite(hidden.grad).all()


def test_shifting_advantages_by_one_segment_changes_the_loss():
    hidden, weight, targets, rest = random_case()
    here = linear_grpo_loss(hidden, weight, targets, **rest).loss
    rest["seg_adv"] = rest["seg_adv"].roll(1)
    assert not torch.isclose(here, linear_grpo_loss(hidden, weight, targets, **rest).loss)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seg_adv": torch.ones(2, 4)}, "seg_adv has shape"),
        ({"token_weight": torch.ones(3)}, "token_weight has shape"),
        ({"initial_logp": None}, "needs initial_logp"),
        ({"clip_low": None}, "go together"),
        ({"generator_logp": None}, "needs generator_logp"),
    ],
)
def test_wrong_input_is_refused_with_the_value(change, message):
    hidden, weight, targets, rest = random_case()
    with pytest.raises(ValueError, match=message):
        linear_grpo_loss(hidden, weight, targets, **(rest | change))
