"""The model that the trainer computes with: its dtypes, its fused parts, what it recomputes."""

import copy
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from exprl import config
from exprl.errors import ConfigError
from exprl.learn import attention, fused
from exprl.learn.model import describe, hidden_states, load, place, recompute
from exprl.types import Packed

CPU = torch.device("cpu")
LAYERS = 4
FIRST, SECOND = 3, 5  # tokens of two sequences in a row


def shape(layers=LAYERS, **settings):
    from transformers import Qwen3Config

    return Qwen3Config(
        **{
            "vocab_size": 32,
            "hidden_size": 16,
            "intermediate_size": 24,
            "num_hidden_layers": layers,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "head_dim": 8,
            **settings,
        }
    )


def settings(**model):
    return config.Model(path="-", **{"dtype": "float32", **model})


def built(layers=LAYERS, **model):
    """A model whose weights, norms included, are random and large enough to matter."""
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    attention.register()
    one = AutoModelForCausalLM.from_config(shape(layers), attn_implementation=attention.PACKED)
    with torch.no_grad():
        for parameter in one.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return place(one, settings(**model), "random", CPU)


def packed():
    positions = np.concatenate([np.arange(FIRST), np.arange(SECOND)])
    ids = np.random.default_rng(0).integers(0, 32, FIRST + SECOND)
    cu_seqlens = np.array([0, FIRST, FIRST + SECOND], np.int32)
    return Packed(ids, positions, cu_seqlens, np.array([1, 2, 5, 6, 7]))


def gradients(model):
    """The final hidden states, and the gradient of every parameter of a loss over them."""
    states = hidden_states(model, packed())
    (states * torch.linspace(-1.0, 1.0, states.numel()).view_as(states)).sum().backward()
    grads = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return states.detach(), grads


@pytest.mark.parametrize(
    ("share", "forwards"),
    [
        (False, [1, 1, 1, 1]),
        (0.1, [2, 1, 1, 1]),
        (0.5, [2, 2, 1, 1]),
        (1.0, [2, 2, 2, 2]),
        (True, [2, 2, 2, 2]),
    ],
)
def test_a_share_of_the_layers_recomputes_and_gives_the_same_gradients(share, forwards):
    model = built()
    expected, plain = gradients(copy.deepcopy(model))
    recompute(model, share)
    counts = [0] * LAYERS

    def count(i):
        def hook(*_):
            counts[i] += 1

        return hook

    for i, layer in enumerate(model.base_model.layers):
        layer.register_forward_pre_hook(count(i))
    states, found = gradients(model)
    assert counts == forwards
    torch.testing.assert_close(states, expected, rtol=0, atol=0)
    torch.testing.assert_close(found, plain, rtol=0, atol=0)


def test_a_model_that_cannot_recompute_is_refused():
    from transformers import CTRLConfig, CTRLLMHeadModel

    model = CTRLLMHeadModel(CTRLConfig(vocab_size=8, n_embd=8, dff=8, n_layer=1, n_head=1))
    with pytest.raises(ConfigError, match=r"gradient_checkpointing = True: CTRLLMHeadModel"):
        recompute(model, True)


def test_the_share_is_true_false_or_a_number_up_to_one():
    assert settings(gradient_checkpointing=True).gradient_checkpointing is True
    assert settings(gradient_checkpointing=0.5).gradient_checkpointing == 0.5
    for wrong in (1.5, -0.5):
        with pytest.raises(ValidationError):
            settings(gradient_checkpointing=wrong)


def test_parameters_take_the_dtype_and_buffers_stay_fp32(tiny_qwen3):
    half = load(settings(dtype="bfloat16"), tiny_qwen3, torch.bfloat16, CPU)
    whole = load(settings(), tiny_qwen3, torch.float32, CPU)
    assert {p.dtype for p in half.parameters()} == {torch.bfloat16}
    buffers = dict(half.named_buffers())
    assert any(name.endswith("inv_freq") for name in buffers)
    torch.testing.assert_close(buffers, dict(whole.named_buffers()), rtol=0, atol=0)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux's /proc")
def test_loading_in_bf16_takes_the_memory_of_one_copy(tmp_path):
    from transformers import AutoModelForCausalLM

    wide = shape(layers=1, vocab_size=16384, hidden_size=1024, tie_word_embeddings=True)
    AutoModelForCausalLM.from_config(wide).save_pretrained(tmp_path)
    one_copy = 2 * 16384 * 1024
    before, peaks, done = private_bytes(), [0], threading.Event()

    def watch():
        while not done.wait(0.001):
            peaks.append(private_bytes())

    watcher = threading.Thread(target=watch)
    watcher.start()
    load(settings(dtype="bfloat16"), str(tmp_path), torch.bfloat16, CPU)
    done.set()
    watcher.join()
    assert max(peaks) - before < 1.7 * one_copy


