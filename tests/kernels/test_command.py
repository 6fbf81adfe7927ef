"""`python -m exprl_kernels`: selftest and tune, as far as a machine without a GPU goes."""

import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from exprl_kernels import __main__ as command
from exprl_kernels import selftest, tables, tune
from exprl_kernels.tables import Block

without_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")


def test_selftest_passes_here_and_names_every_operation(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["selftest", "--device", "cpu"]) == 0
    said = capsys.readouterr().out
    for operation in ("linear_logp", "linear_grpo_loss", "grpo_loss_from_logits"):
        for dtype in ("float32", "bfloat16"):
            assert f"pass  {operation}, torch {dtype}" in said
            if os.environ.get("TRITON_INTERPRET") == "1":
                assert f"pass  {operation}, triton {dtype}" in said
    assert "FAIL" not in said


def test_selftest_finds_a_wrong_gradient(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)  # plain torch is enough here
    right = selftest.linear_logp

    def wrong(hidden, weight, targets, **more):
        out = right(hidden, weight, targets, **more)
        slip = 1.01 if hidden.dtype == torch.float32 else 1.0
        return out._replace(logp=out.logp.detach() + slip * (out.logp - out.logp.detach()))

    monkeypatch.setattr(selftest, "linear_logp", wrong)
    assert command.main(["selftest", "--device", "cpu"]) == 1
    said = capsys.readouterr().out
    assert "FAIL  linear_logp, torch float32: gradient of hidden" in said
    assert "FAIL  linear_logp, torch bfloat16" not in said


def test_a_value_that_is_not_a_number_fails() -> None:
    assert not selftest.Finding("loss", math.nan, 1.0).passed


@without_gpu
def test_selftest_on_a_gpu_that_is_not_there_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["selftest", "--device", "cuda"]) == 2
    assert "torch sees no GPU" in capsys.readouterr().err


@without_gpu
def test_tune_refuses_to_run_without_a_gpu(tmp_path: Path) -> None:
    file = tmp_path / "blocks.json"
    ran = subprocess.run(
        [sys.executable, "-m", "exprl_kernels", "tune", "--out", str(file)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert ran.returncode == 2
    assert ran.stderr.startswith("error: tune times kernels on a GPU, and torch sees none here")
    assert not file.exists()


def test_what_tune_writes_is_what_the_kernels_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "cache" / "blocks.json"
    monkeypatch.setenv(tables.VARIABLE, str(file))
    tune.write(file, {"row_stats/sm_90/bfloat16/262144": Block(4096, 8)})
    tune.write(file, {"row_grad/sm_90/float32/8192": Block(2048, 4)})
    tables.table.cache_clear()
    try:
        assert tables.table() == {
            "row_stats/sm_90/bfloat16/262144": Block(4096, 8),
            "row_grad/sm_90/float32/8192": Block(2048, 4),
        }
    finally:
        tables.table.cache_clear()
    assert [path.name for path in file.parent.iterdir()] == ["blocks.json"]


@pytest.mark.parametrize("text", ["not json", "[1, 2]"])
def test_tune_does_not_overwrite_a_file_of_something_else(tmp_path: Path, text: str) -> None:
    file = tmp_path / "blocks.json"
    file.write_text(text)
    with pytest.raises(ValueError, match="not a table of block sizes"):
        tune.write(file, {"row_stats/sm_90/bfloat16/262144": Block(4096, 8)})
    assert file.read_text() == text


def test_a_block_within_the_noise_of_the_best_is_kept_if_it_is_smaller() -> None:
    timed = {Block(1024, 4): 1.30, Block(2048, 8): 1.01, Block(8192, 8): 1.00}
    assert tune.fastest(timed) == Block(2048, 8)


def test_every_candidate_is_a_power_of_two_that_threads_can_hold() -> None:
    for vocab in (31, 5003, 151_936):
        blocks = tune.candidates(vocab)
        assert blocks
        for columns, warps in blocks:
            assert columns & (columns - 1) == 0
            assert 2 <= columns // (32 * warps) <= 16


@pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") != "1", reason="tune itself runs on a GPU")
def test_tune_launches_every_kernel_of_the_table() -> None:
    launches = dict(tune.launches(torch.randn(3, 40)))
    assert set(launches) == set(tables.KERNELS)
    for launch in launches.values():
        launch()
