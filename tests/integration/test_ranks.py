"""Trainer ranks over gloo compute what one process does, however unequal their shares."""

import dataclasses
import os
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch

from exprl import config
from exprl.learn.batch import pack
from exprl.learn.control import Message, open_team
from exprl.learn.policy import Policy
from exprl.learn.ranks import Leader
from exprl.run.policy import policy_arguments
from exprl.types import Example

pytestmark = pytest.mark.xdist_group("ranks")
HERE = Path(__file__).parent


class Started:
    """A follower of this machine, as the tests start it."""

    host = "127.0.0.1"

    def __init__(self, argv, env, log):
        self.log = log
        with log.open("wb") as file:
            self.process = subprocess.Popen(
                [sys.executable, *argv],
                env={**os.environ, **env},
                stdout=file,
                stderr=file,
                start_new_session=True,
            )

    def poll(self):
        return self.process.poll()

    def stop(self):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()


@pytest.fixture(scope="module", params=[2, 3], ids=["2 ranks", "3 ranks"])
def team(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("followers")

    def start(rank, env):
        return Started([HERE / "ranks_follower.py"], env, folder / f"trainer-{rank}.log")

    with open_team(request.param, "127.0.0.1", start, torch.device("cpu")) as team:
        yield team


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """Saves a small random Qwen3, of sizes that three ranks share unequally.

    Of q_norm, two values, a third rank has none. In 8 bits, 2 and 3 ranks quantize `gate_proj` in
    the blocks of one process, `q_proj` not at all, and of `down_proj` some ranks their part and
    others not.
    """

    def make(*, tied=True):
        from transformers import Qwen3Config, Qwen3ForCausalLM

        torch.manual_seed(0)
        shape = Qwen3Config(
            vocab_size=97,
            hidden_size=256,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=8,
            max_position_embeddings=256,
            tie_word_embeddings=tied,
        )
        folder = tmp_path_factory.mktemp("model")
        Qwen3ForCausalLM(shape).save_pretrained(folder)
        return folder

    return {"tied": make(), "untied": make(tied=False)}


def configured(tmp_path, path, *overrides):
    return config.load(
        "configs/division_process.toml",
        [
            f"run_dir={tmp_path / 'run'}",
            f"model.path={path}",
            "optim.lr=3e-4",
            "optim.max_grad_norm=0.5",
            # AdamW divides by a gradient's size: it would blow rounding up to a whole step.
            "optim.eps=1e-4",
            *overrides,
        ],
    )


@contextmanager
def leading(team, cfg, weights=None):
    """The leader's policy, and followers that follow it."""
    file = Path(cfg.run_dir) / "config.toml"
    file.parent.mkdir(exist_ok=True)
    file.write_text(config.to_toml(cfg))
    with team.tell(Message("policy", {"config": str(file)})):
        pass
    try:
        yield Leader(team, **policy_arguments(cfg), weights=weights)
    finally:
        with team.tell(Message("stop")):
            pass


def examples(lengths, seed=0):
    rng = np.random.default_rng(seed)
    for n in lengths:
        parts = max(1, n // 8)
        counts = np.full(parts, n // parts)
        counts[-1] += n - counts.sum()
        yield Example(
            rng.integers(3, 97, 6).astype(np.int32),
            rng.integers(3, 97, n).astype(np.int32),
            (-4.5 - rng.random(n)).astype(np.float32),
            rng.normal(size=parts),
            tuple(map(int, counts)),
            rng.integers(3, 97, 9).astype(np.int32),
        )


def batches(lengths=(40, 9, 33, 21, 56, 12, 18, 27), micro_batch_tokens=60, mini_batches=2, seed=0):
    return pack(
        list(examples(lengths, seed)),
        mini_batches=mini_batches,
        micro_batch_tokens=micro_batch_tokens,
        aggregation="token_mean",
        max_response_tokens=96,
    )


def weights_of(policy):
    return {name: value.detach().clone() for name, value in policy.weights()}


def assert_same(stats, expected):
    for own, one in zip(stats, expected, strict=True):
        assert dataclasses.asdict(own.loss) == pytest.approx(
            dataclasses.asdict(one.loss), rel=1e-5, abs=1e-7, nan_ok=True
        )
        assert own.grad_norm == pytest.approx(one.grad_norm, rel=1e-5)
        assert (own.lr, own.skipped) == (one.lr, one.skipped)


def assert_close(found, expected, atol=1e-6):
    assert list(found) == list(expected)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=0, atol=atol, msg=name)


CASES = {
    "KL": ["loss.kl_coef=0.05"],
    "untied head": ["loss.kl_coef=0.05"],
    "gradient checkpointing": ["model.gradient_checkpointing=0.5"],
    "LoRA": ["lora.rank=4", "loss.kl_coef=0.05", "model.gradient_checkpointing=true"],
    "SFT": ["loss.objective=cross_entropy", "reward.source=none", "loss.kl_coef=0"],
    "distillation": ["loss.objective=reverse_kl", "reward.source=none", "loss.kl_coef=0"],
    "distillation of an adapter": [
        "loss.objective=reverse_kl",
        "reward.source=none",
        "loss.kl_coef=0",
        "lora.rank=4",
    ],
    "sampled distillation": ["loss.objective=sampled_reverse_kl", "reward.source=none"],
}


@pytest.fixture(scope="module")
def alone(model):
    """What one process computes in a case, once for all numbers of ranks."""
    return {}


@pytest.mark.parametrize("case", CASES)
def test_ranks_step_as_one_process_does(team, model, tmp_path, alone, case):
    path = model["untied" if case == "untied head" else "tied"]
    cfg = configured(tmp_path, path, *CASES[case])
    steps = [batches(seed=seed) for seed in (0, 1)]
    if case not in alone:
        one = Policy(**policy_arguments(cfg))
        alone[case] = [one.step(minis, cfg.loss) for minis in steps], weights_of(one)
    expected, weights = alone[case]
    with leading(team, cfg) as policy:
        found = [policy.step(minis, cfg.loss) for minis in steps]
        for stats, wanted in zip(found, expected, strict=True):
            assert_same(stats, wanted)
        assert_close(weights_of(policy), weights)
        assert policy.version == 4
