"""Loss measurements as a table, as rows, and against the bars of an H200."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from _loss_measure import Measured
from _loss_problem import Problem
from _loss_providers import COPY, THREE_PRODUCTS
from _row import Row

# By shape: the bars are of an H200, and hold where the products dominate.
STEP_OVER_PRODUCTS = {"4b": 1.2, "8b": 1.12}
STEP_OVER_COPY = {"4b": 1.3, "8b": 1.3}
PEAK_BYTES_4B = 6.5e9
D_WEIGHT_ERROR = 3e-3
LOGP_ERROR = 1e-4
# Label, value, largest value that passes.
Bar = tuple[str, float | None, float | None]
COLUMNS = {
    "fwd ms": 9,
    "step ms": 9,
    "p20": 9,
    "p80": 9,
    "TF/s": 9,
    "peak GB": 7,
    "loss": 9,
    "dlogp": 9,
    "dX": 9,
    "dW": 9,
    "logp>0": 6,
}


def print_table(problem: Problem, results: Sequence[Measured]) -> None:
    shape = problem.shape
    print(
        f"\n{shape.name}: N {shape.rows:,}, H {shape.hidden:,}, V {shape.vocab:,}, "
        f"{problem.hidden.dtype}, an advantage per {_advantage_per(problem)}, {device_name()}"
    )
    widest = max(len(result.provider.name) for result in results)
    columns = " ".join(f"{name:>{width}}" for name, width in COLUMNS.items())
    print(f"{'':{widest}} {columns} bits")
    for result in results:
        name, note = result.provider.name, result.provider.wrong
        if not result.step_s or result.failed:
            print(f"{name:{widest}} {result.status}")
            continue
        cells = zip(_cells(problem, result), COLUMNS.values(), strict=True)
        numbers = " ".join(f"{'-' if x is None else f'{x:.4g}':>{width}}" for x, width in cells)
        bits = {True: "same", False: "differ", None: "-"}[result.repeats_bitwise]
        print(f"{name:{widest}} {numbers} {bits}{f'  ({note})' if note else ''}")
    print(
        "step: forward and backward. fwd: without a graph, where exprl forms no gradient and "
        "Liger's fused loss does. loss: over the exact one. dX: relative error of the gradient "
        "of the hidden states, or of the logits where they are the input."
    )


def _cells(problem: Problem, result: Measured) -> list[float | None]:
    errors = result.gradient_errors
    step = _percentile(result.step_s)
    return [
        _times(1e3, _percentile(result.forward_s)),
        _times(1e3, step),
        _times(1e3, _percentile(result.step_s, 20)),
        _times(1e3, _percentile(result.step_s, 80)),
        _tflops(problem, result),
        _times(1e-9, result.peak_bytes),
        result.loss_ratio,
        result.logp_error,
        errors.get("d_hidden", errors.get("d_logits")),
        errors.get("d_weight"),
        result.logp_positive,
    ]


def as_row(problem: Problem, result: Measured, *, smoke: bool) -> Row:
    """One JSON row; times are of a step (forward and backward) in seconds.

    smoke: a rehearsal on a CPU or on a tiny shape, whose times say nothing.
    """
    shape, provider = problem.shape, result.provider
    row = Row(provider.name, result.step_s, note=provider.wrong)
    row.extra.update(
        device=device_name(),
        smoke=smoke,
        status=result.status,
        shape=shape.name,
        N=shape.rows,
        H=shape.hidden,
        V=shape.vocab,
        dtype=str(problem.hidden.dtype).removeprefix("torch."),
        advantage_per=_advantage_per(problem),
        start=provider.start,
        outputs=provider.outputs,
        fwd_median=_percentile(result.forward_s),
        fwd_p20=_percentile(result.forward_s, 20),
        fwd_p80=_percentile(result.forward_s, 80),
        tflops=_tflops(problem, result),
        peak_bytes=result.peak_bytes,
        loss_ratio=result.loss_ratio,
        logp_error=result.logp_error,
        **{f"{name}_error": error for name, error in result.gradient_errors.items()},
        logp_positive=result.logp_positive,
        repeats_bitwise=result.repeats_bitwise,
    )
    return row


def check_bars(problem: Problem, results: Sequence[Measured]) -> int:
    """Print each bar as PASS or FAIL; the number of those that failed."""
    missed = 0
    for label, value, limit in [*_speed_bars(problem, results), *_exactness_bars(problem, results)]:
        held = value is not None and limit is not None and value <= limit
        numbers = " against ".join("-" if x is None else f"{x:.4g}" for x in (value, limit))
        print(f"{'PASS' if held else 'FAIL'}  {label}: {numbers}")
        missed += not held
    return missed


def _speed_bars(problem: Problem, results: Sequence[Measured]) -> Iterator[Bar]:
    """Seconds of a step against the floor's, and against every measured rival's of that input."""
    floors = {"hidden": (THREE_PRODUCTS, STEP_OVER_PRODUCTS), "logits": (COPY, STEP_OVER_COPY)}
    for ours in (result for result in results if result.provider.best):
        step = _percentile(ours.step_s)
        floor, factors = floors[ours.provider.start]
        factor = factors.get(problem.shape.name)
        for other in results:
            name, median = other.provider.name, _percentile(other.step_s)
            if name == floor and factor is not None:
                limit = _times(factor, median)
                yield f"{ours.provider.name}: step <= {factor} x {name}, s", step, limit
            elif _is_rival(other, ours):
                yield f"{ours.provider.name}: faster than {name}, s", step, median


def _is_rival(other: Measured, ours: Measured) -> bool:
    provider = other.provider
    same_input = provider.start == ours.provider.start
    same_loss = not (provider.ours or provider.floor or provider.wrong)
    return same_input and same_loss and other.status == "ok"


def _exactness_bars(problem: Problem, results: Sequence[Measured]) -> Iterator[Bar]:
    for result in results:
        provider = result.provider
        if not provider.ours or provider.start != "hidden":
            continue
        yield f"{provider.name}: max |dlogp|", result.logp_error, LOGP_ERROR
        error = result.gradient_errors.get("d_weight")
        yield f"{provider.name}: relative error of dW", error, D_WEIGHT_ERROR
        if problem.shape.name == "4b" and provider.best:
            yield f"{provider.name}: peak bytes above inputs", result.peak_bytes, PEAK_BYTES_4B


def device_name() -> str:
    return torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"


def _advantage_per(problem: Problem) -> str:
    return "segment" if problem.by_segment else "sequence"


def _tflops(problem: Problem, result: Measured) -> float | None:
    step = _percentile(result.step_s)
    if step is None or result.provider.start != "hidden":
        return None
    return problem.shape.flops / step / 1e12


def _percentile(values: Sequence[float], percent: float = 50) -> float | None:
    return Row("", values).percentile(percent) if values else None


def _times(factor: float, value: float | None) -> float | None:
    return None if value is None else factor * value
