"""What a run will need: counted without weights, and as a CPU process is seen to need it."""

import importlib.util
import sys

import numpy as np
import pytest
import torch
from transformers import Gemma2Config, LlamaConfig, Qwen3Config, Qwen3ForCausalLM, Qwen3MoeConfig

from exprl.errors import ConfigError
from exprl.learn import attention, memory
from exprl.learn.memory import GIB, Setup, Shapes, activations, fit, predict, prediction

BF16 = torch.bfloat16


def qwen3(hidden, intermediate, layers, heads, kv_heads, vocab, head_dim=128):
    return Qwen3Config(
        vocab_size=vocab,
        hidden_size=hidden,
        intermediate_size=intermediate,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        head_dim=head_dim,
        tie_word_embeddings=True,
    )


SMALL = qwen3(64, 192, 3, 4, 2, 512, head_dim=16)
QWEN3_4B = qwen3(2560, 9728, 36, 32, 8, 151936)


@pytest.fixture(scope="module")
def shapes_4b():
    return Shapes.of(QWEN3_4B)


@pytest.fixture(scope="module")
def small():
    return Shapes.of(SMALL)


def recipe(**changes):
    """Full RL at 16k tokens with the KL, on a card of its own that the engine shares in turn."""
    settings = {
        "gpu": True,
        "micro_batch_tokens": 16384,
        "recomputed": 1.0,
        "fused": True,
        "needs_initial": True,
        "offload": True,
        "engine": "vllm",
        "engine_share": 0.85,
    }
    return Setup(**settings | changes)


def parts(setup, shapes, phase):
    return predict(shapes, setup).phases[phase]


