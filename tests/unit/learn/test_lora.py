"""LoRA: trained, sent and saved as one merged model, kept as frozen weights and an adapter."""

import json
import sys

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from exprl import config
from exprl.cli import dry_run
from exprl.errors import ConfigError, DataError
from exprl.learn.batch import pack, rollout_examples
from exprl.learn.lora import Adapter
from exprl.learn.model import head
from exprl.learn.policy import Policy
from exprl.run import checkpoint
from exprl.run.checkpoint import RunState
from exprl.run.policy import check_base
from exprl.types import Rollout, Scored, Segment

CPU = torch.device("cpu")
RANK_4 = config.Lora(rank=4, alpha=8)
IDS = torch.tensor([[3, 1, 4, 1, 5, 9, 2, 6]])


def load(path, dtype=torch.float32):
    return AutoModelForCausalLM.from_pretrained(path, dtype=dtype)


def adapted(path, settings=RANK_4, dtype=torch.float32, seed=0):
    """A model and its adapter, which has learned something."""
    model = load(path, dtype)
    adapter = Adapter(model, settings, seed)
    generator = torch.Generator().manual_seed(1)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(std=0.1, generator=generator)
    return model, adapter


def factors(model):
    return {name: p for name, p in model.named_parameters() if "lora_" in name}


@torch.no_grad()
def logits(model):
    return model(IDS).logits


def test_a_new_adapter_changes_nothing(tiny_qwen3):
    model, plain = load(tiny_qwen3), load(tiny_qwen3)
    adapter = Adapter(model, RANK_4, seed=0)
    assert torch.equal(logits(model), logits(plain))
    merged, before = dict(adapter.weights(CPU)), plain.state_dict()
    assert merged.keys() == before.keys() >= {"lm_head.weight"}
    assert all(torch.equal(merged[name], before[name]) for name in before)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_forward_is_that_of_the_weights_that_the_engine_gets(tiny_qwen3, dtype):
    """To the last bit: a product that is added afterwards would be rounded another way."""
    model, adapter = adapted(tiny_qwen3, dtype=dtype)
    assert {p.dtype for p in factors(model).values()} == {torch.float32}
    engine = load(tiny_qwen3, dtype)
    assert not torch.equal(logits(model), logits(engine))
    engine.load_state_dict(dict(adapter.weights(CPU)))
    assert torch.equal(logits(model), logits(engine))


def test_the_adapter_off_is_the_frozen_model(tiny_qwen3):
    model, adapter = adapted(tiny_qwen3)
    with adapter.off():
        assert torch.equal(logits(model), logits(load(tiny_qwen3)))
    assert all(p.requires_grad for p in factors(model).values())


def test_only_the_adapter_learns_and_the_head_is_frozen(tiny_qwen3):
    model, _ = adapted(tiny_qwen3)
    learning = {name for name, p in model.named_parameters() if p.requires_grad}
    assert learning == factors(model).keys()
    assert not head(model).weight.requires_grad
    assert torch.equal(head(model).weight, load(tiny_qwen3).lm_head.weight)


def saved_with_biases(folder):
    shape = transformers.Qwen2Config(
        vocab_size=16, hidden_size=16, intermediate_size=16, num_hidden_layers=1,
        num_attention_heads=2, num_key_value_heads=1,
    )  # fmt: skip
    torch.manual_seed(0)
    model = transformers.Qwen2ForCausalLM(shape)
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            parameter.data.normal_()
    model.save_pretrained(folder)
    return str(folder)


def test_gradients_are_those_of_the_sum_written_out(tmp_path):
    """dA, dB and the gradient of the input, against autograd through W + scale B A."""
    model, _ = adapted(saved_with_biases(tmp_path))
    plain = load(tmp_path)
    written = {name: p.detach().clone().requires_grad_(True) for name, p in factors(model).items()}
    weights = dict(plain.state_dict())
    for name, a in written.items():
        if "lora_A" in name:
            layer = name.split(".lora_A")[0]
            b = written[name.replace("lora_A", "lora_B")]
            weights[f"{layer}.weight"] = weights[f"{layer}.weight"] + 2.0 * b @ a
    expected = torch.func.functional_call(plain, weights, (IDS,)).logits.log_softmax(-1)
    found = model(IDS).logits.log_softmax(-1)
    expected[..., 3].sum().backward(), found[..., 3].sum().backward()
    for name, parameter in factors(model).items():
        torch.testing.assert_close(parameter.grad, written[name].grad, rtol=1e-4, atol=1e-5)


