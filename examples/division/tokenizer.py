r"""The division task's tokenizer: 24 symbols, one token each, no blanks between them.

`###` and `\boxed{` are single tokens. Text outside the vocabulary is an error, not an unknown
token.
"""

from __future__ import annotations

from division import DELIMITER, HINT
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

PAD, BOS, EOS = "<pad>", "<bos>", "<eos>"
BOX = r"\boxed{"
SYMBOLS = [PAD, BOS, EOS, *"0123456789", *"/=r*+).", DELIMITER, BOX, "}", HINT]
# One user message is bos and its content; an assistant turn adds its content and eos.
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{{ message['content'] }}"
    "{% if message['role'] == 'assistant' %}{{ eos_token }}{% endif %}{% endfor %}"
)


def build_tokenizer(max_length: int) -> PreTrainedTokenizerFast:
    """Build the tokenizer for sequences of at most `max_length` tokens."""
    vocabulary = {symbol: index for index, symbol in enumerate(SYMBOLS)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary))
    # Longest symbols first; a blank or any other character comes out alone and is refused.
    split = Regex(r"\\boxed\{|<hint>|###|[\s\S]")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(split, behavior="isolated")
    tokenizer.decoder = decoders.Fuse()
    tokenizer.add_special_tokens([AddedToken(s, special=True) for s in (PAD, BOS, EOS)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        bos_token=BOS,
        eos_token=EOS,
        chat_template=CHAT_TEMPLATE,
        model_max_length=max_length,
        clean_up_tokenization_spaces=False,
    )