def kept_by_autograd(config, tokens):
    """Bytes of the storages that the body's graph holds, of a real forward."""
    attention.register()
    model = Qwen3ForCausalLM._from_config(config, attn_implementation=attention.PACKED).train()
    own = {p.untyped_storage().data_ptr() for p in (*model.parameters(), *model.buffers())}
    held = {}

    def pack(tensor):
        held[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    row = torch.zeros(1, tokens, dtype=torch.int64)
    begins = np.array([0, tokens], np.int32)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        hidden = model.base_model(
            input_ids=row,
            position_ids=row,
            use_cache=False,
            **attention.packing(begins, torch.from_numpy(begins)),
        ).last_hidden_state
    del hidden
    return sum(t.untyped_storage().nbytes() for at, t in held.items() if at not in own)


def test_activations_are_what_autograd_keeps_of_a_real_forward():
    tokens = 256
    counted = activations.measure(SMALL, tokens, torch.float32, gpu=False, fused=False)
    layers = SMALL.num_hidden_layers
    assert counted.outside + layers * counted.layer == pytest.approx(
        kept_by_autograd(SMALL, tokens), rel=0.03
    )


def test_fused_layers_keep_what_the_kernels_keep():
    h, f, q, kv = 2560, 9728, 32 * 128, 8 * 128
    counted = activations.measure(QWEN3_4B, 4096, BF16, gpu=True, fused=True)
    # In and out of both norms; q, k before and after their norms, v, attention's output; and of the
    # gated MLP gate, up and their product. Half a KiB more are the norms' and attention's numbers.
    per_token = 2 * (4 * h + 2 * (q + kv) + kv + q + 3 * f)
    assert counted.layer == pytest.approx(4096 * per_token, rel=0.01)
    plain = activations.measure(QWEN3_4B, 4096, BF16, gpu=True, fused=False)
    assert plain.layer > 1.4 * counted.layer
    assert counted.layer_input == plain.layer_input == 4096 * 2 * h


@pytest.mark.parametrize(
    "config",
    [
        LlamaConfig(hidden_size=64, intermediate_size=128, num_attention_heads=4),
        Gemma2Config(hidden_size=64, intermediate_size=128, num_attention_heads=4, head_dim=16),
    ],
    ids=lambda config: config.model_type,
)
def test_other_families_are_counted_too(config):
    counted = activations.measure(config, 128, BF16, gpu=True, fused=True)
    assert 0 < counted.layer_input < counted.layer
    assert counted.recompute > 0.9 * counted.layer


def test_what_cannot_be_counted_is_guessed_and_said(small, monkeypatch):
    def fails(*_, **__):
        raise RuntimeError("needs values")

    monkeypatch.setattr(prediction, "_measured", fails)
    (guess,) = predict(small, recipe()).guesses
    assert "guessed" in guess and "needs values" in guess


def test_a_guess_counts_the_experts_that_a_token_visits():
    def guess(visited):
        config = Qwen3MoeConfig(
            hidden_size=64,
            moe_intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_experts=16,
            num_experts_per_tok=visited,
            vocab_size=512,
        )
        return prediction._guessed(Shapes.of(config), recipe()).layer

    assert guess(1) < guess(8)


def test_a_guess_is_good_to_a_factor_of_two(shapes_4b):
    for fused in (False, True):
        setup = recipe(fused=fused, recomputed=0.0)
        exact, quick = (predict(shapes_4b, setup, quick=q).peak for q in (False, True))
        assert 0.5 < quick / exact < 2


def test_moments_in_8_bits_are_as_large_as_torchao_makes_them():
    from torchao.optim import AdamW8bit

    tensors = [torch.zeros(n) for n in (255, 4096, 4097, 65536, 8192 * 3)]
    optimizer = AdamW8bit([torch.nn.Parameter(tensor) for tensor in tensors])
    real = 0
    for tensor in tensors:
        for signed in (True, False):
            state = optimizer._new_buffer(tensor, signed)
            names = getattr(state, "tensor_attrs", None)
            held = [getattr(state, name) for name in names] if names else [state]
            real += sum(each.numel() * each.element_size() for each in held)
    sizes = [tensor.numel() for tensor in tensors]
    assert memory.optimizer_bytes(sizes, "adamw8bit") == real
    assert memory.optimizer_bytes(sizes, "adamw") == 8 * sum(sizes)


def test_bf16_weights_have_fp32_masters_and_fp32_weights_none(small):
    n = small.total
    narrow = parts(recipe(), small, "optimizer step")
    wide = parts(recipe(dtype="float32"), small, "optimizer step")
    assert (narrow["weights"], narrow["fp32 masters"]) == (2 * n, 4 * n)
    assert (wide["weights"], wide["fp32 masters"]) == (4 * n, 0)
    assert narrow["gradients"] == wide["gradients"] == 4 * n


def test_an_adapter_learns_alone_and_is_its_own_initial_policy(small):
    setup = recipe(lora_rank=8)
    learned = 8 * sum(inputs + outputs for inputs, outputs in small.linears.values())
    step = parts(setup, small, "optimizer step")
    assert step["gradients"] == 4 * learned
    assert step["moments"] == 8 * learned
    assert step["weights"] == 2 * small.total + 4 * learned
    assert "initial policy" not in parts(setup, small, "initial log-probs")
    some = recipe(lora_rank=8, lora_targets=("q_proj", "v_proj"))
    h, q, v = 64, 4 * 16, 2 * 16
    assert parts(some, small, "optimizer step")["gradients"] == 4 * 8 * 3 * (2 * h + q + v)
    path = recipe(lora_rank=8, lora_targets=("self_attn.q_proj", "v_proj"))
    assert parts(path, small, "optimizer step") == parts(some, small, "optimizer step")


def test_an_offloaded_initial_policy_is_there_for_its_own_forwards_only(small):
    def phases(**changes):
        found = predict(small, recipe(**changes)).phases
        return {phase for phase, alive in found.items() if "initial policy" in alive}

    assert phases() == {"initial log-probs"}
    assert {"loss", "backward", "optimizer step"} <= phases(offload_initial=False)
    assert phases(needs_initial=False) == set()
    assert predict(small, recipe()).host >= 2 * small.total


def test_recomputed_layers_keep_their_input_only(shapes_4b):
    all_kept, half, none_kept = (
        parts(recipe(recomputed=share), shapes_4b, "loss")["activations"] for share in (0, 0.5, 1)
    )
    assert none_kept < half < all_kept
    assert half == pytest.approx((all_kept + none_kept) / 2, rel=0.01)


def test_qwen3_4b_fits_80_gb_with_8_bit_moments_and_far_less_with_an_adapter(shapes_4b):
    assert predict(shapes_4b, recipe(optimizer="adamw8bit"), 80 * 10**9).peak <= 74 * GIB
    # The engine's share is no need of the trainer.
    adapter = recipe(lora_rank=32, engine=None)
    assert predict(shapes_4b, adapter, 80 * 10**9).peak <= 45 * GIB


def test_ranks_share_weights_moments_and_gradients(shapes_4b):
    alone, eight = (recipe(engine=None, offload=False, ranks=ranks) for ranks in (1, 8))
    kept, shared = (parts(setup, shapes_4b, "backward") for setup in (alone, eight))
    for part in ("moments", "gradients"):
        assert shared[part] == pytest.approx(kept[part] / 8, rel=1e-6)
    masters = kept["fp32 masters"]
    assert shared["weights"] + shared["fp32 masters"] == pytest.approx(masters / 8, rel=1e-6)
    assert shared["activations"] == kept["activations"]
    # The embedding, which is the head, and two of 36 layers, in bf16.
    assert shared["gathered weights"] == pytest.approx(2 * (389e6 + 2 / 36 * 3.63e9), rel=0.01)


def test_eight_ranks_train_8b_where_one_process_cannot():
    shapes = Shapes.of(qwen3(4096, 12288, 36, 32, 8, 151936))
    setup = recipe(engine=None, offload=False)
    assert predict(shapes, setup, 80 * 10**9).peak > 120 * GIB
    shared = recipe(engine=None, offload=False, ranks=8)
    assert predict(shapes, shared, 80 * 10**9).peak < 60 * GIB


def test_every_rank_has_a_whole_adapter(shapes_4b):
    adapter = {"engine": None, "offload": False, "lora_rank": 32}
    alone, eight = (recipe(ranks=ranks, **adapter) for ranks in (1, 8))
    kept, shared = (parts(setup, shapes_4b, "backward") for setup in (alone, eight))
    assert shared["moments"] == kept["moments"]
    assert shared["gradients"] == kept["gradients"]
    assert shared["weights"] < kept["weights"] / 5


def test_what_fits_is_not_warned_of(small):
    where = fit.Machine("card", 80 * 10**9)
    assert fit.check(small, recipe(), where, ignore=False) is None


def test_what_does_not_fit_is_refused_with_the_cheapest_remedy(shapes_4b):
    where = fit.Machine("H100", 60 * GIB)
    with pytest.raises(ConfigError) as refused:
        fit.check(shapes_4b, recipe(), where, ignore=False)
    text = str(refused.value)
    assert "H100 has 60.0 GiB" in text
    assert "train.ignore_memory = true" in text
    assert "adamw8bit" in text  # smaller micro-batches alone do not help
    warning = fit.check(shapes_4b, recipe(), where, ignore=True)
    assert warning
    assert "adamw8bit" in warning


def test_what_is_close_to_the_limit_is_warned_of(shapes_4b):
    setup = recipe()
    need = predict(shapes_4b, setup, 0).peak
    where = fit.Machine("card", int(need / 0.91))
    warning = fit.check(shapes_4b, setup, where, ignore=False)
    assert warning
    assert "optim.micro_batch_tokens" in warning


def test_micro_batches_do_not_shrink_below_the_longest_rollout(shapes_4b):
    setup = recipe(recomputed=0.0, longest=16384)
    name, _ = fit.cheapest(shapes_4b, setup, 120 * GIB)
    assert name == "model.gradient_checkpointing = true"


def test_a_model_that_no_setting_makes_small_enough_is_told_of(shapes_4b):
    with pytest.raises(ConfigError, match="no setting is enough"):
        fit.check(shapes_4b, recipe(), fit.Machine("card", 8 * GIB), ignore=False)


def test_the_host_of_a_container_has_what_the_container_may_use(tmp_path):
    limit = tmp_path / "memory.max"
    limit.write_text("1073741824\n")
    assert fit.host_bytes(limit) == GIB
    limit.write_text("max\n")
    assert fit.host_bytes(limit) == fit.host_bytes(tmp_path / "none") > GIB


def test_a_step_on_the_cpu_needs_what_was_predicted(repo):
    bench = repo / "bench" / "memory.py"
    spec = importlib.util.spec_from_file_location("bench_memory", bench)
    module = importlib.util.module_from_spec(spec)
    sys.modules["bench_memory"] = module
    sys.path.insert(0, str(bench.parent))
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(bench.parent))
    measured = module.in_own_process(module.SMALL)
    assert module.predicted(module.SMALL) == pytest.approx(measured, rel=module.BAR)