def test_a_seed_gives_the_same_start_and_leaves_torch_s_own_generator_alone(tiny_qwen3):
    torch.manual_seed(7)
    state = torch.get_rng_state()
    one, same, other = (load(tiny_qwen3) for _ in range(3))
    Adapter(one, RANK_4, seed=0), Adapter(same, RANK_4, seed=0), Adapter(other, RANK_4, seed=1)
    assert torch.equal(torch.get_rng_state(), state)
    pairs = [(p, factors(same)[n], factors(other)[n]) for n, p in factors(one).items()]
    assert all(torch.equal(a, b) for a, b, _ in pairs)
    assert any(not torch.equal(a, c) for a, _, c in pairs)


def test_peft_opens_the_saved_adapter_on_the_base_model(tiny_qwen3, tmp_path):
    from peft import PeftModel

    model, adapter = adapted(tiny_qwen3)
    adapter.save(tmp_path)
    opened = PeftModel.from_pretrained(load(tiny_qwen3), tmp_path)
    torch.testing.assert_close(logits(opened), logits(model), rtol=0, atol=1e-5)
    written = json.loads((tmp_path / "adapter_config.json").read_text())
    assert written["base_model_name_or_path"] == tiny_qwen3
    assert written["target_modules"] == sorted(written["target_modules"])


def test_a_loaded_adapter_is_the_saved_one_to_the_last_bit(tiny_qwen3, tmp_path):
    model, adapter = adapted(tiny_qwen3, dtype=torch.bfloat16)
    adapter.save(tmp_path)
    fresh = load(tiny_qwen3, torch.bfloat16)
    Adapter(fresh, RANK_4, seed=5).load(tmp_path)
    assert all(torch.equal(p, factors(fresh)[name]) for name, p in factors(model).items())


def test_an_adapter_of_another_rank_or_none_at_all_is_refused(tiny_qwen3, tmp_path):
    _, adapter = adapted(tiny_qwen3)
    with pytest.raises(DataError, match=r"adapter_model\.safetensors cannot be read"):
        adapter.load(tmp_path)
    adapter.save(tmp_path)
    with pytest.raises(DataError, match="another rank"):
        adapted(tiny_qwen3, config.Lora(rank=2))[1].load(tmp_path)


def test_named_targets_alone_are_adapted(tiny_qwen3):
    model, _ = adapted(tiny_qwen3, config.Lora(rank=4, targets=("q_proj", "layers.1.mlp.up_proj")))
    layers = {name.split(".lora_")[0].removeprefix("model.") for name in factors(model)}
    assert layers == {
        "layers.0.self_attn.q_proj",
        "layers.1.self_attn.q_proj",
        "layers.1.mlp.up_proj",
    }


@pytest.mark.parametrize("target", ["qproj", "lm_head", "embed_tokens", "proj"])
def test_a_target_that_cannot_be_adapted_is_refused_by_name(tiny_qwen3, target):
    with pytest.raises(ConfigError, match=rf"lora\.targets names '{target}'.* q_proj, k_proj"):
        Adapter(load(tiny_qwen3), config.Lora(rank=4, targets=("q_proj", target)), seed=0)


def test_a_model_whose_layers_are_no_linear_ones_is_refused():
    shape = transformers.GPT2Config(vocab_size=16, n_positions=8, n_embd=8, n_layer=1, n_head=2)
    with pytest.raises(ConfigError, match="a Conv1D; only torch's Linear layers"):
        Adapter(transformers.GPT2LMHeadModel(shape), RANK_4, seed=0)


def test_a_missing_peft_is_a_config_error_with_the_remedy(tiny_qwen3, monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ConfigError, match=r"lora\.rank = 4 needs peft .* extra `lora`"):
        Adapter(load(tiny_qwen3), RANK_4, seed=0)


def test_the_fingerprint_tells_the_frozen_weights_apart(tiny_qwen3, tmp_path):
    plain = load(tiny_qwen3)
    print_of = Adapter(load(tiny_qwen3), RANK_4, seed=0).fingerprint()
    assert adapted(tiny_qwen3, seed=3)[1].fingerprint() == print_of
    plain.model.layers[1].mlp.up_proj.weight.data[0, 0] += 1e-3
    plain.save_pretrained(tmp_path)
    assert Adapter(load(tmp_path), RANK_4, seed=0).fingerprint() != print_of


