"""bench/loss.py in its smoke mode: every adapter computes the loss of the definition in fp64."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from torch import Tensor

if TYPE_CHECKING:
    from _loss_problem import Problem


@pytest.fixture(scope="module")
def rows(repo: Path, tmp_path_factory: pytest.TempPathFactory) -> list[dict]:
    """What one run of the tiny shape in fp32 writes."""
    results = tmp_path_factory.mktemp("bench") / "loss.jsonl"
    command = [sys.executable, "bench/loss.py", "--smoke", "--dtype", "float32", "--repeats", "1"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run(
        [*command, "--results", str(results)], cwd=repo, env=environment, check=True, timeout=300
    )
    return [json.loads(line) for line in results.read_text().splitlines()]


def test_every_provider_that_runs_gives_the_definition_s_loss_and_gradients(
    rows: list[dict],
) -> None:
    compared = [row for row in rows if row["loss_ratio"] is not None and not row["note"]]
    assert {row["name"] for row in compared} >= {
        "exprl linear_grpo_loss",
        "exprl linear_logp + torch loss",
        "torch as TRL, logits in fp32",
        "torch.compile, chunks",
        "torch as prime-rl, chunks of 1,024",
        "from logits: exprl",
        "from logits: exprl, in place",
    }
    for row in compared:
        assert row["loss_ratio"] == pytest.approx(1, abs=1e-5), row["name"]
        for error in ("d_hidden_error", "d_weight_error", "d_logits_error", "logp_error"):
            assert row.get(error) is None or row[error] < 1e-5, (row["name"], error)


def test_a_provider_without_numbers_says_why(rows: list[dict]) -> None:
    reasons = ["not installed: pip install", "not on a CPU: "]
    if any(row["device"] != "cpu" for row in rows):
        # Apple's kernels know no fp32, the CuTe ones know bf16 alone.
        reasons.append("failed: ")
    for row in rows:
        if row["median"] is None:
            assert row["status"].startswith(tuple(reasons)), row
        if "exprl" in row["name"]:
            assert row["status"] == "ok", row


def test_rows_of_a_cpu_say_that_they_are_a_rehearsal(rows: list[dict]) -> None:
    if any(row["device"] != "cpu" for row in rows):
        pytest.skip("this machine has a GPU")
    assert all(row["smoke"] for row in rows)
    assert {row["advantage_per"] for row in rows} == {"sequence", "segment"}


def test_liger_takes_advantages_per_token_and_returns_another_loss(rows: list[dict]) -> None:
    wrong = [row for row in rows if row["note"] == "accepted in silence, and wrong"]
    if any(row["status"] != "ok" for row in wrong):
        pytest.skip(f"liger-kernel did not run: {wrong[0]['status']}")
    assert len(wrong) == 2
    assert all(abs(row["loss_ratio"] - 1) > 0.2 for row in wrong)


@pytest.fixture
def bench(repo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the scripts of bench/ importable."""
    monkeypatch.syspath_prepend(str(repo / "bench"))


def _tiny_problem() -> Problem:
    from _loss_problem import SHAPES, make_problem

    return make_problem(SHAPES["tiny"], torch.device("cpu"), torch.float32, ragged=True)


@pytest.mark.usefixtures("bench")
def test_a_provider_of_ours_that_raises_costs_no_other_its_row() -> None:
    from _loss_measure import measure
    from _loss_providers import Provider, providers

    def broken(*_: Tensor) -> Tensor:
        raise RuntimeError("a kernel faulted\nand more lines")

    torch_rival = next(p for p in providers() if p.name == "torch as TRL, logits in fp32")
    written = []
    measure(
        _tiny_problem(), [Provider("broken", broken, ours=True), torch_rival], 1, written.append
    )
    assert [(result.provider.name, result.failed) for result in written] == [
        ("broken", True),
        (torch_rival.name, False),
    ]
    assert written[0].status == "failed: RuntimeError: a kernel faulted"
    assert len(written[1].step_s) == 1


@pytest.mark.usefixtures("bench")
def test_a_run_that_is_cut_off_keeps_the_rows_it_has() -> None:
    from _loss_measure import measure
    from _loss_providers import Provider, providers

    def interrupted(*_: Tensor) -> Tensor:
        raise KeyboardInterrupt

    floor = next(p for p in providers() if p.floor)
    written = []
    with pytest.raises(KeyboardInterrupt):
        measure(_tiny_problem(), [floor, Provider("slow", interrupted)], 1, written.append)
    assert [result.provider.name for result in written] == [floor.name, "slow"]
    assert all(result.status == "cut off after 0 timed steps" for result in written)
    assert not any(result.failed for result in written)


@pytest.mark.usefixtures("bench")
def test_a_head_in_blocks_gives_the_log_probs_and_gradients_of_the_whole_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import _loss_rivals as rivals

    monkeypatch.setattr(rivals, "PRIME_CHUNK", 8)
    monkeypatch.setattr(rivals, "PRIME_VOCAB", 100)
    problem = _tiny_problem()

    def outcome(logp: Callable[[Tensor, Tensor], Tensor]) -> tuple[Tensor, ...]:
        leaves = [x.detach().requires_grad_() for x in (problem.hidden, problem.weight)]
        value = logp(*leaves)
        (value * problem.token_adv.flatten()).sum().backward()
        return value.detach(), *(leaf.grad for leaf in leaves)

    whole = outcome(lambda *leaves: rivals.trl_head_logp(problem, *leaves, upcast=True))
    blocks = outcome(lambda *leaves: rivals.prime_logp(problem, *leaves))
    for found, expected in zip(blocks, whole, strict=True):
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.usefixtures("bench")
def test_bars_of_speed_hold_for_the_measured_shapes_and_for_rivals_of_the_same_loss() -> None:
    from _loss_measure import Measured
    from _loss_problem import SHAPES
    from _loss_providers import THREE_PRODUCTS, providers
    from _loss_table import _speed_bars

    results = [Measured(provider, step_s=[1.0]) for provider in providers()]
    bars = {}
    for name in ("tiny", "4b", "8b"):
        problem = replace(_tiny_problem(), shape=SHAPES[name])
        bars[name] = {label: limit for label, _, limit in _speed_bars(problem, results)}
    assert not any(THREE_PRODUCTS in label for label in bars["tiny"])
    assert bars["4b"][f"exprl linear_grpo_loss: step <= 1.2 x {THREE_PRODUCTS}, s"] == 1.2
    assert bars["8b"][f"exprl linear_grpo_loss: step <= 1.12 x {THREE_PRODUCTS}, s"] == 1.12
    assert not any("quack chunked linear cross-entropy" in label for label in bars["4b"])


@pytest.mark.usefixtures("bench")
def test_a_gpu_is_seen_by_whichever_number_its_device_file_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import _row

    monkeypatch.setattr(_row, "DEVICES", tmp_path)
    (tmp_path / "nvidiactl").touch()
    assert not _row.has_gpu()
    (tmp_path / "nvidia3").touch()
    assert _row.has_gpu()


def test_a_shape_too_large_for_a_cpu_is_refused_with_the_remedy(
    bench: None,
) -> None:
    import loss

    asked = argparse.Namespace(shapes="small,8b", smoke=False)
    with pytest.raises(SystemExit, match=r"shape 8b needs a GPU.*--shapes small"):
        loss.shapes(asked, on_gpu=False)
    asked.shapes = "9b"
    with pytest.raises(SystemExit, match="no shape '9b'; there are tiny, small, 4b, 8b"):
        loss.shapes(asked, on_gpu=False)
