"""Inputs of the losses, and how far two results lie apart: for all tests of the kernels."""

from __future__ import annotations

import torch
from torch import Tensor

from exprl_kernels import GrpoOutput, grpo_loss_from_logits, linear_grpo_loss, linear_logp

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
H = 16
# A number that is rounded to bf16 is off by at most this part of itself. Triton's interpreter cuts
# off, by up to twice that, and by no more than that in the mean.
BF16_UNIT = 2.0**-9
# Products of different shapes may sum in another order: a logit z is then off by 2^-23 |z|, here
# 1e-6, logp and entropy by as much, and the ratio, which is exp of it, by that part of itself.
OTHER_SHAPE = 1e-5
VOCABULARIES = (1, 31, 4096, 5003, 151_936)
SETTINGS = {
    "defaults": {},
    "reinforce": {"clip_low": None, "clip_high": None},
    "dual clip": {"dual_clip": 1.5},
    "kl": {"kl_coef": 0.3},
    "entropy": {"entropy_coef": 0.2},
    "importance": {"importance_cap": 1.1},
    "temperature": {"temperature": 0.7},
    "softcap": {"softcap": 8.0, "logit_scale": 0.5},
    "all": {
        "dual_clip": 1.5,
        "kl_coef": 0.3,
        "entropy_coef": -0.2,
        "importance_cap": 1.1,
        "temperature": 1.3,
        "softcap": 8.0,
        "logit_scale": 0.5,
    },
}
SHAPING = ("temperature", "softcap", "logit_scale")


class Case:
    """Inputs of a loss: ragged segments, rows of weight 0, ratios on both sides of the clip."""

    def __init__(self, n: int, vocab: int, dtype: torch.dtype = torch.float32, **settings) -> None:
        random = torch.Generator().manual_seed(vocab + n)

        def normal(*size: int) -> Tensor:
            return torch.randn(*size, generator=random)

        self.hidden = (2.0 * normal(n, H)).to(dtype).to(DEVICE)
        self.weight = normal(vocab, H).to(dtype).to(DEVICE)
        self.targets = torch.randint(0, vocab, (n,), generator=random).to(DEVICE)
        self.settings = settings
        shaping = {name: settings[name] for name in SHAPING if name in settings}
        wide = (self.hidden.double(), self.weight.double())
        logp = linear_logp(*wide, self.targets, **shaping, backend="torch").logp.float().cpu()
        self.loss: dict[str, Tensor] = {
            "seg_adv": torch.tensor([1.5, -2.0, 0.0, 0.7]),
            "seg_id": torch.arange(n, dtype=torch.int32) * 4 // max(n, 1),
            "token_weight": torch.rand(n, generator=random) * (torch.arange(n) % 5 != 4),
            "trainer_logp": logp + 0.4 * normal(n),
            "initial_logp": logp + 0.3 * normal(n),
            "generator_logp": logp + 0.3 * normal(n),
        }
        self.loss = {name: value.to(DEVICE) for name, value in self.loss.items()}

    def run(self, backend: str, dtype: torch.dtype | None = None, **more):
        """Outputs, and gradients of hidden and weight, of three times the loss."""
        hidden, weight = (
            value.detach().clone().to(dtype or value.dtype).requires_grad_()
            for value in (self.hidden, self.weight)
        )
        options = self.loss | self.settings | more
        out = linear_grpo_loss(hidden, weight, self.targets, **options, backend=backend)
        (3.0 * out.loss).backward()
        return out, hidden.grad, weight.grad

    def dlogits(self) -> Tensor:
        """The exact gradient [N, V] of the logits, for three times the loss."""
        logits = (self.hidden.double() @ self.weight.double().T).requires_grad_()
        options = self.loss | self.settings
        out = grpo_loss_from_logits(logits, self.targets, **options, backend="torch")
        (3.0 * out.loss).backward()
        return logits.grad

    def logits(self) -> Tensor:
        return (self.hidden @ self.weight.T).detach()


def relative(found: Tensor, expected: Tensor) -> float:
    """Frobenius norm of the difference over that of what is expected; NaN at the same places."""
    assert torch.equal(found.isnan(), expected.isnan())
    found, expected = (v.detach().double().nan_to_num() for v in (found, expected))
    return float((found - expected).norm() / expected.norm().clamp(min=1e-9))


def assert_same(
    found: GrpoOutput, expected: GrpoOutput, tolerance: float, k3: float | None = None
) -> None:
    """k3: its own tolerance. Near u = 0, k3 = u^2 / 2, so an error e of u is 2 e / u of k3."""
    # The loss is a sum of both signs: its error is in proportion to its terms, which are about 1.
    assert abs(float(found.loss.detach() - expected.loss.detach())) <= 10 * tolerance
    for name, here, there in zip(found._fields[1:], found[1:], expected[1:], strict=True):
        most = k3 if k3 is not None and name == "k3" else tolerance
        assert relative(here, there) <= most, name


def bf16_tolerance(gradient: Tensor, terms: Tensor) -> float:
    """How far a product may lie from the exact one, as `relative` says it, if dz is in bf16.

    Each term of a sum is off by at most BF16_UNIT of itself, and the errors are independent: they
    add up in squares, which is more than the sum where that cancels. The result is rounded twice,
    when it is formed and when it is multiplied by the gradient of the loss.

    Args:
        gradient: the exact product a b.
        terms: a^2 b^2, the sums of the squares of the terms of its elements.
    """
    return BF16_UNIT * (2.0 + float(terms.sum().sqrt() / gradient.norm()))
