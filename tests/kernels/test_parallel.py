"""A head divided over two ranks gives what one rank with the whole head gives."""

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from exprl_kernels import linear_grpo_loss, linear_logp
from exprl_kernels.parallel import merge, vocab_parallel_grpo_loss, vocab_parallel_logp

N, H, V = 14, 8, 101
# Shards of unequal size: rank 0 has rows 0..39, rank 1 the rest.
BORDERS = (0, 40, V)
CASES = {
    "plain": {},
    "every term": {
        "initial": True,
        "kl_coef": 0.1,
        "entropy_coef": 0.05,
        "dual_clip": 1.5,
        "temperature": 0.7,
        "softcap": 5.0,
    },
}


def inputs(case: str, dtype: torch.dtype) -> tuple[list[torch.Tensor], dict]:
    """hidden, weight, targets, and the loss's keyword arguments."""
    generator = torch.Generator().manual_seed(3)
    kind = {"dtype": torch.float64, "generator": generator}
    hidden, weight = torch.randn(N, H, **kind), torch.randn(V, H, **kind)
    targets = torch.randint(V, (N,), generator=generator)
    targets[:4] = torch.tensor([0, 39, 40, V - 1])  # both ends of both shards
    logp = linear_logp(hidden, weight, targets).logp
    keywords = {
        "seg_adv": torch.randn(3, **kind),
        "seg_id": torch.arange(N) * 3 // N,
        "token_weight": torch.rand(N, **kind) * (torch.arange(N) != 5),
        "trainer_logp": logp + 0.3 * torch.randn(N, **kind),
    } | CASES[case]
    if keywords.pop("initial", False):
        keywords["initial_logp"] = logp + 0.5 * torch.randn(N, **kind)
    return [hidden.to(dtype), weight.to(dtype), targets], keywords


def rank_main(rank: int, folder: str) -> None:
    """Everything the tests compare, saved as rank<r>.pt."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    start, end = BORDERS[rank : rank + 2]
    found = {}
    for case in CASES:
        for dtype in (torch.float64, torch.bfloat16):
            (hidden, weight, targets), keywords = inputs(case, dtype)
            hidden, shard = hidden.requires_grad_(), weight[start:end].requires_grad_()
            out = vocab_parallel_grpo_loss(
                hidden, shard, targets, vocab_start=start, **keywords, chunk_tokens=4
            )
            out.loss.backward()
            found[case, str(dtype)] = (*out, hidden.grad, shard.grad)
    (hidden, weight, targets), _ = inputs("plain", torch.float64)
    # A gap: row 40 is nobody's.
    gap = vocab_parallel_logp(hidden, weight[start + rank : end], targets, vocab_start=start + rank)
    found["gap", ""] = (gap.logp,)
    torch.save(found, Path(folder) / f"rank{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict]:
    """What both ranks saw."""
    folder = tmp_path_factory.mktemp("ranks")
    mp.spawn(rank_main, args=(str(folder),), nprocs=2)
    return [torch.load(folder / f"rank{rank}.pt", weights_only=True) for rank in range(2)]


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.bfloat16, 2e-2)])
def test_loss_statistics_and_gradients_are_the_whole_head_s(ranks, case, dtype, tolerance):
    (hidden, weight, targets), keywords = inputs(case, dtype)
    hidden.requires_grad_(), weight.requires_grad_()
    whole = linear_grpo_loss(hidden, weight, targets, **keywords)
    whole.loss.backward()
    for rank, seen in enumerate(ranks):
        *out, d_hidden, d_shard = seen[case, str(dtype)]
        for value, expected in zip(out, whole, strict=True):
            # Log-probs are fp32 sums whatever the inputs' dtype; only gradients are rounded to it.
            torch.testing.assert_close(
                value, expected, rtol=min(tolerance, 1e-5), atol=min(tolerance, 1e-5),
                equal_nan=True,
            )  # fmt: skip
        d_weight = weight.grad[BORDERS[rank] : BORDERS[rank + 1]]
        for value, expected in ((d_hidden, hidden.grad), (d_shard, d_weight)):
            assert (value - expected).norm() <= tolerance * expected.norm()


def test_both_ranks_see_the_same_bits(ranks):
    for key in ranks[0]:
        for first, second in zip(ranks[0][key][:-1], ranks[1][key][:-1], strict=True):
            torch.testing.assert_close(first, second, rtol=0, atol=0, equal_nan=True)


def test_a_target_that_no_rank_holds_is_not_a_number(ranks):
    logp = ranks[0]["gap", ""][0]
    assert logp.isnan().tolist() == [k == 2 for k in range(N)]


def test_merging_shards_is_stable_far_from_zero():
    z = torch.tensor([[1e4, 1e4 - 3.0, -1e4, 20.0]], dtype=torch.float64)
    expected = linear_logp(z, torch.eye(4, dtype=torch.float64), torch.tensor([1]))
    shards = []
    for rank, columns in enumerate((z[:, :1], z[:, 1:])):
        one = linear_logp(columns, torch.eye(columns.shape[1]).double(), torch.tensor([0]))
        target = one.logp + one.lse if rank == 1 else torch.zeros(1)
        shards.append(torch.stack([one.lse, one.entropy, target, torch.full((1,), float(rank))]))
    for value, wanted in zip(merge(torch.stack(shards)), expected, strict=True):
        torch.testing.assert_close(value, wanted, rtol=1e-12, atol=1e-12)


def test_without_a_process_group_the_error_says_what_to_do(monkeypatch):
    # vLLM in a process leaves one open, and another test may have started it here.
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: False)
    with pytest.raises(RuntimeError, match="init_process_group"):
        vocab_parallel_logp(
            torch.zeros(1, 2), torch.zeros(3, 2), torch.zeros(1, dtype=torch.int64), vocab_start=0
        )
