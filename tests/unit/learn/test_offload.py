"""Host memory for what leaves the GPU: nothing is lost on the way, and nobody notices.

Here both ends are memory of the CPU, in different buffers.
"""

from dataclasses import asdict

import numpy as np
import pytest
import torch

from exprl import config
from exprl.learn.batch import pack, rollout_examples
from exprl.learn.offload import HostMemory, InitialPolicy
from exprl.learn.policy import Policy
from exprl.types import Rollout, Scored, Segment

CPU = torch.device("cpu")


def load(path, *, needs_initial=False, **optim):
    return Policy(
        config.Model(path=path, dtype="bfloat16"),
        config.Optim(lr=1e-2, **optim),
        temperature=1.0,
        needs_initial=needs_initial,
    )


def batches():
    """Two mini-batches of two micro-batches, with prompts for a teacher."""
    rng = np.random.default_rng(0)

    def drawn(n):
        return rng.integers(0, 16, n).astype(np.int32)

    rollouts = [
        Rollout(
            "p", i, drawn(3), drawn(6), np.full(6, -2.0, np.float32), "stop", np.zeros(6, np.int32)
        )
        for i in range(4)
    ]
    scored = [Scored(r, (Segment(0, 6, "a"),), (5,), (1.0,), None) for r in rollouts]
    return pack(
        rollout_examples(scored, [np.array([1.0 - i % 2]) for i in range(4)], {"p": drawn(5)}),
        mini_batches=2,
        micro_batch_tokens=8,
        aggregation="token_mean",
        max_response_tokens=8,
    )


def test_a_tensor_that_was_away_is_the_same_tensor_with_the_same_values():
    host = HostMemory(CPU)
    tensors = {"a": torch.randn(3, 4), "b": torch.randn(5).bfloat16()}
    objects, values = dict(tensors), {name: t.clone() for name, t in tensors.items()}
    places = {name: t.data_ptr() for name, t in tensors.items()}
    host.take(tensors)
    away = {name: t.data_ptr() for name, t in tensors.items()}
    host.restore(tensors)
    for name, tensor in tensors.items():
        assert tensor is objects[name]
        assert torch.equal(tensor, values[name])
        assert len({places[name], away[name], tensor.data_ptr()}) == 3
        tensor.add_(1)
    host.take(tensors)
    assert {name: t.data_ptr() for name, t in tensors.items()} == away  # no new buffers
    for name, tensor in tensors.items():
        assert torch.equal(tensor, values[name] + 1)


@pytest.mark.parametrize("kind", ["adamw", "adamw8bit"])
def test_a_trainer_that_was_away_goes_on_exactly(tiny_qwen3, kind):
    stayed, travelled = load(tiny_qwen3, kind=kind), load(tiny_qwen3, kind=kind)
    travelled.host = HostMemory(CPU)
    loss = config.Loss(kl_coef=0.0, importance_cap=2.0)
    for _ in range(3):
        a, b = stayed.step(batches(), loss), travelled.step(batches(), loss)
        np.testing.assert_equal(list(map(asdict, a)), list(map(asdict, b)))  # NaN equals NaN
        before = {name: (t, t.data_ptr()) for name, t in travelled.tensors_on_device().items()}
        travelled.to_host()
        held = travelled.tensors_on_device()
        assert all(held[name] is t and t.data_ptr() != at for name, (t, at) in before.items())
        for (name, x), (_, y) in zip(stayed.weights(), travelled.weights(), strict=True):
            assert torch.equal(x, y), name
        travelled.to_device()


def test_all_that_takes_room_on_the_device_goes(tiny_qwen3):
    one = load(tiny_qwen3, needs_initial=True, kind="adamw8bit")
    one.step(batches(), config.Loss(kl_coef=0.1))
    held = one.tensors_on_device()
    weights = sum(1 for _ in one.model.parameters())
    for part in ("model", "master", "initial"):
        assert sum(name.startswith(f"{part}.") for name in held) == weights
    assert {name.rpartition(".")[2] for name in held if name.startswith("optimizer.")} >= {
        "exp_avg", "exp_avg_sq",
    }  # fmt: skip
    assert not any(name.endswith(".step") for name in held)


@pytest.mark.parametrize(
    ("objective", "kl_coef"),
    [("policy_gradient", 0.1), ("sampled_reverse_kl", 0.1), ("reverse_kl", 0.0)],
)
def test_the_initial_policy_visits_the_device_once_in_a_step(tiny_qwen3, objective, kl_coef):
    stayed, visited = load(tiny_qwen3, needs_initial=True), load(tiny_qwen3, needs_initial=True)
    initial = InitialPolicy(visited.initial.model, CPU, offload=True)
    visited.initial = initial
    at_home = {name: p.data_ptr() for name, p in initial.model.named_parameters()}
    loss = config.Loss(objective=objective, kl_coef=kl_coef)
    for step in (1, 2):
        assert repr(stayed.step(batches(), loss)) == repr(visited.step(batches(), loss))
        assert initial.visits == step
        assert {name: p.data_ptr() for name, p in initial.model.named_parameters()} == at_home
    assert not initial.resident()


def test_a_step_without_kl_leaves_the_initial_policy_alone(tiny_qwen3):
    one = load(tiny_qwen3, needs_initial=True)
    one.initial = InitialPolicy(one.initial.model, CPU, offload=True)
    one.step(batches(), config.Loss(kl_coef=0.0))
    assert one.initial.visits == 0
