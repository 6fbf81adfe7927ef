"""Attention over packed rows: what it computes, which kernel runs, and what is refused.

The GPU's path is run on fake tensors: shapes, dtypes and devices without values. Whatever would
wait for the device (`.tolist()`, `.item()`) raises there.
"""

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from exprl import config
from exprl.errors import ConfigError
from exprl.learn import attention
from exprl.learn.model import hidden_states, load
from exprl.learn.policy import Policy
from exprl.learn.shared_prompts import Family
from exprl.types import Packed

BF16, FP32 = torch.bfloat16, torch.float32
CPU, CUDA = torch.device("cpu"), torch.device("cuda")
LENGTHS = [5, 5, 1, 7, 7, 7]
CU_SEQLENS = np.cumsum([0, *LENGTHS], dtype=np.int32)
ALL = set(attention.FLASH)


def packed():
    positions = np.concatenate([np.arange(n) for n in LENGTHS])
    return Packed(positions % 16, positions, CU_SEQLENS, np.array([1, 2, 8]))


def heads(dtypes=(FP32, FP32, FP32), device=CPU):
    """Query with four heads, key and value with two."""
    generator = None if device == CUDA else torch.Generator().manual_seed(0)
    return [
        torch.randn(1, count, sum(LENGTHS), 8, dtype=dtype, device=device, generator=generator)
        for count, dtype in zip((4, 2, 2), dtypes, strict=True)
    ]


def attend(q, k, v, device=CPU, **settings):
    where = attention.packing(CU_SEQLENS, torch.from_numpy(CU_SEQLENS).to(device))
    out, _ = attention.packed_attention(torch.nn.Module(), q, k, v, None, **where, **settings)
    return out


class Kernels(TorchDispatchMode):
    """The dtypes of query, key and value in every call of torch's variable-length kernel."""

    def __init__(self):
        super().__init__()
        self.calls = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if str(func) == "torch_attn._varlen_attn.default":
            self.calls.append([t.dtype for t in args[:3]])
        return func(*args, **(kwargs or {}))


class Products(TorchFunctionMode):
    """The dtypes of query, key and value in every scaled_dot_product_attention."""

    def __init__(self):
        super().__init__()
        self.calls = []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is functional.scaled_dot_product_attention:
            self.calls.append([t.dtype for t in args[:3]])
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("softcap", [None, 0.5])
@pytest.mark.parametrize("window", [None, 3])
def test_packed_attention_is_attention_within_each_sequence(window, softcap):
    q, k, v = heads()
    out = attend(q, k, v, sliding_window=window, softcap=softcap)
    position = torch.arange(sum(LENGTHS))
    sequence = torch.repeat_interleave(torch.arange(len(LENGTHS)), torch.tensor(LENGTHS))
    distance = position[:, None] - position[None, :]
    mask = (sequence[:, None] == sequence[None, :]) & (distance >= 0)
    if window:
        mask &= distance < window
    k, v = (t.repeat_interleave(2, dim=1) for t in (k, v))
    scores = q @ k.mT / 8**0.5
    if softcap:
        scores = softcap * (scores / softcap).tanh()
    expected = scores.masked_fill(~mask, -torch.inf).softmax(-1) @ v
    torch.testing.assert_close(out, expected.transpose(1, 2))


@pytest.mark.parametrize("softcap", [None, 0.5])
@pytest.mark.parametrize("window", [None, 3])
def test_responses_behind_one_prompt_see_it_and_themselves(window, softcap):
    families = (Family(4, (3, 3, 1)), Family(1, (2,)))
    q, k, v = (t[:, :, :14] for t in heads())
    settings = {"sliding_window": window, "softcap": softcap}
    out, _ = attention.packed_attention(
        torch.nn.Module(), q, k, v, None, families=families, **settings
    )
    # Each response behind its own copy of the prompt, one sequence at a time.
    for prompt, response in [
        ((0, 4), (4, 7)),
        ((0, 4), (7, 10)),
        ((0, 4), (10, 11)),
        ((11, 12), (12, 14)),
    ]:
        rows = torch.tensor([*range(*prompt), *range(*response)])
        where = attention.packing(np.array([0, len(rows)], np.int32), rows)
        alone, _ = attention.packed_attention(
            torch.nn.Module(), *(t[:, :, rows] for t in (q, k, v)), None, **where, **settings
        )
        torch.testing.assert_close(out[:, rows], alone)


