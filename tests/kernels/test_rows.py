"""One row of logits through the kernels: its main loop, its tail, and what can be wrong with it."""

import pytest
import torch
from loss_cases import DEVICE, Case, relative

from exprl_kernels import grpo_loss_from_logits, linear_logp, tables
from exprl_kernels.terms import MASKED

LEAST = torch.finfo(torch.float32).min
# With blocks of 32 columns, 4 between two maxima: a tail alone, both, a main loop alone.
VOCABULARIES = (100, 300, 1024)


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks so small that a short row needs many; on a GPU a block is one warp's."""
    small = tables.Block(32, 1)
    monkeypatch.setattr(tables, "INTERPRETED", small)
    monkeypatch.setattr(tables, "DEFAULT", {2: small, 4: small})


def loss_of(logits: torch.Tensor, targets: torch.Tensor, backend: str, **options):
    """On-policy loss with advantage 1 and weight 1."""
    n = len(logits)
    return grpo_loss_from_logits(
        logits,
        targets,
        seg_adv=torch.ones(1, device=DEVICE),
        seg_id=torch.zeros(n, dtype=torch.int64, device=DEVICE),
        token_weight=torch.ones(n, device=DEVICE),
        backend=backend,
        **options,
    )


@pytest.mark.parametrize("vocab", VOCABULARIES)
@pytest.mark.parametrize("options", [{}, {"entropy_coef": 0.3}, {"softcap": 9.0}])
@pytest.mark.parametrize("inplace_grad", [False, True])
def test_a_row_of_many_blocks_is_right(small_blocks, vocab, options, inplace_grad):
    case = Case(6, vocab)
    logits = case.logits()
    logits[0] = torch.linspace(-60.0, 60.0, vocab)  # the maximum moves with every block
    logits[1] = torch.linspace(60.0, -60.0, vocab)
    logits[2, : vocab // 2] = -torch.inf
    logits[2, vocab // 2 :] += 20.0
    case.targets[2] = vocab - 1
    wide = logits.double().requires_grad_()
    expected = loss_of(wide, case.targets, "torch", **options)
    expected.loss.backward()
    found = logits.clone().requires_grad_()
    out = loss_of(found, case.targets, "triton", inplace_grad=inplace_grad, **options)
    out.loss.backward()
    for name in ("logp", "entropy"):
        assert relative(getattr(out, name), getattr(expected, name)) <= 2e-6, name
    assert relative(found.grad, wide.grad) <= 2e-6


@pytest.mark.parametrize("vocab", VOCABULARIES)
def test_log_probs_of_many_blocks_are_right(small_blocks, vocab):
    case = Case(6, vocab)
    gradients = []
    for dtype, backend in ((torch.float32, "triton"), (torch.float64, "torch")):
        x, w = (value.to(dtype, copy=True).requires_grad_() for value in (case.hidden, case.weight))
        out = linear_logp(x, w, case.targets, temperature=0.8, backend=backend)
        (out.logp - 0.5 * out.entropy + 0.1 * out.lse).sum().backward()
        gradients.append((*out, x.grad, w.grad))
    for here, there in zip(*gradients, strict=True):
        assert relative(here, there) <= 2e-6


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
@pytest.mark.parametrize("column", [0, 100, 127, 128, 299])
def test_a_bad_logit_is_found_wherever_it_stands(small_blocks, bad, column):
    logits = torch.randn(2, 300, generator=torch.Generator().manual_seed(1)).to(DEVICE)
    logits[0, column] = bad
    logits.requires_grad_()
    out = loss_of(logits, torch.tensor([50, 50], device=DEVICE), "triton")
    out.loss.backward()
    assert out.bad_rows == 1 and out.logp.isnan().tolist() == [True, False]
    assert not logits.grad[0].any() and torch.isfinite(logits.grad).all()


@pytest.mark.parametrize("backend", ["torch", "triton"])
@pytest.mark.parametrize("scale", [1.0, 4.0])
def test_logits_too_far_apart_for_fp32_give_no_gradient_that_is_not_a_number(backend, scale):
    logits = torch.tensor([[3e38, -3e38, 0.0]], device=DEVICE).requires_grad_()
    out = loss_of(logits, torch.tensor([0], device=DEVICE), backend, logit_scale=scale)
    out.loss.backward()
    assert out.bad_rows == (scale != 1.0)
    assert not logits.grad.any()


@pytest.mark.parametrize("backend", ["torch", "triton"])
def test_log_probs_of_such_logits_have_no_gradient_either(backend):
    weight = torch.tensor([[3e38], [-3e38], [0.0]], device=DEVICE).requires_grad_()
    hidden = torch.ones(1, 1, device=DEVICE).requires_grad_()
    out = linear_logp(
        hidden, weight, torch.tensor([0], device=DEVICE), logit_scale=4.0, backend=backend
    )
    (out.logp + out.entropy + out.lse).sum().backward()
    assert out.entropy.isnan().all() and out.lse.isnan().all()
    assert not hidden.grad.any() and not weight.grad.any()


@pytest.mark.parametrize("backend", ["torch", "triton"])
@pytest.mark.parametrize("softcap", [None, 30.0])
def test_a_logit_that_is_not_a_number_spoils_no_gradient(backend, softcap):
    logits = torch.tensor([[torch.nan, -1.0, 0.0], [1.0, -1.0, 0.0]], device=DEVICE)
    logits.requires_grad_()
    out = loss_of(logits, torch.tensor([1, 1], device=DEVICE), backend, softcap=softcap)
    out.loss.backward()
    assert out.bad_rows == 1
    assert not logits.grad[0].any() and logits.grad[1].all()


@pytest.mark.parametrize("backend", ["torch", "triton"])
@pytest.mark.parametrize("mask", [-torch.inf, LEAST, 2 * MASKED, -1e12])
def test_masks_of_every_depth_are_masks(backend, mask):
    logits = torch.tensor([[1.0, mask, 0.0, mask]], device=DEVICE).requires_grad_()
    out = loss_of(logits, torch.tensor([2], device=DEVICE), backend, entropy_coef=0.1)
    out.loss.backward()
    expected = torch.tensor([1.0, 0.0]).log_softmax(0)
    assert out.logp.item() == pytest.approx(expected[1].item(), abs=1e-6)
    assert out.entropy.item() == pytest.approx(-(expected.exp() * expected).sum().item(), abs=1e-6)
    assert not logits.grad[0, [1, 3]].any() and logits.grad[0, [0, 2]].all()


@pytest.mark.parametrize("backend", ["torch", "triton"])
@pytest.mark.parametrize("mask", [-torch.inf, LEAST])
def test_a_row_of_masks_alone_is_bad(backend, mask):
    logits = torch.full((1, 40), mask, device=DEVICE).requires_grad_()
    out = loss_of(logits, torch.tensor([2], device=DEVICE), backend)
    out.loss.backward()
    assert out.bad_rows == 1 and not logits.grad.any()


@pytest.mark.parametrize("offset", [1e4, -1e4, 1e10])
def test_no_offset_of_all_logits_makes_a_probability_exceed_one(offset):
    logits = torch.full((1, 40), offset, device=DEVICE).requires_grad_()
    out = loss_of(logits, torch.tensor([2], device=DEVICE), "triton")
    out.loss.backward()
    assert out.logp.item() == pytest.approx(-torch.tensor(40.0).log().item(), abs=1e-6)
    assert logits.grad.sum().abs() <= 1e-6 and logits.grad[0, 2].item() == pytest.approx(-39 / 40)
