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
from safetensors.torch import load_file

from exprl import config
from exprl.learn.batch import pack
from exprl.learn.control import Message, open_team
from exprl.learn.policy import Policy
from exprl.learn.ranks import Leader
from exprl.run.policy import policy_arguments
from exprl.types import Example

HERE = Path(__file__).parent
VOCAB = 24  # of the miniature; the random model has more


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


@pytest.fixture(scope="module")
def team(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("followers")

    def start(rank, env):
        return Started([HERE / "ranks_follower.py"], env, folder / f"trainer-{rank}.log")

    with open_team(request.param, "127.0.0.1", start, torch.device("cpu")) as team:
        yield team


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """Saves a small random Qwen3, of sizes that three ranks share unequally.

    In 8 bits, 2 and 3 ranks quantize `gate_proj` in the blocks of one process; of `down_proj` the
    third of 3 ranks quantizes its part, and the others keep theirs in fp32.
    """

    def make(*, tied=True, head_dim=8):
        from transformers import Qwen3Config, Qwen3ForCausalLM

        torch.manual_seed(0)
        shape = Qwen3Config(
            vocab_size=97,
            hidden_size=256,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=head_dim,
            max_position_embeddings=256,
            tie_word_embeddings=tied,
        )
        folder = tmp_path_factory.mktemp("model")
        Qwen3ForCausalLM(shape).save_pretrained(folder)
        return folder

    return {"tied": make(), "untied": make(tied=False), "narrow heads": make(head_dim=2)}


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
            rng.integers(3, VOCAB, 6).astype(np.int32),
            rng.integers(3, VOCAB, n).astype(np.int32),
            (-4.5 - rng.random(n)).astype(np.float32),
            rng.normal(size=parts),
            tuple(map(int, counts)),
            teacher_ids=rng.integers(3, VOCAB, 9).astype(np.int32),
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
        torch.testing.assert_close(
            found[name], value, rtol=0, atol=atol, msg=lambda text, name=name: f"{name}: {text}"
        )


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


@pytest.mark.parametrize(
    ("team", "case"),
    [(2, "KL"), (2, "LoRA"), *((3, case) for case in CASES)],
    indirect=["team"],
    scope="module",
)
def test_ranks_step_as_one_process_does(team, model, tmp_path, alone, case):
    path = model["untied" if case == "untied head" else "tied"]
    cfg = configured(tmp_path, path, *CASES[case])
    steps = [batches(seed=seed) for seed in range(2 if case == "KL" else 1)]
    if case not in alone:
        one = Policy(**policy_arguments(cfg))
        alone[case] = [one.step(minis, cfg.loss) for minis in steps], weights_of(one)
    expected, weights = alone[case]
    with leading(team, cfg) as policy:
        found = [policy.step(minis, cfg.loss) for minis in steps]
        for stats, wanted in zip(found, expected, strict=True):
            assert_same(stats, wanted)
        assert_close(weights_of(policy), weights)
        assert policy.version == 2 * len(steps)


@pytest.mark.parametrize(
    ("team", "case"), [(3, "KL"), (3, "SFT")], indirect=["team"], scope="module"
)
def test_a_rank_without_a_micro_batch_or_a_part_of_a_weight_changes_nothing(
    team, model, tmp_path, case
):
    """One micro-batch for all ranks; of q_norm, which has 2 values, a third rank holds none."""
    cfg = configured(tmp_path, model["narrow heads"], *CASES[case])
    minis = batches(lengths=(30,), mini_batches=1)
    assert [len(mini) for mini in minis] == [1]
    one = Policy(**policy_arguments(cfg))
    expected = one.step(minis, cfg.loss)
    with leading(team, cfg) as policy:
        assert_same(policy.step(minis, cfg.loss), expected)
        assert_close(weights_of(policy), weights_of(one))
        save(policy, tmp_path)
        policy.load_optimizer(tmp_path, 1)


@pytest.mark.parametrize("team", [2], indirect=True, scope="module")
def test_a_non_finite_gradient_skips_the_step_on_every_rank(team, model, tmp_path):
    cfg = configured(tmp_path, model["tied"], "loss.kl_coef=0")
    minis = batches(mini_batches=1)
    huge = dataclasses.replace(minis[0][0], seg_adv=np.full_like(minis[0][0].seg_adv, 3e38))
    with leading(team, cfg) as policy:
        before = weights_of(policy)
        [stats] = policy.step([[huge, *minis[0][1:]]], cfg.loss)
        assert stats.skipped
        assert policy.version == 0
        assert_close(weights_of(policy), before, atol=0)
        [stats] = policy.step(minis, cfg.loss)
        assert not stats.skipped
        assert policy.version == 1


@pytest.mark.parametrize("team", [2], indirect=True, scope="module")
def test_who_stops_in_the_middle_of_the_weights_holds_up_no_rank(team, model, tmp_path):
    cfg = configured(tmp_path, model["tied"])
    with leading(team, cfg) as policy:
        walk = policy.weights()
        name, _ = next(walk)
        assert next(iter(weights_of(policy))) == name
        next(policy.weights())
        policy.step(batches(), cfg.loss)


def save(policy, folder):
    policy.save_model(folder)
    policy.save_optimizer(folder)


# 8-bit moments that are quantized anew, in other blocks, put a weight off by up to a quarter of the
# rate after the next step.
SCHEMES = {
    "adamw": ([], 1e-6),
    "LoRA": (["lora.rank=4"], 1e-6),
    "adamw8bit": (["optim.kind=adamw8bit"], 0.25 * 3e-4),
}


@pytest.mark.parametrize(
    ("team", "scheme"),
    [(2, "adamw8bit"), *((3, scheme) for scheme in SCHEMES)],
    indirect=["team"],
    scope="module",
)
def test_a_checkpoint_goes_on_with_any_number_of_ranks(team, model, tmp_path, scheme):
    overrides, atol = SCHEMES[scheme]
    cfg = configured(tmp_path, model["tied"], *overrides)
    minis, further = batches(), batches(seed=1)
    folders = [tmp_path / name for name in ("ranks", "alone")]
    for folder in folders:
        folder.mkdir()
    with leading(team, cfg) as policy:
        policy.step(minis, cfg.loss)
        save(policy, folders[0])
        policy.step(further, cfg.loss)
        through = weights_of(policy)
    # As many ranks go on exactly, with 8 bits too.
    with leading(team, cfg, weights=str(folders[0])) as policy:
        policy.load_optimizer(folders[0], 2)
        policy.step(further, cfg.loss)
        assert_close(weights_of(policy), through, atol=0)
    # One process goes on from what ranks saved, and ranks from what one process saved.
    one = Policy(**policy_arguments(cfg), weights=str(folders[0]))
    one.load_optimizer(folders[0], 2)
    save(one, folders[1])
    one.step(further, cfg.loss)
    assert_close(weights_of(one), through, atol)
    with leading(team, cfg, weights=str(folders[1])) as policy:
        policy.load_optimizer(folders[1], 2)
        policy.step(further, cfg.loss)
        assert_close(weights_of(policy), through, atol)
    ours, theirs = (load_file(folder / "model.safetensors") for folder in folders)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
