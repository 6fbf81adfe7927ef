"""Time, memory and exactness of loss providers on one problem."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec

import torch
from _loss_problem import EXACT_ROWS, Answers, Problem, exact, loss_inputs
from _loss_providers import Leaves, Provider
from torch import Tensor

import exprl_kernels

WARMUPS = 2
# A provider that has been timed for so long, and so often, is not timed further.
ENOUGH_S = 3.0
ENOUGH_REPEATS = 3


@dataclass(slots=True, eq=False)
class Measured:
    """What was seen of one provider; None = it does not apply, or could not be measured.

    status: "ok", or why there are no numbers, or fewer than were asked for.
    forward_s, step_s: seconds of a forward without a graph, and of a forward with its backward.
    peak_bytes: most memory above the inputs at any moment of a step, gradients included.
    loss_ratio: loss over the exact loss.
    logp_error: largest |logp - exact|, over tokens that count.
    gradient_errors: relative Frobenius error of each gradient.
    logp_positive: number of log-probs above 0.
    repeats_bitwise: whether a second step gave the same bits.
    """

    provider: Provider
    status: str = "ok"
    forward_s: list[float] = field(default_factory=list)
    step_s: list[float] = field(default_factory=list)
    peak_bytes: int | None = None
    loss_ratio: float | None = None
    logp_error: float | None = None
    gradient_errors: dict[str, float] = field(default_factory=dict)
    logp_positive: int | None = None
    repeats_bitwise: bool | None = None

    @property
    def failed(self) -> bool:
        """Whether it raised, or ran out of memory."""
        return self.status.startswith(("failed: ", "out of memory"))


def measure(
    problem: Problem,
    chosen: Sequence[Provider],
    repeats: int,
    finish: Callable[[Measured], None] = lambda result: None,
) -> list[Measured]:
    """Check every provider once, then time them in an order that rotates with each repeat.

    finish: is given each result once, as soon as nothing more is measured of it; a provider that
        fails costs no other its numbers, and a cut-off run (Ctrl-C, SIGTERM) keeps what it has.
    """
    results = [Measured(provider) for provider in chosen]
    unfinished = list(results)

    def drop_finished() -> None:
        for result in [r for r in unfinished if r.status != "ok" or _enough(r, repeats)]:
            unfinished.remove(result)
            finish(result)

    try:
        answers = exact(problem)
        for result in results:
            _attempt(result, problem, answers)
            drop_finished()
        del answers
        for repeat in range(repeats):
            turn = repeat % len(results)
            for result in results[turn:] + results[:turn]:
                if result in unfinished:
                    with _reported(result):
                        _time(result, problem)
            drop_finished()
    finally:
        for result in unfinished:
            result.status = f"cut off after {len(result.step_s)} timed steps"
            finish(result)
    return results


def _enough(result: Measured, repeats: int) -> bool:
    taken, spent = len(result.step_s), sum(result.step_s) + sum(result.forward_s)
    return taken >= repeats or (spent > ENOUGH_S and taken >= ENOUGH_REPEATS)


@contextmanager
def _reported(result: Measured) -> Iterator[None]:
    """An error becomes the provider's status: nobody else's numbers are lost."""
    try:
        yield
    except torch.OutOfMemoryError:
        result.status = "out of memory"
    except Exception as error:
        reason = (str(error).splitlines() or [""])[0]
        result.status = f"failed: {type(error).__name__}: {reason[:200]}"


def _attempt(result: Measured, problem: Problem, answers: Answers) -> None:
    """Warm up, then fill in exactness and memory; a rival that cannot run says why."""
    provider, on_cpu = result.provider, problem.hidden.device.type == "cpu"
    package = provider.package
    if package is not None and find_spec(package.module) is None:
        result.status = f"not installed: {package.install}"
    elif on_cpu and provider.gpu_only:
        result.status = f"not on a CPU: {provider.gpu_only}"
    else:
        with _reported(result):
            for _ in range(WARMUPS):
                step(problem, provider, provider.leaves(problem))
            result.peak_bytes = _peak_bytes(problem, provider)
            if not provider.floor:
                _check(result, problem, answers)
        _release()


def _time(result: Measured, problem: Problem) -> None:
    result.step_s.append(_time_step(problem, result.provider))
    if not result.provider.floor:
        result.forward_s.append(_time_forward(problem, result.provider))


def step(problem: Problem, provider: Provider, leaves: Leaves) -> Tensor | None:
    """A forward and its backward; gradients are left in the leaves."""
    loss = provider.loss(problem, *leaves)
    if loss is not None:
        loss.backward()
        return loss.detach()
    return None


def _check(result: Measured, problem: Problem, answers: Answers) -> None:
    provider = result.provider
    loss, *gradients = _gradients(problem, provider)
    again = _gradients(problem, provider)
    result.repeats_bitwise = all(map(torch.equal, (loss, *gradients), again))
    del again
    if provider.start == "logits":
        given = provider.leaves(problem)[0].detach()
        exact_loss, exact_logp, result.gradient_errors = _logits_answers(
            problem, given, gradients[0]
        )
        del given
    else:
        exact_loss, exact_logp = answers.loss.item(), answers.logp
        result.gradient_errors = {
            "d_hidden": relative_error(gradients[0], answers.d_hidden),
            "d_weight": relative_error(gradients[1], answers.d_weight),
        }
    del gradients
    result.loss_ratio = loss.item() / exact_loss
    if provider.logp is not None:
        with torch.no_grad():
            logp = provider.logp(problem, *provider.leaves(problem))
        counts = problem.mask.flatten() > 0
        result.logp_error = (logp - exact_logp)[counts].abs().max().item()
        result.logp_positive = int((logp[counts] > 0).sum())


def _gradients(problem: Problem, provider: Provider) -> tuple[Tensor, ...]:
    leaves = provider.leaves(problem)
    loss = step(problem, provider, leaves)
    gradients = [leaf.grad for leaf in leaves]
    if loss is None or any(gradient is None for gradient in gradients):
        raise RuntimeError(f"{provider.name} gave no gradient")
    return loss, *gradients


def _logits_answers(
    problem: Problem, logits: Tensor, d_logits: Tensor
) -> tuple[float, Tensor, dict[str, float]]:
    """Loss, logp [N] and the error of d_logits: fp64 on the logits that the provider was given."""
    loss, missed, size = 0.0, 0.0, 0.0
    logps = []
    for start in range(0, problem.shape.rows, EXACT_ROWS):
        rows = slice(start, min(start + EXACT_ROWS, problem.shape.rows))
        exact_logits = _rows(problem, logits, rows).double().requires_grad_()
        out = exprl_kernels.grpo_loss_from_logits(
            exact_logits,
            problem.targets.flatten()[rows],
            **loss_inputs(problem, rows),
            backend="torch",
        )
        out.loss.backward()
        loss += out.loss.item()
        logps.append(out.logp)
        gradient = _rows(problem, d_logits, rows).double()
        missed += (gradient - exact_logits.grad).square().sum().item()
        size += exact_logits.grad.square().sum().item()
    return loss, torch.cat(logps), {"d_logits": (missed / size) ** 0.5}


def _rows(problem: Problem, logits: Tensor, rows: slice) -> Tensor:
    """Rows of logits [N, V], or [B, T+1, V] with a row past the end of each sequence."""
    if logits.dim() == 2:
        return logits[rows]
    token = torch.arange(rows.start, rows.stop, device=logits.device)
    return logits[token // problem.shape.tokens, token % problem.shape.tokens]


def relative_error(value: Tensor, exact_value: Tensor) -> float:
    """Frobenius norm of the difference over that of the exact value."""
    return ((value.double() - exact_value).norm() / exact_value.norm()).item()


def _peak_bytes(problem: Problem, provider: Provider) -> int | None:
    if problem.hidden.device.type != "cuda":
        return None
    _release()
    leaves = provider.leaves(problem)
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    step(problem, provider, leaves)
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


def _time_step(problem: Problem, provider: Provider) -> float:
    leaves = provider.leaves(problem)
    start = _clock(problem)
    step(problem, provider, leaves)
    return _clock(problem) - start


def _time_forward(problem: Problem, provider: Provider) -> float:
    leaves = provider.leaves(problem)
    with torch.no_grad():
        start = _clock(problem)
        provider.loss(problem, *leaves)
        return _clock(problem) - start


def _clock(problem: Problem) -> float:
    """Seconds, with all the work of the device done."""
    if problem.hidden.device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def _release() -> None:
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
