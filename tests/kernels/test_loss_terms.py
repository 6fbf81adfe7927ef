"""Terms of the loss that one wrong line would spoil unnoticed: each through the kernels."""

import math

import pytest
import torch
from loss_cases import DEVICE, Case, assert_same, relative

from exprl_kernels import grpo_loss_from_logits, linear_grpo_loss, linear_logp, logits_loss
from exprl_kernels.terms import Rows, Shape, Terms

BACKENDS = ("torch", "triton")


def weighed(n: int, **settings) -> Case:
    """A case whose tokens all have a weight."""
    case = Case(n, 31, **settings)
    case.loss["token_weight"] += 0.1
    return case


@pytest.mark.parametrize("chunk_tokens", [5, 64])
def test_every_token_of_the_loss_has_its_own_temperature(chunk_tokens):
    own = torch.linspace(0.5, 2.0, 12, device=DEVICE)
    case = Case(12, 31, kl_coef=0.3, entropy_coef=0.2, temperature=own)
    expected, dx, dw = case.run("torch", torch.float64)
    found, found_dx, found_dw = case.run("triton", chunk_tokens=chunk_tokens)
    assert_same(found, expected, 1e-5)
    assert relative(found_dx, dx) <= 1e-5 and relative(found_dw, dw) <= 1e-5


def test_every_token_of_the_log_probs_has_its_own_temperature():
    case = Case(12, 31)
    own = torch.linspace(0.5, 2.0, 12, device=DEVICE)
    gradients = []
    for dtype, backend in ((torch.float32, "triton"), (torch.float64, "torch")):
        x, w = (value.to(dtype, copy=True).requires_grad_() for value in (case.hidden, case.weight))
        out = linear_logp(
            x, w, case.targets, temperature=own.to(dtype), backend=backend, chunk_tokens=5
        )
        (out.logp + 0.3 * out.entropy - 0.2 * out.lse).square().sum().backward()
        gradients.append((out.logp, x.grad, w.grad))
    for here, there in zip(*gradients, strict=True):
        assert relative(here, there) <= 1e-5


def test_every_token_of_ready_logits_has_its_own_temperature():
    case = weighed(9, entropy_coef=0.2)
    own = torch.linspace(0.5, 2.0, 9, device=DEVICE)
    gradients = []
    for dtype, backend in ((torch.float32, "triton"), (torch.float64, "torch")):
        logits = case.logits().to(dtype).requires_grad_()
        options = case.loss | case.settings
        grpo_loss_from_logits(
            logits, case.targets, **options, temperature=own.to(dtype), backend=backend
        ).loss.backward()
        gradients.append(logits.grad)
    assert relative(*gradients) <= 1e-5


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_masked_word_under_a_softcap_has_gradient_zero(backend):
    case = weighed(6)
    case.targets %= 20
    logits = case.logits()
    logits[:, 20:] = -torch.inf
    wide = logits.double().requires_grad_()
    options = case.loss | {"trainer_logp": None, "entropy_coef": 0.1, "softcap": 8.0}
    grpo_loss_from_logits(wide, case.targets, **options, backend="torch").loss.backward()
    logits.requires_grad_()
    grpo_loss_from_logits(logits, case.targets, **options, backend=backend).loss.backward()
    assert not logits.grad[:, 20:].any()
    assert relative(logits.grad, wide.grad) <= 1e-5


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_token_far_from_the_initial_policy_is_bad(backend):
    case = weighed(6, kl_coef=0.1)
    case.loss["initial_logp"][2] += 25.0
    out, dx, _ = case.run(backend)
    assert out.bad_rows == 1 and out.k3.isnan().tolist() == [i == 2 for i in range(6)]
    assert torch.isfinite(out.loss) and torch.isfinite(dx).all() and not dx[2].any()


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("what", ["seg_adv", "token_weight", "trainer_logp", "generator_logp"])
def test_a_number_that_is_not_finite_spoils_its_own_tokens_only(what, bad):
    """What a GPU does not look at before the launch: the operator itself."""
    case = weighed(8)
    case.loss[what][2] = bad
    spoilt = (
        (case.loss["seg_id"] == 2) if what == "seg_adv" else torch.arange(8, device=DEVICE) == 2
    )
    rows = Rows(case.targets, *case.loss.values(), None)
    shape, terms = Shape(1.0, 1.0, None), Terms(0.2, 0.26, None, 0.1, 0.0, 1.5)
    logits = case.logits().requires_grad_()
    loss, *outputs = logits_loss._loss_from_logits(logits, *rows, *shape, *terms)
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.equal(outputs[4].isnan(), spoilt)  # ratio
    assert outputs[5] == spoilt.sum()  # bad rows
    assert torch.isfinite(logits.grad).all() and not logits.grad[spoilt].any()


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_broken_row_without_weight_is_not_bad(backend):
    case = weighed(5)
    case.loss["token_weight"][1] = 0.0
    logits = case.logits()
    logits[1, 3] = torch.nan
    out = grpo_loss_from_logits(logits, case.targets, **case.loss, backend=backend)
    assert out.bad_rows == 0 and torch.isfinite(out.loss)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_negative_weight_counts_like_any_other(backend):
    case = Case(10, 31)
    case.loss["token_weight"][3] = -0.7
    expected, dx, dw = case.run("torch", torch.float64, drop_zero_rows=False)
    found, found_dx, found_dw = case.run(backend)
    assert_same(found, expected, 1e-5)
    assert dx[3].any()
    assert relative(found_dx, dx) <= 1e-5 and relative(found_dw, dw) <= 1e-5


