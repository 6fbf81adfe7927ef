"""Rows whose first logit lies past 2^31: a 32-bit offset would wrap around."""

import os
from pathlib import Path

import pytest
import torch

from exprl_kernels import grpo_loss_from_logits

ROWS, VOCAB = 4, 31
STRIDE = 2**30 + 16
LOSS = {
    "targets": torch.arange(ROWS),
    "seg_adv": torch.tensor([1.0, -0.5]),
    "seg_id": torch.tensor([0, 0, 1, 1]),
    "token_weight": torch.full((ROWS,), 0.25),
}


@pytest.fixture
def far_apart(tmp_path: Path) -> torch.Tensor:
    """Logits [4, 31] in a sparse file of 6 GB, of which only the rows' own pages exist."""
    count = (ROWS - 1) * STRIDE + VOCAB
    file = tmp_path / "logits"
    with file.open("wb") as handle:
        handle.truncate(2 * count)
    memory = torch.from_file(str(file), shared=True, size=count, dtype=torch.bfloat16)
    logits = memory.as_strided((ROWS, VOCAB), (STRIDE, 1))
    logits.copy_(torch.randn(ROWS, VOCAB, generator=torch.Generator().manual_seed(0)))
    return logits


@pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") != "1", reason="selftest checks it on a GPU")
@pytest.mark.parametrize("inplace_grad", [False, True])
def test_rows_past_2_to_the_31_are_read_and_written(
    far_apart: torch.Tensor, inplace_grad: bool
) -> None:
    near = far_apart.clone(memory_format=torch.contiguous_format).requires_grad_()
    wanted = grpo_loss_from_logits(near, **LOSS, backend="triton")
    wanted.loss.backward()
    leaf = far_apart.requires_grad_()
    seen = grpo_loss_from_logits(leaf, **LOSS, inplace_grad=inplace_grad, backend="triton")
    torch.testing.assert_close(seen.logp, wanted.logp, rtol=0, atol=0)
    if inplace_grad:
        torch.testing.assert_close(leaf.detach(), near.grad, rtol=0, atol=0)
    seen.loss.backward()
    torch.testing.assert_close(leaf.grad, near.grad, rtol=0, atol=0)
