"""Every kernel compiles for Hopper (H100, H200) without a GPU, and keeps to registers."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def kernels(tmp_path_factory: pytest.TempPathFactory) -> list[dict]:
    """What the machine code of each compiled kernel needs."""
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    environment["PYTHONPATH"] = os.pathsep.join(sys.path)
    environment["TRITON_CACHE_DIR"] = str(tmp_path_factory.mktemp("triton"))
    ran = subprocess.run(
        [sys.executable, Path(__file__).with_name("compile_sm90.py")],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=500,
    )
    assert ran.returncode == 0, ran.stderr[-4000:]
    found = [json.loads(line) for line in ran.stdout.splitlines()]
    for kernel in found:
        print(kernel)
    return found


def test_no_kernel_spills_registers(kernels: list[dict]) -> None:
    assert [kernel for kernel in kernels if kernel["stack"]] == []
    assert all(0 < kernel["registers"] <= 255 for kernel in kernels)


def test_every_kernel_of_the_package_was_compiled(kernels: list[dict]) -> None:
    assert {kernel["name"] for kernel in kernels} == {
        "row_stats_kernel",
        "row_grad_kernel",
        "loss_rows_kernel",
        "scale_rows_kernel",
    }


def test_rows_are_addressed_with_64_bits(kernels: list[dict]) -> None:
    """N * V is past 2^31 at the base shapes. Segments are few, and looked up by an int32 id."""
    for kernel in kernels:
        assert kernel["rows"] > (0 if kernel["name"] == "scale_rows_kernel" else 3)
        assert set(kernel["narrow"]) <= {"seg_adv"}


def per_logit(kernel: dict) -> float:
    """Instructions per logit in the main loops of a kernel, which are one for each pass it has."""
    assert all(len(kernel[which]) <= 1 for which in ("statistics", "gradient")), kernel
    return sum(kernel["statistics"]) + sum(kernel["gradient"])


def of_whole_rows(kernels: list[dict], name: str, *features: str) -> list[dict]:
    """The launches of a kernel on rows that start at 16 bytes, with these features only."""
    return [
        kernel for kernel in kernels
        if kernel["name"] == name and kernel["aligned"] and kernel["features"] == list(features)
    ]  # fmt: skip


def test_both_passes_together_take_18_instructions_per_logit(kernels: list[dict]) -> None:
    found = [k for k in of_whole_rows(kernels, "loss_rows_kernel") if k["grad"]]
    kinds = {(kernel["logits"], kernel["grad"]) for kernel in found}
    fp32, bf16 = "!tt.ptr<f32>", "!tt.ptr<bf16>"
    assert kinds == {(fp32, bf16), (fp32, fp32), (bf16, bf16)}
    for kernel in found:
        assert len(kernel["statistics"]) == len(kernel["gradient"]) == 1
        assert per_logit(kernel) <= 18, kernel


def test_every_logit_passes_a_maximum_that_keeps_nan(kernels: list[dict]) -> None:
    """Triton's interpreter keeps NaN in every maximum, so that only the machine code can tell."""
    found = [k for k in kernels if k["name"] in ("row_stats_kernel", "loss_rows_kernel")]
    assert found
    assert [k for k in found if not (k["statistics"] and k["nan_seen"])] == []


def test_a_gradient_through_the_entropy_takes_3_instructions_more(kernels: list[dict]) -> None:
    found = [k for k in of_whole_rows(kernels, "loss_rows_kernel", "entropy_coef") if k["grad"]]
    assert found
    for kernel in found:
        assert per_logit(kernel) <= 21, kernel


@pytest.mark.parametrize(
    ("name", "features", "most"),
    [
        ("row_stats_kernel", (), 11),
        ("row_grad_kernel", (), 7),
        ("row_grad_kernel", ("d_entropy",), 10),
    ],
)
def test_one_pass_alone_costs_no_more_than_in_the_loss(
    kernels: list[dict], name: str, features: tuple[str, ...], most: float
) -> None:
    found = of_whole_rows(kernels, name, *features)
    assert found
    for kernel in found:
        assert 0 < per_logit(kernel) <= most, kernel
