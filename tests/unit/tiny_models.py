"""Folders of models that are as small as can be, with the oddities that real ones have.

A tokenizer here has one token per byte and the control tokens of CONTROL after them.
"""

import json

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors

CONTROL = ("<bot>", "<eot>", "<turn>", "</turn>", "<think>", "</think>")
NUMBER = {token: 256 + i for i, token in enumerate(CONTROL)}
TURNS = "{% for m in messages %}<turn>{{ m['role'] }}: {{ m['content'] | trim }}</turn>{% endfor %}"
REPLY = "{% if add_generation_prompt %}<turn>assistant: {% endif %}"
CHAT = TURNS + REPLY
NO_SYSTEM = (
    "{% if messages[0]['role'] == 'system' %}"
    "{{ raise_exception('this model has no system role') }}{% endif %}"
)
IN_TURNS = (
    "{% for m in messages %}{% if (loop.index0 % 2 == 0) != (m['role'] == 'user') %}"
    "{{ raise_exception('user and assistant take turns') }}{% endif %}{% endfor %}"
)


def opened(tag):
    """A template that opens a thinking block in the prompt."""
    return TURNS + "{% if add_generation_prompt %}<turn>assistant: " + tag + "{% endif %}"


def make(folder, template=CHAT, *, eos="<eot>", ends=None, bos=None, **shape):
    """Write a folder without weights.

    Args:
        eos, bos: of the tokenizer; None = it has none. With a bos its post-processor adds one.
        ends: eos_token_id of generation_config.json; None = there is no such file.
        shape: of the config, laid over a Qwen3 of 2 layers.
    """
    folder.mkdir(parents=True, exist_ok=True)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({c: i for i, c in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    plain = ("<think>", "</think>")
    tokenizer.add_tokens([AddedToken(t, special=t not in plain, normalized=False) for t in CONTROL])
    if bos:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", pair=f"{bos} $A $B", special_tokens=[(bos, NUMBER[bos])]
        )
    tokenizer.save(str(folder / "tokenizer.json"))
    names = {"eos_token": eos, "bos_token": bos, "pad_token": eos}
    settings = {"tokenizer_class": "PreTrainedTokenizerFast"}
    settings |= {name: token for name, token in names.items() if token}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    (folder / "chat_template.jinja").write_text(template)
    if ends is not None:
        (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": ends}))
    (folder / "config.json").write_text(json.dumps(qwen3(**shape)))
    return folder


def qwen3(**shape):
    """A config.json."""
    return {
        "architectures": ["Qwen3ForCausalLM"],
        "model_type": "qwen3",
        "vocab_size": 256 + len(CONTROL),
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 8,
        "max_position_embeddings": 512,
        "tie_word_embeddings": True,
        "dtype": "float32",
        **shape,
    }


def make_weights(folder, template=CHAT, *, eos="<eot>", ends=None, bos=None, **shape):
    """Write a folder with weights."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    make(folder, template, eos=eos, ends=ends, bos=bos, **shape)
    torch.manual_seed(0)
    generation = folder / "generation_config.json"
    kept = generation.read_text() if generation.exists() else None
    AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder)).save_pretrained(folder)
    generation.unlink(missing_ok=True)
    if kept is not None:
        generation.write_text(kept)
    return folder
