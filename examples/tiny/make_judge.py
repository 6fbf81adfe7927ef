r"""Makes a judge model whose answer is known in advance, for tests of a real engine.

    python examples/tiny/make_judge.py FOLDER

A Qwen3 with attention and MLP silenced: each next token depends on the last one alone, so the
weights can be written down. Asked anything, it replies `Score: n` with n drawn from `GRADES`; made
to go on after `Score:` and held to a digit, it prefers `REPAIRED`. It judges nothing: it proves
that chat template, streaming, log-probs, guided decoding and prefix cache of a server are read
rightly.
"""

import itertools
import sys
from pathlib import Path

from make_model import byte_level_tokenizer

# Probabilities of the grades 1..5 after `Score: `.
GRADES = (0.05, 0.05, 0.1, 0.6, 0.2)
# Sampled greedily where only the digits 1..5 are allowed after `Score:`.
REPAIRED = 2
REPLY = "Score: "
# A logit so far above all others that their probability is 1e-13 together.
SURE = 36.0


def main(folder: Path, context: int = 8192) -> None:
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM

    tokenizer = byte_level_tokenizer()
    # One dimension for each token, so that the head is the table of the bigrams' logits.
    width = -len(tokenizer) // 8 * -8
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=32,
        max_position_embeddings=context,
        tie_word_embeddings=False,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    torch.manual_seed(0)
    model = Qwen3ForCausalLM(config)
    layer = model.model.layers[0]
    with torch.no_grad():
        layer.self_attn.o_proj.weight.zero_()
        layer.mlp.down_proj.weight.zero_()
        # Of the norm's own length, so that normalizing changes nothing.
        scale = width**0.5
        model.model.embed_tokens.weight.copy_(scale * torch.eye(len(tokenizer), width))
        model.lm_head.weight.copy_(bigram_logits(tokenizer, width) / scale)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def bigram_logits(tokenizer, width: int):
    """[V, width]: the logit of each next token, by the last one."""
    import torch

    def token(text: str) -> int:
        return tokenizer(text, add_special_tokens=False).input_ids[0]

    logits = torch.zeros(len(tokenizer), width)
    chain = [token("<|assistant|>"), *(token(letter) for letter in REPLY)]
    for last, following in itertools.pairwise(chain):
        logits[following, last] = SURE
    for grade, probability in enumerate(GRADES, 1):
        digit = token(str(grade))
        logits[digit, chain[-1]] = SURE + torch.log(torch.tensor(probability))
        logits[tokenizer.eos_token_id, digit] = SURE
    logits[token(str(REPAIRED)), token(":")] = 1.0
    return logits


if __name__ == "__main__":
    main(Path(sys.argv[1]))