def test_layers_without_values_are_counted_like_real_ones(tiny_qwen3):
    """The dry run asks a model on the meta device how many parameters will learn."""
    with torch.device("meta"):
        empty = AutoModelForCausalLM.from_config(
            transformers.AutoConfig.from_pretrained(tiny_qwen3)
        )
    Adapter(empty, RANK_4, seed=0)
    assert all(p.is_meta for p in empty.parameters())
    model, _ = adapted(tiny_qwen3)
    assert [p.shape for p in factors(empty).values()] == [p.shape for p in factors(model).values()]


def learner(path, *, weights=None, lora=RANK_4, optim=None, needs_initial=True, **model):
    return Policy(
        config.Model(path=path, **{"dtype": "float32", **model}),
        optim or config.Optim(lr=1e-2),
        lora,
        temperature=0.7,
        needs_initial=needs_initial,
        weights=weights,
    )


def mini_batches():
    """One optimizer step on rollouts, whose teacher prompts serve self-distillation."""
    rng = np.random.default_rng(0)
    items = [
        Scored(
            Rollout(
                "p", i, rng.integers(0, 16, 4).astype(np.int32),
                rng.integers(0, 16, 9).astype(np.int32), np.full(9, -2.0, np.float32), "stop",
                np.zeros(9, np.int32),
            ),
            (Segment(0, 2, "a"), Segment(2, 9, "b")), (5, 1), (1.0, 0.0), None,
        )
        for i in range(4)
    ]  # fmt: skip
    prompts = {"p": np.arange(6, dtype=np.int32)}
    return pack(
        rollout_examples(items, [np.array([1.0, -1.0])] * len(items), prompts),
        mini_batches=1,
        micro_batch_tokens=1000,
        aggregation="token_mean",
        max_response_tokens=12,
    )


KL = config.Loss(kl_coef=0.01)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_initial_policy_is_the_adapter_off_and_no_second_model(tiny_qwen3, dtype):
    one, whole = (learner(tiny_qwen3, dtype=dtype, lora=lora) for lora in (RANK_4, config.Lora()))
    [[batch]] = mini_batches()
    for _ in range(3):
        [updated] = one.step(mini_batches(), KL)
    assert updated.loss.kl > 0 and not updated.skipped
    assert one.initial is None and whole.initial is not None
    assert torch.equal(one.initial_logp(batch), whole.initial_logp(batch))
    assert not torch.equal(one.logp(batch), one.initial_logp(batch))


@pytest.mark.parametrize("gradient_checkpointing", [False, True])
def test_the_first_layer_s_adapter_learns(tiny_qwen3, gradient_checkpointing):
    """Below it nothing has a gradient, where a recomputed layer may lose its own."""
    one = learner(tiny_qwen3, gradient_checkpointing=gradient_checkpointing)
    before = {name: p.detach().clone() for name, p in factors(one.model).items()}
    one.step(mini_batches(), KL)
    moved = {name for name, p in factors(one.model).items() if not torch.equal(p, before[name])}
    # A has no gradient while B is 0.
    assert moved == {name for name in before if "lora_B" in name}
    one.step(mini_batches(), KL)
    assert all(not torch.equal(p, before[name]) for name, p in factors(one.model).items())


def test_only_factors_are_stepped_and_the_frozen_weights_stay(tiny_qwen3):
    one = learner(tiny_qwen3, optim=config.Optim(lr=1e-2, weight_decay=0.1), dtype="bfloat16")
    base = one.base()
    for _ in range(2):
        one.step(mini_batches(), KL)
    assert one.base() == base
    assert one.masters.named.keys() == factors(one.model).keys()
    assert all(one.masters.named[name] is p for name, p in factors(one.model).items())
    frozen = [p for p in one.model.parameters() if not p.requires_grad]
    assert {p.dtype for p in frozen} == {torch.bfloat16} and {p.grad for p in frozen} == {None}


@pytest.mark.parametrize("objective", ["cross_entropy", "reverse_kl", "sampled_reverse_kl"])
def test_the_baselines_learn_with_an_adapter_too(tiny_qwen3, objective):
    one = learner(tiny_qwen3, optim=config.Optim(lr=1e-2, max_grad_norm=1e9))
    loss = config.Loss(objective=objective, kl_coef=0.0)
    updates = [one.step(mini_batches(), loss)[0] for _ in range(6)]
    assert not any(update.skipped for update in updates)
    if objective != "sampled_reverse_kl":  # whose surrogate has no lower bound to fall to
        assert updates[-1].loss.loss < updates[0].loss.loss


