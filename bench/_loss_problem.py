"""The tensors that every loss provider is given, and the answers in fp64.

B sequences of T response tokens, N = B*T, H hidden size, V vocabulary, S segments.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

import exprl_kernels

CLIP_LOW = 0.2
CLIP_HIGH = 0.26
KL_COEF = 0.01
# Rows whose logits are formed in fp64 at a time.
EXACT_ROWS = 1024


@dataclass(frozen=True, slots=True)
class Shape:
    """A language-model head and a micro-batch."""

    name: str
    sequences: int
    tokens: int
    hidden: int
    vocab: int

    @property
    def rows(self) -> int:
        return self.sequences * self.tokens

    @property
    def flops(self) -> float:
        """Of the three products that a loss with both gradients cannot do without: 6NHV."""
        return 6.0 * self.rows * self.hidden * self.vocab


SHAPES = {
    shape.name: shape
    for shape in (
        Shape("tiny", sequences=4, tokens=5, hidden=32, vocab=307),
        Shape("small", sequences=4, tokens=16, hidden=256, vocab=8192),
        Shape("4b", sequences=8, tokens=2048, hidden=2560, vocab=151_936),
        Shape("8b", sequences=16, tokens=2048, hidden=4096, vocab=151_936),
    )
}


@dataclass(frozen=True, slots=True)
class Problem:
    """Inputs of one loss; natural logs, fp32 unless said otherwise."""

    shape: Shape
    hidden: Tensor  # [N, H], bf16 or fp32
    weight: Tensor  # [V, H], like hidden
    targets: Tensor  # [B, T] int64
    mask: Tensor  # [B, T]
    trainer_logp: Tensor  # [B, T]
    initial_logp: Tensor  # [B, T]
    seg_id: Tensor  # [N] int32
    seg_adv: Tensor  # [S]

    @property
    def token_weight(self) -> Tensor:
        """[N]: the loss is the mean over all tokens that count (DAPO's aggregation)."""
        return (self.mask / self.mask.sum()).flatten()

    @property
    def token_adv(self) -> Tensor:
        """[B, T]: the advantage of each token's segment."""
        return self.seg_adv[self.seg_id.long()].view_as(self.mask)

    @property
    def sequence_adv(self) -> Tensor:
        """[B]: of problems with one segment per sequence."""
        if self.by_segment:
            raise ValueError(f"{len(self.seg_adv)} segments have no advantage per sequence")
        return self.seg_adv

    @property
    def by_segment(self) -> bool:
        return len(self.seg_adv) != self.shape.sequences


class Answers(NamedTuple):
    """In fp64, from the inputs as they are: logp [N] and the gradients of the loss."""

    loss: Tensor
    logp: Tensor
    d_hidden: Tensor
    d_weight: Tensor


def make_problem(
    shape: Shape,
    device: torch.device,
    dtype: torch.dtype,
    *,
    ragged: bool,
    peaked: float = 0.8,
    seed: int = 0,
) -> Problem:
    """One advantage per sequence; targets drawn from the policy, which has drifted since.

    peaked: see `make_head`.
    ragged: leave out the ends of sequences, as padding does; else every token counts.
    """
    generator = torch.Generator(device).manual_seed(seed)
    hidden, weight = make_head(shape, device, dtype, generator, peaked)
    targets, logp = sample_targets(hidden, weight, generator)
    size = (shape.sequences, shape.tokens)
    mask = torch.ones(size, device=device)
    if ragged:
        lengths = torch.arange(shape.sequences, device=device) % shape.tokens
        mask[torch.arange(shape.tokens, device=device) >= shape.tokens - lengths[:, None]] = 0.0

    def noise(deviation: float) -> Tensor:
        return deviation * torch.randn(size, device=device, generator=generator)

    return Problem(
        shape,
        hidden,
        weight,
        targets.view(size),
        mask,
        trainer_logp=logp.view(size) + noise(0.15),
        initial_logp=logp.view(size) + noise(0.3),
        seg_id=torch.arange(shape.sequences, dtype=torch.int32, device=device).repeat_interleave(
            shape.tokens
        ),
        seg_adv=torch.randn(shape.sequences, device=device, generator=generator),
    )


def with_segments(problem: Problem, per_sequence: int, seed: int = 1) -> Problem:
    """The same tokens, with an advantage for each of `per_sequence` pieces of a sequence."""
    shape, device = problem.shape, problem.hidden.device
    generator = torch.Generator(device).manual_seed(seed)
    piece = torch.arange(shape.tokens, device=device) * per_sequence // shape.tokens
    first = torch.arange(shape.sequences, device=device) * per_sequence
    seg_id = (first[:, None] + piece).flatten().int()
    seg_adv = torch.randn(shape.sequences * per_sequence, device=device, generator=generator)
    return replace(problem, seg_id=seg_id, seg_adv=seg_adv)


def make_head(
    shape: Shape,
    device: torch.device,
    dtype: torch.dtype,
    generator: torch.Generator,
    peaked: float,
) -> tuple[Tensor, Tensor]:
    """Hidden states [N, H] and a head [V, H] whose logits look like a language model's.

    A share of `peaked` rows favours one token by 8 to 22 logits over a floor of deviation 2; the
    others are that floor, an entropy of about log(V) - 2 nats.
    """

    def normal(rows: int) -> Tensor:
        return torch.randn(rows, shape.hidden, device=device, generator=generator)

    def uniform() -> Tensor:
        return torch.rand(shape.rows, device=device, generator=generator)

    weight = normal(shape.vocab).div_(shape.hidden**0.5).to(dtype)
    favourite = torch.randint(shape.vocab, (shape.rows,), device=device, generator=generator)
    height = (8.0 + 14.0 * uniform()) * (uniform() < peaked)
    hidden = 2.0 * normal(shape.rows) + height[:, None] * weight[favourite].float()
    return hidden.to(dtype), weight


def sample_targets(
    hidden: Tensor, weight: Tensor, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Tokens [N] drawn from softmax(hidden @ weight.T), and about their logp [N]."""
    targets, logps = [], []
    for rows in hidden.split(EXACT_ROWS):
        log_prob = torch.log_softmax((rows @ weight.T).float(), dim=-1)
        # The largest of log-probs plus Gumbel noise is a draw from them.
        gumbel = torch.empty_like(log_prob).exponential_(generator=generator).log_().neg_()
        target = (log_prob + gumbel).argmax(dim=-1)
        targets.append(target)
        logps.append(log_prob.gather(-1, target[:, None])[:, 0])
    return torch.cat(targets), torch.cat(logps)


def exact(problem: Problem) -> Answers:
    """The definition in fp64, a block of rows at a time."""
    weight = problem.weight.double().requires_grad_()
    loss = weight.new_zeros(())
    logps, d_hidden = [], []
    for start in range(0, problem.shape.rows, EXACT_ROWS):
        rows = slice(start, start + EXACT_ROWS)
        hidden = problem.hidden[rows].double().requires_grad_()
        out = exprl_kernels.linear_grpo_loss(
            hidden,
            weight,
            problem.targets.flatten()[rows],
            **loss_inputs(problem, rows),
            backend="torch",
        )
        out.loss.backward()
        loss += out.loss.detach()
        logps.append(out.logp)
        d_hidden.append(hidden.grad)
    return Answers(loss, torch.cat(logps), torch.cat(d_hidden), weight.grad)


def loss_inputs(problem: Problem, rows: slice = slice(None)) -> dict[str, Tensor | float]:
    """Keyword arguments of exprl's losses, of some rows."""
    return {
        "seg_adv": problem.seg_adv,
        "seg_id": problem.seg_id[rows],
        "token_weight": problem.token_weight[rows],
        "trainer_logp": problem.trainer_logp.flatten()[rows],
        "initial_logp": problem.initial_logp.flatten()[rows],
        "clip_low": CLIP_LOW,
        "clip_high": CLIP_HIGH,
        "kl_coef": KL_COEF,
    }