@pytest.mark.parametrize("backend", BACKENDS)
def test_k3_is_exact_near_zero_where_its_terms_cancel(backend):
    # Two equal logits: logp is -ln 2 to the last bit, so that u is what is written here.
    u = torch.tensor([-0.0999, -0.05, -0.01, 0.01, 0.05, 0.0999], device=DEVICE)
    n = len(u)
    initial = u - math.log(2.0)
    out = grpo_loss_from_logits(
        torch.zeros(n, 2, device=DEVICE),
        torch.zeros(n, dtype=torch.int64, device=DEVICE),
        seg_adv=torch.ones(1, device=DEVICE),
        seg_id=torch.zeros(n, dtype=torch.int64, device=DEVICE),
        token_weight=torch.ones(n, device=DEVICE),
        initial_logp=initial,
        kl_coef=1.0,
        backend=backend,
    )
    exact = initial.double() - out.logp.double()
    wanted = torch.expm1(exact) - exact
    # fp32 holds logp to 2^-25, which is 2 * 3e-8 / 0.01 of the smallest k3.
    most = 1e-5 if backend == "triton" else 1e-3  # torch in fp32 takes the difference
    assert ((out.k3.double() - wanted).abs() <= most * wanted).all()


@pytest.mark.parametrize("backend", BACKENDS)
def test_no_loss_differs_whether_its_zero_rows_are_left_out(backend):
    """Advantage 0 without KL and entropy: seen, but left out of the products of the gradient."""
    case = Case(20, 31)
    case.loss["seg_adv"][0] = 0.0
    whole, dx, dw = case.run(backend, drop_zero_rows=False)
    spared, dx_spared, dw_spared = case.run(backend)
    assert_same(spared, whole, 1e-5, k3=1e-4)
    assert relative(dx_spared, dx) <= 1e-5 and relative(dw_spared, dw) <= 1e-5
    silent = case.loss["seg_adv"][case.loss["seg_id"].long()] == 0
    assert (
        not dx_spared[silent].any()
        and torch.isfinite(spared.logp[silent & (case.loss["token_weight"] != 0)]).all()
    )


def test_with_kl_or_entropy_a_token_of_advantage_zero_still_learns():
    for settings in ({"kl_coef": 0.2}, {"entropy_coef": 0.2}):
        case = weighed(8, **settings)
        case.loss["seg_adv"].zero_()
        _, dx, _ = case.run("triton")
        assert dx.any(1).all()


def test_a_loss_that_is_scaled_twice_gives_its_gradient_twice():
    case = weighed(6)
    x = case.hidden.clone().requires_grad_()
    loss = linear_grpo_loss(x, case.weight, case.targets, **case.loss, backend="triton").loss
    (first,) = torch.autograd.grad(loss, x, retain_graph=True)
    (again,) = torch.autograd.grad(2.0 * loss, x)
    assert torch.equal(2.0 * first, again)