class NoTokenizer:
    def save_pretrained(self, folder):
        """Nothing is read back here."""


def test_a_checkpoint_holds_the_merged_model_and_the_adapter_apart(tiny_qwen3, tmp_path):
    from peft import PeftModel

    one = learner(tiny_qwen3, dtype="bfloat16")
    one.step(mini_batches(), KL), one.step(mini_batches(), KL)
    folder = checkpoint.save(tmp_path, RunState(step=1), one, NoTokenizer(), keep=1)
    assert [path.name for path in folder.glob("*.safetensors")] == ["model.safetensors"]
    merged = load(folder, torch.bfloat16)
    sent = dict(one.weights())
    assert all(torch.equal(value, sent[name]) for name, value in merged.state_dict().items())
    assert load_file(folder / "model.safetensors").keys() == sent.keys() - {"lm_head.weight"}
    opened = PeftModel.from_pretrained(load(tiny_qwen3), folder / "adapter")
    assert {n: p.shape for n, p in factors(opened).items()} == {
        f"base_model.model.{n}": p.shape for n, p in factors(one.model).items()
    }


@pytest.mark.parametrize(
    ("dtype", "kind", "rank"),
    [
        ("float32", "adamw", 4),
        ("bfloat16", "adamw", 4),
        ("bfloat16", "adamw8bit", 256),  # moments of fewer than 4,096 values stay fp32
    ],
)
def test_a_loaded_run_goes_on_from_base_and_adapter_as_if_it_had_not_stopped(
    tiny_qwen3, tmp_path, dtype, kind, rank
):
    settings = {
        "dtype": dtype,
        "lora": config.Lora(rank=rank),
        "optim": config.Optim(lr=1e-2, kind=kind),
    }
    through = learner(tiny_qwen3, **settings)
    through.step(mini_batches(), KL), through.step(mini_batches(), KL)
    state = RunState(step=1, policy_version=2, base=through.base())
    folder = checkpoint.save(tmp_path, state, through, NoTokenizer(), keep=1)
    assert checkpoint.load_state(folder).base == through.base()

    resumed = learner(tiny_qwen3, weights=str(folder), **settings)
    resumed.load_optimizer(folder / checkpoint.TRAINER, 2)
    assert resumed.base() == through.base()
    [one], [other] = through.step(mini_batches(), KL), resumed.step(mini_batches(), KL)
    assert repr(one) == repr(other)  # a share that is NaN is none that differs
    after = factors(resumed.model)
    assert all(torch.equal(p, after[name]) for name, p in factors(through.model).items())
    moments = load_file(folder / checkpoint.TRAINER / "optimizer.safetensors")
    assert any("codes" in name for name in moments) == (kind == "adamw8bit")


def test_an_adapter_does_not_go_on_upon_other_weights(tiny_qwen3, tmp_path):
    base = tmp_path / "base"
    load(tiny_qwen3).save_pretrained(base)
    one = learner(str(base))
    state = RunState(step=1, base=one.base())
    folder = checkpoint.save(tmp_path / "run", state, one, NoTokenizer(), keep=1)
    other = load(base)
    other.model.layers[0].mlp.up_proj.weight.data.add_(1e-4)
    other.save_pretrained(base)
    with pytest.raises(
        ConfigError, match=r"step-00001: .* other weights than those of model\.path"
    ):
        check_base(state, learner(str(base), weights=str(folder)), folder, str(base))


def test_the_dry_run_counts_what_learns_and_tries_the_targets(repo, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(repo)
    # The engine that is everywhere: this test runs on machines without vLLM too.
    overrides = [f"run_dir={tmp_path / 'run'}", "rollout.engine=transformers"]
    cfg = config.load("configs/division_lora.toml", overrides)
    assert dry_run.report(cfg) == 0
    assert "78,336 parameters learn, beside 279,648 frozen ones" in capsys.readouterr().out
    cfg = config.load("configs/division_lora.toml", [*overrides, 'lora.targets=["query"]'])
    with pytest.raises(ConfigError, match=r"lora\.targets names 'query'"):
        dry_run.report(cfg)