def private_bytes():
    """Memory of this process that no file stands behind."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.split("RssAnon:")[1].split()[0])


def test_a_model_of_random_weights_computes_what_it_computes_once_saved_and_loaded(tmp_path):
    model = built()
    model.save_pretrained(tmp_path)
    again = place(load(settings(), str(tmp_path), torch.float32, CPU), settings(), "again", CPU)
    with torch.no_grad():
        states = [hidden_states(one, packed()) for one in (model, again)]
    torch.testing.assert_close(*states, rtol=0, atol=0)
    assert again.training


def test_sequences_of_a_row_do_not_see_each_other():
    model, row = built(), packed()
    ids = row.input_ids.copy()
    ids[0] = (ids[0] + 1) % 32
    other = Packed(ids, row.position_ids, row.cu_seqlens, row.target_pos)
    with torch.no_grad():
        one, two = hidden_states(model, row), hidden_states(model, other)
    assert not torch.equal(one[:2], two[:2])
    torch.testing.assert_close(one[2:], two[2:], rtol=0, atol=0)


def test_fused_kernels_that_cannot_run_are_refused_where_asked_for_and_left_out_by_auto():
    assert not fused.choose("auto", "qwen3", CPU)
    assert not fused.choose("none", "qwen3", torch.device("cuda"))
    with pytest.raises(ConfigError, match=r'model\.fused = "liger": its kernels need a CUDA GPU'):
        built(fused="liger")


def test_without_the_package_the_message_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "liger_kernel", None)  # as if it were not installed
    problem = fused.obstacle("qwen3", torch.device("cuda"))
    assert problem == "the package liger-kernel is not installed (extra `fused`)"


def test_a_line_says_how_the_trainer_computes():
    line = describe(settings(gradient_checkpointing=0.5), shape(), CPU)
    assert line == (
        "float32, torch's attention, nothing fused (Liger: its kernels need a CUDA GPU), 2 of 4"
        " layers recomputed"
    )


@pytest.fixture
def liger(monkeypatch):
    """Liger's kernels on this machine: on a GPU as they are, else in Triton's interpreter."""
    pytest.importorskip("liger_kernel", reason="liger-kernel (extra `fused`) is not installed")
    from transformers.models.qwen3 import modeling_qwen3

    for name in ("apply_rotary_pos_emb", "Qwen3RMSNorm", "Qwen3MLP"):  # which fuse() replaces
        monkeypatch.setattr(modeling_qwen3, name, getattr(modeling_qwen3, name))
    if torch.cuda.is_available():
        return torch.device("cuda")
    import triton.language as tl
    from triton.runtime import interpreter

    convert = interpreter._implicit_cvt

    def with_floats(value):
        """A kernel's scalar floats arrive as fp32 tensors on a GPU, as bare floats here."""
        if isinstance(value, float):
            handle = interpreter.TensorHandle(np.array([value], np.float32), tl.float32)
            return tl.tensor(handle, tl.float32)
        return convert(value)

    monkeypatch.setattr(interpreter, "_implicit_cvt", with_floats)
    # CUDA's own square root has no body in the interpreter.
    monkeypatch.setattr("liger_kernel.ops.rms_norm.rsqrt", lambda x: 1.0 / tl.sqrt(x))
    return CPU


@pytest.mark.parametrize("half", [False, True])
def test_fused_kernels_give_the_plain_modules_states_and_gradients(liger, half):
    """On two packed sequences, one layer kept and one recomputed.

    Both sides differ by the order of some sixty roundings on the way from a parameter to its
    gradient. In fp32 they are of at most 6e-8; 1e-5 of the norm is three times their sum. In half
    precision they are of eps / 2 and random: sixty of them come to 4 eps, a quarter of the limit.
    The interpreter has no bf16 arithmetic, so half is fp16 there.
    """
    model = built(layers=2).to(liger)
    dtype = torch.float32
    if half:
        dtype = torch.bfloat16 if liger.type == "cuda" else torch.float16
    for parameter in model.parameters():
        parameter.data = parameter.data.to(dtype)
    limit = 16 * torch.finfo(dtype).eps if half else 1e-5
    expected, plain = gradients(copy.deepcopy(model))
    fused.fuse(model)
    recompute(model, 0.5)
    assert "Liger" in repr(model.base_model.layers[0].mlp)
    states, found = gradients(model)
    assert found.keys() == plain.keys()
    for one, other in [(states, expected), *((found[n], plain[n]) for n in plain)]:
        assert (one.float() - other.float()).norm() <= limit * other.float().norm()
