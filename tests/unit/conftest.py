"""A policy small enough for unit tests."""

import pytest
from hypothesis import settings

# A machine that is busy must not fail a property.
settings.register_profile("exprl", deadline=None)
settings.load_profile("exprl")


@pytest.fixture(scope="session")
def tiny_qwen3(tmp_path_factory):
    """Folder of an untrained Qwen3 with a vocabulary of 16."""
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("tiny")
    shape = Qwen3Config(
        vocab_size=16,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        tie_word_embeddings=True,
    )
    Qwen3ForCausalLM(shape).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="session")
def tokenizer():
    """One token per byte, and an end."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    one = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
    one.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    one.decoder = decoders.ByteLevel()
    one.add_special_tokens([AddedToken("<eos>")])
    return one
