"""AdamW in fp32 and in 8 bits: its rate, what it keeps, and that it goes on exactly."""

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from exprl import config
from exprl.errors import ConfigError
from exprl.learn.optimizer import Optimizer, schedule


def made(kind, **settings):
    """A weight with 8-bit moments under adamw8bit, one that stays in fp32, and a scalar's."""
    generator = torch.Generator().manual_seed(0)
    masters = {
        name: nn.Parameter(torch.randn(shape, generator=generator))
        for name, shape in {"large": (64, 128), "small": (16, 16), "odd": (65, 67)}.items()
    }
    optim = config.Optim(**{"kind": kind, "lr": 1e-2, "weight_decay": 0.1} | settings)
    return Optimizer(optim, masters, None), masters


def run(optimizer, masters, first, last):
    """Updates first..last-1, with gradients that depend on their number alone."""
    for update in range(first, last):
        for i, master in enumerate(masters.values()):
            generator = torch.Generator().manual_seed(100 * update + i)
            master.grad = torch.randn(master.shape, generator=generator)
        optimizer.step(update)
        optimizer.clear()


def test_8_bit_moments_step_nearly_as_fp32_ones_do():
    (exact, wanted), (coarse, found) = made("adamw"), made("adamw8bit")
    start = {name: value.detach().clone() for name, value in wanted.items()}
    run(exact, wanted, 0, 5), run(coarse, found, 0, 5)
    for name, value in wanted.items():
        moved = (value - start[name]).abs().mean()
        assert (found[name] - value).abs().mean() < 0.05 * moved, name
    torch.testing.assert_close(found["small"], wanted["small"])


def test_8_bit_moments_are_kept_in_8_bits():
    optimizer, masters = made("adamw8bit")
    run(optimizer, masters, 0, 1)
    state = dict(optimizer.tensors())
    assert state["large.exp_avg.codes"].dtype == torch.uint8
    assert state["large.exp_avg_sq.scale"].shape == (64 * 128 // 256,)
    for name in ("small", "odd"):  # too few values, and no multiple of 256
        assert state[f"{name}.exp_avg"].dtype == torch.float32


@pytest.mark.parametrize("kind", ["adamw", "adamw8bit"])
def test_the_state_goes_through_a_file_exactly(kind, tmp_path):
    through, wanted = made(kind)
    run(through, wanted, 0, 3)
    save_file({name: value.contiguous() for name, value in through.tensors()}, tmp_path / "state")
    resumed, found = made(kind)
    with torch.no_grad():
        for name, value in wanted.items():
            found[name].copy_(value)
    resumed.load(load_file(tmp_path / "state"))
    run(through, wanted, 3, 6), run(resumed, found, 3, 6)
    for name, value in wanted.items():
        assert torch.equal(found[name], value), name
    mine, theirs = dict(resumed.tensors()), dict(through.tensors())
    assert mine.keys() == theirs.keys()
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)


@pytest.mark.parametrize("kind", ["adamw", "adamw8bit"])
def test_the_rate_of_a_step_is_that_of_its_number(kind):
    optimizer, masters = made(kind, warmup_steps=4, weight_decay=0.0)
    start = masters["small"].detach().clone()
    run(optimizer, masters, 1, 2)
    assert optimizer.learning_rate(1) == pytest.approx(0.5e-2)
    # AdamW's first step moves every weight by the rate.
    moved = (masters["small"] - start).abs()
    torch.testing.assert_close(moved, torch.full_like(moved, 0.5e-2), rtol=1e-3, atol=0)


def test_cosine_and_linear_rise_to_the_rate_and_fall_to_0_after_the_last_update():
    rates = {}
    for name in ("linear", "cosine"):
        rate = schedule(config.Optim(lr=1.0, warmup_steps=4, schedule=name), 100)
        rates[name] = [rate(update) for update in range(101)]
        assert rates[name][:4] == pytest.approx([0.25, 0.5, 0.75, 1.0])
        assert 0.0 < rates[name][99] < 0.011
        assert rates[name][100] == pytest.approx(0.0, abs=1e-9)
    middle = 3 + (100 - 3) // 2
    assert rates["linear"][middle] == pytest.approx(0.5, abs=0.01)
    assert rates["cosine"][middle] == pytest.approx(0.5, abs=0.01)
    assert rates["cosine"][20] > rates["linear"][20]


@pytest.mark.parametrize("updates", [None, 3, 4])
def test_a_schedule_that_has_no_room_to_fall_is_refused(updates):
    with pytest.raises(ConfigError, match=r"optim\.warmup_steps = 4.*set optim\.schedule"):
        schedule(config.Optim(warmup_steps=4, schedule="cosine"), updates)
