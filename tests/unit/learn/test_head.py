"""The head of each model family: the loss's log-probs are those of the model's own logits."""

import numpy as np
import pytest
import torch
import transformers

from exprl import config
from exprl.errors import ConfigError
from exprl.learn import attention
from exprl.learn.model import head
from exprl.learn.policy import Policy

SMALL = {
    "vocab_size": 32,
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


def saved(folder, kind, **settings):
    """A random model with logits of several nats."""
    torch.manual_seed(0)
    model = getattr(transformers, f"{kind}ForCausalLM")(
        getattr(transformers, f"{kind}Config")(**SMALL, **settings)
    )
    with torch.no_grad():
        layer = model.get_output_embeddings()
        layer.weight.normal_()
        if getattr(layer, "bias", None) is not None:
            layer.bias.normal_()
    model.save_pretrained(folder)
    return str(folder)


def load(path):
    return Policy(
        config.Model(path=path, dtype="float32"),
        config.Optim(),
        temperature=0.7,
        needs_initial=False,
    )


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("Gemma2", {"head_dim": 8, "final_logit_softcapping": 2.0}),
        ("Cohere", {"logit_scale": 0.25}),
        ("Granite", {"logits_scaling": 4.0}),
        ("Qwen3", {"head_dim": 8, "tie_word_embeddings": True}),
        ("Llama", {"tie_word_embeddings": False}),
    ],
)
def test_log_probs_are_those_of_the_model_s_own_logits(tmp_path, kind, settings):
    policy = load(saved(tmp_path, kind, **settings))
    ids = torch.tensor([[5, 9, 2, 30, 7, 11]])
    whole = np.array([0, 6], np.int32)
    inputs = attention.packing(whole, torch.from_numpy(whole))
    with torch.no_grad():
        logits = policy.model(input_ids=ids, position_ids=torch.arange(6)[None], **inputs).logits
        hidden = policy.model.base_model(
            input_ids=ids, position_ids=torch.arange(6)[None], **inputs
        ).last_hidden_state
        found = head(policy.model).logp(hidden[0, :-1], ids[0, 1:], 0.7).logp
    expected = (logits[0, :-1] / 0.7).log_softmax(-1).gather(1, ids[0, 1:, None])[:, 0]
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("kind", "settings"),
    [("Phi", {}), ("HyperCLOVAX", {"head_dim": 8, "logits_scaling": 4.0})],
)
def test_a_head_that_does_more_is_refused_by_name(tmp_path, kind, settings):
    path = saved(tmp_path, kind, **settings)
    with pytest.raises(ConfigError, match=rf"{kind}ForCausalLM does more to its logits"):
        load(path)