def test_on_a_gpu_the_policy_s_forward_reaches_the_variable_length_kernel_in_every_layer(
    tiny_qwen3, monkeypatch
):
    from transformers import AutoConfig, AutoModelForCausalLM

    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: tensor)  # asks for a real GPU
    attention.register()
    shape = AutoConfig.from_pretrained(tiny_qwen3)
    with FakeTensorMode(allow_non_fake_inputs=True), Kernels() as kernels:
        with CUDA:
            model = AutoModelForCausalLM.from_config(
                shape, dtype=BF16, attn_implementation=attention.PACKED
            )
        states = hidden_states(model, packed())
    assert states.device.type == "cuda"
    assert kernels.calls == [[BF16, BF16, BF16]] * shape.num_hidden_layers


def test_query_and_key_that_a_norm_raised_to_fp32_reach_the_kernel_in_value_s_dtype():
    with FakeTensorMode(allow_non_fake_inputs=True), Kernels() as kernels:
        out = attend(*heads((FP32, FP32, BF16), CUDA), CUDA)
    assert kernels.calls == [[BF16, BF16, BF16]]
    assert out.shape == (1, sum(LENGTHS), 4, 8)


def test_fp32_on_a_gpu_needs_no_lengths_from_the_device():
    with FakeTensorMode(allow_non_fake_inputs=True), Kernels() as kernels:
        attend(*heads(device=CUDA), CUDA)
    assert not kernels.calls


def test_the_trainer_s_forward_in_bf16_gives_attention_one_dtype(tiny_qwen3):
    policy = Policy(
        config.Model(path=tiny_qwen3, dtype="bfloat16"),
        config.Optim(),
        temperature=1.0,
        needs_initial=False,
    )
    with Products() as products:
        policy.logp(packed())
    assert {tuple(dtypes) for dtypes in products.calls} == {(BF16, BF16, BF16)}


@pytest.mark.parametrize(
    ("setting", "major", "packages", "expected"),
    [
        ("auto", 9, ALL, "flash_attention_3"),
        ("auto", 9, {"flash_attention_2", "flash_attention_4"}, "flash_attention_4"),
        ("auto", 10, ALL, "flash_attention_4"),
        ("auto", 8, ALL, "flash_attention_2"),
        ("auto", 8, {"flash_attention_3"}, attention.PACKED),
        ("auto", 9, set(), attention.PACKED),
        ("auto", None, set(), attention.PACKED),
        ("torch", 9, ALL, attention.PACKED),
        ("shared_prompts", 9, ALL, attention.SHARED),
        ("flash_attention_4", 9, ALL, "flash_attention_4"),
    ],
)
def test_the_kernel_is_the_best_one_that_is_installed_and_made_for_the_card(
    setting, major, packages, expected
):
    assert attention.pick(setting, BF16, major, packages) == expected


def test_fp32_is_left_to_torch_because_flash_attn_knows_half_precision_only():
    assert attention.pick("auto", FP32, 9, ALL) == attention.PACKED
    with pytest.raises(ConfigError, match=r'set model\.dtype = "bfloat16"'):
        attention.pick("flash_attention_2", FP32, 9, ALL)


@pytest.mark.parametrize(
    ("setting", "package"),
    [
        ("flash_attention_2", "flash-attn"),
        ("flash_attention_3", "flash-attn-3"),
        ("flash_attention_4", "flash-attn-4"),
    ],
)
def test_a_chosen_kernel_that_is_missing_is_refused_by_its_package(setting, package):
    with pytest.raises(ConfigError, match=rf"the package {package} is not installed"):
        attention.pick(setting, BF16, 9, ALL - {setting})


@pytest.mark.skipif(torch.cuda.is_available(), reason="asks what happens without a GPU")
def test_a_flash_kernel_without_a_gpu_is_refused_at_loading(tiny_qwen3):
    settings = config.Model(path=tiny_qwen3, attention="flash_attention_3")
    with pytest.raises(ConfigError, match=r'"flash_attention_3": it needs an NVIDIA GPU'):
        load(settings, tiny_qwen3, BF16, CPU)


def test_transformers_knows_every_kernel_by_the_name_used_here():
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    assert set(ALL_ATTENTION_FUNCTIONS.valid_keys()) >= ALL
    assert attention.find_flash() <= ALL


def test_what_torch_s_kernels_cannot_compute_is_refused_instead_of_left_out():
    with pytest.raises(ConfigError, match="attention sinks"):
        attend(*heads(), s_aux=torch.zeros(4))
    with (
        FakeTensorMode(allow_non_fake_inputs=True),
        pytest.raises(ConfigError, match="capped attention scores"),
    ):
        attend(*heads((BF16,) * 3, CUDA), CUDA, softcap=50.0)
