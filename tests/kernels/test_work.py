"""How much the loss on hidden states computes: its products, their sizes, what it waits for."""

import warnings

import pytest
import torch
from loss_cases import DEVICE, Case, H
from torch import Tensor

from exprl_kernels import chunks, linear_grpo_loss, linear_logp

VOCAB = 31


@pytest.fixture
def products(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int, int, bool]]:
    """Rows, inner dimension and columns of each product, and whether it was added."""
    seen = []
    form = chunks.fp32_product

    def counted(a: Tensor, b: Tensor, out: Tensor, add: bool = False) -> Tensor:
        seen.append((a.shape[0], a.shape[1], b.shape[1], add))
        return form(a, b, out, add)

    monkeypatch.setattr(chunks, "fp32_product", counted)
    return seen


def case_of(n: int, dtype: torch.dtype = torch.float32) -> Case:
    case = Case(n, VOCAB, dtype)
    case.loss["token_weight"] = torch.ones(n, device=DEVICE)
    case.loss["seg_adv"] = torch.tensor([1.5, -2.0, 1.0, 0.7], device=DEVICE)
    return case


def test_a_chunk_takes_three_products_and_only_later_ones_are_added(products):
    case_of(10).run("triton", chunk_tokens=5)
    logits, dx = (5, H, VOCAB, False), (5, VOCAB, H, False)
    assert products == [logits, dx, (VOCAB, 5, H, False), logits, dx, (VOCAB, 5, H, True)]


def test_a_frozen_head_pays_no_product_for_its_gradient(products):
    case = case_of(10)
    hidden = case.hidden.clone().requires_grad_()
    loss = linear_grpo_loss(hidden, case.weight, case.targets, **case.loss, backend="triton").loss
    loss.backward()
    assert products == [(10, H, VOCAB, False), (10, VOCAB, H, False)]


def test_frozen_hidden_states_pay_no_product_for_theirs(products):
    case = case_of(10)
    weight = case.weight.clone().requires_grad_()
    linear_grpo_loss(case.hidden, weight, case.targets, **case.loss, backend="triton")
    assert products == [(10, H, VOCAB, False), (VOCAB, 10, H, False)]


def test_without_gradients_only_the_logits_are_formed(products):
    case = case_of(10)
    linear_grpo_loss(case.hidden, case.weight, case.targets, **case.loss, backend="triton")
    assert products == [(10, H, VOCAB, False)]


@pytest.mark.parametrize(("dtype", "bytes_per_logit"), [(torch.float32, 4), (torch.bfloat16, 6)])
def test_the_largest_chunk_is_what_the_workspace_holds(products, dtype, bytes_per_logit):
    room = 7 * VOCAB * bytes_per_logit
    case_of(20, dtype).run("triton", workspace_bytes=room)
    assert max(rows for rows, inner, _, _ in products if inner == H and rows != VOCAB) == 7
    del products[:]
    case = case_of(20, dtype)
    linear_logp(
        case.hidden, case.weight, case.targets, workspace_bytes=7 * VOCAB * 4, backend="triton"
    )
    assert max(rows for rows, *_ in products) == 7  # no gradient, so no room for one


def test_a_chunk_has_8192_tokens_where_they_fit():
    assert (
        chunks.chunk_size(16_384, 6 * 50_000, chunks.CHUNK_TOKENS, chunks.WORKSPACE_BYTES) == 8192
    )
    qwen = chunks.chunk_size(16_384, 6 * 151_936, chunks.CHUNK_TOKENS, chunks.WORKSPACE_BYTES)
    assert qwen == 4096
    assert chunks.chunk_size(16_384, 6 * 151_936, chunks.CHUNK_TOKENS, 7 << 30) == 8192


def test_rows_of_weight_zero_take_part_in_no_product(products):
    case = case_of(20)
    case.loss["token_weight"][::4] = 0.0
    case.run("triton")
    assert products == [(15, H, VOCAB, False), (15, VOCAB, H, False), (VOCAB, 15, H, False)]


def test_rows_whose_gradient_is_zero_take_part_in_the_first_product_only(products):
    case = case_of(20)
    case.loss["seg_adv"][1] = 0.0  # tokens 5..9
    case.loss["token_weight"][8:12] = 0.0  # two of them, and two others
    out, dx, _ = case.run("triton", clip_low=None, clip_high=None)
    assert products == [
        *((13, H, VOCAB, False), (13, VOCAB, H, False), (VOCAB, 13, H, False)),
        (3, H, VOCAB, False),
    ]
    at = torch.arange(20, device=DEVICE)
    assert torch.equal(out.logp.isnan(), (at >= 8) & (at < 12))
    assert torch.equal(dx.any(1), (at < 5) | (at >= 12))


def test_a_call_waits_for_the_device_once(monkeypatch: pytest.MonkeyPatch):
    """Values and rows are read together; counted where each way to read a tensor passes."""
    case = case_of(20)
    case.loss["seg_adv"][1] = 0.0
    case.loss["token_weight"][8:12] = 0.0
    reads = []

    def counted(name: str):
        read = getattr(Tensor, name)

        def reading(self: Tensor, *arguments: object):
            reads.append(name)
            return read(self, *arguments)

        return reading

    for name in ("tolist", "item", "nonzero", "__bool__", "__int__", "__float__", "__index__"):
        monkeypatch.setattr(Tensor, name, counted(name))
    linear_grpo_loss(case.hidden, case.weight, case.targets, **case.loss, backend="torch")
    assert reads == ["tolist"]


@pytest.mark.gpu
def test_a_call_synchronizes_a_gpu_once():
    case = case_of(20)
    case.loss["token_weight"][8:12] = 0.0
    case.run("triton")  # compiles
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            linear_grpo_loss(case.hidden, case.weight, case.targets, **case.loss)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert len([w for w in said if "synchroniz" in str(w.message)]) == 1
