"""Segments of a rollout, over real tokenizers of every kind that language models use."""

import json
import re
from collections.abc import Callable
from functools import cache
from itertools import accumulate
from typing import get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from exprl.steps import Splitter, StepRule, split_text
from exprl.types import Segment

CORPUS = [
    "### Step 1\nAdd 3 to both sides, so x + 3 = 7.\n\n#### Step 2\nSubtract: x = 4.###",
    "First, naïve approaches fail. ### Then 12 * 12 = 144. ###",
    "The answer is \\boxed{144}. こんにちは 世界 🙂",
] * 4


@cache
def byte_level_bpe() -> Tokenizer:
    """Qwen, Llama 3, GPT."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<eos>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.add_tokens(["<think>"])
    return tokenizer


def with_byte_fallback(tokenizer: Tokenizer) -> Tokenizer:
    """Turn the trained `<0xHH>` entries from special tokens into what characters fall back to."""
    tree = json.loads(tokenizer.to_str())
    tree["added_tokens"] = [t for t in tree["added_tokens"] if not t["content"].startswith("<0x")]
    tree["model"]["byte_fallback"] = True
    return Tokenizer.from_str(json.dumps(tree))


BYTE_TOKENS = [f"<0x{byte:02X}>" for byte in range(256)]


@cache
def sentencepiece_bpe() -> Tokenizer:
    """Llama 2, Mistral."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=450, special_tokens=["<unk>", "<eos>", *BYTE_TOKENS], show_progress=False
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    return with_byte_fallback(tokenizer)


@cache
def sentencepiece_unigram() -> Tokenizer:
    """Gemma's decoder over T5's kind of model."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    trainer = trainers.UnigramTrainer(
        vocab_size=400,
        unk_token="<unk>",
        special_tokens=["<unk>", "<eos>", *BYTE_TOKENS],
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    return with_byte_fallback(tokenizer)


@cache
def metaspace_unigram() -> Tokenizer:
    """T5, XLM-R: no bytes to fall back to."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=120, unk_token="<unk>", special_tokens=["<unk>", "<eos>"], show_progress=False
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    return tokenizer


@cache
def word_level() -> Tokenizer:
    """No decoder: words joined with a space."""
    tokenizer = Tokenizer(models.WordLevel(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    trainer = trainers.WordLevelTrainer(special_tokens=["<unk>", "<eos>"], show_progress=False)
    tokenizer.train_from_iterator(CORPUS, trainer)
    return tokenizer


@cache
def fused_word_level() -> Tokenizer:
    """The miniature's kind: every token is its text."""
    tokenizer = Tokenizer.from_str(word_level().to_str())
    tokenizer.decoder = decoders.Fuse()
    return tokenizer


@cache
def word_piece() -> Tokenizer:
    tokenizer = Tokenizer(models.WordPiece(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    trainer = trainers.WordPieceTrainer(
        vocab_size=200, special_tokens=["<unk>", "<eos>"], show_progress=False
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.add_tokens(["###"])
    return tokenizer


@cache
def end_of_word_bpe() -> Tokenizer:
    """A decoder without a fast path of its own."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", end_of_word_suffix="</w>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.decoder = decoders.BPEDecoder()
    trainer = trainers.BpeTrainer(
        vocab_size=200,
        special_tokens=["<unk>", "<eos>"],
        end_of_word_suffix="</w>",
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    return tokenizer


KINDS = [
    byte_level_bpe,
    sentencepiece_bpe,
    sentencepiece_unigram,
    metaspace_unigram,
    word_level,
    fused_word_level,
    word_piece,
    end_of_word_bpe,
]
every_kind = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
Kind = Callable[[], Tokenizer]


RULES: tuple[StepRule, ...] = get_args(StepRule)


@cache
def splitter_of(kind: Kind, rule: StepRule = "delimiter") -> Splitter:
    return Splitter(kind().to_str(), rule)


def texts() -> st.SearchStrategy[str]:
    """Any characters, with delimiters and near-delimiters far more often than by chance."""
    marks = ["###", "####", "##", "#", "\n", "\n\n", "\n### ", " ", "```\n", "$$", "\\["]
    pieces = st.sampled_from([*marks, ".", "Step 1", "世", "🙂"])
    return st.lists(pieces | st.text(max_size=8), max_size=12).map("".join)


def assert_segments_are_the_rollout(kind: Kind, rule: StepRule, ids: list[int]) -> None:
    segments = splitter_of(kind, rule).split(ids)
    bounds = [0, *(segment.end for segment in segments)]
    assert [segment.start for segment in segments] == bounds[:-1]
    assert bounds[-1] == len(ids)
    assert all(segment.start < segment.end for segment in segments)
    decoded = kind().decode(ids, skip_special_tokens=True) if ids else ""
    assert "".join(segment.text for segment in segments) == decoded
    assert len(segments) <= max(1, len(split_text(decoded, rule)))
    assert len(segments) == 1 or all(segment.text.strip() for segment in segments)
    # Each cut of the tokens is one of the text, or lies behind it in the token that holds both.
    ends = set(accumulate(len(step) for step in split_text(decoded, rule)))
    longest = max((len(kind().decode([token])) for token in ids), default=0) + 1
    for end in accumulate(len(segment.text) for segment in segments):
        assert ends & set(range(end - longest, end + 1)) or not segments[-1].text


@every_kind
@given(text=texts(), rule=st.sampled_from(RULES))
def test_segments_tile_the_tokens_of_any_text_and_join_to_its_decoding(
    kind: Kind, text: str, rule: StepRule
) -> None:
    tokenizer = kind()
    eos = tokenizer.token_to_id("<eos>")
    assert_segments_are_the_rollout(kind, rule, [*tokenizer.encode(text).ids, eos])


@every_kind
@given(data=st.data(), rule=st.sampled_from(RULES))
def test_segments_tile_any_ids_that_a_policy_may_sample(
    kind: Kind, data: st.DataObject, rule: StepRule
) -> None:
    ids = st.integers(0, kind().get_vocab_size() - 1)
    assert_segments_are_the_rollout(kind, rule, data.draw(st.lists(ids, max_size=30)))


@every_kind
@given(data=st.data(), rule=st.sampled_from(RULES), opening=st.sampled_from(["", "<think>\n"]))
def test_a_rule_of_your_own_that_cuts_as_a_built_in_one_gives_the_same_segments(
    kind: Kind, data: st.DataObject, rule: StepRule, opening: str
) -> None:
    own = Splitter(kind().to_str(), lambda text: split_text(text, rule))
    drawn = data.draw(st.lists(st.integers(0, kind().get_vocab_size() - 1), max_size=30))
    written = kind().encode(data.draw(texts())).ids
    for ids in (drawn, written):
        # A built-in rule sees no opening.
        expected = splitter_of(kind, rule).split(ids)
        assert own.split(ids) == expected
        decoded = "".join(segment.text for segment in expected)
        assert own.decode(ids, opening) == (opening + decoded if ids else "")
        after = own.split(ids, opening)
        assert "".join(segment.text for segment in after) == own.decode(ids, opening)


def test_a_rule_of_your_own_is_token_exact_and_its_steps_are_joined_as_those_of_others() -> None:
    vocabulary = {"<unk>": 0, "a": 1, ".\nStep": 2, " 2": 3, "é": 4, "Step": 5, "\ufffd": 6}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.decoder = decoders.Fuse()

    def cut(text: str) -> list[str]:
        return re.split(r"(?=Step)", text)

    ids = [1, 2, 3, 4, 5, 1]  # "a.\nStep 2éStepa"
    assert Splitter(tokenizer.to_str(), cut).split(ids) == (
        Segment(0, 2, "a.\nStep"),
        Segment(2, 4, " 2é"),
        Segment(4, 6, "Stepa"),
    )
    [one] = Splitter(tokenizer.to_str(), cut, max_steps=1).split(ids)
    assert one == Segment(0, 6, "a.\nStep 2éStepa")
    thinking = "<think>Step 1</think>So Step 2"
    assert split_text(thinking, cut) == ("<think>", "Step 1</think>So ", "Step 2")
    assert split_text(thinking, cut, cut_thinking=False) == ("<think>Step 1</think>So ", "Step 2")


def test_steps_of_white_space_are_joined_and_texts_that_do_not_make_up_the_text_are_refused() -> (
    None
):
    assert split_text("a  b", list) == ("a  ", "b")
    assert split_text(" \n", lambda text: 1 / 0) == (" \n",)
    with pytest.raises(ValueError, match="not the text: 'ab' for 'a;b'"):
        split_text("a;b", lambda text: text.split(";"))


@given(rule=st.sampled_from(RULES), text=texts(), most=st.none() | st.integers(1, 4))
def test_tokens_of_one_byte_are_cut_where_their_text_is(
    rule: StepRule, text: str, most: int | None
) -> None:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({sign: i for i, sign in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    splitter = Splitter(tokenizer.to_str(), rule, max_steps=most)
    segments = splitter.split(tokenizer.encode(text).ids)
    assert tuple(segment.text for segment in segments) == split_text(text, rule, max_steps=most)


# WordPiece reads "###" as a continuation of the word before it and writes "#".
@pytest.mark.parametrize(
    "kind", [k for k in KINDS if k is not word_piece], ids=lambda kind: kind.__name__
)
def test_each_step_of_a_plain_trace_is_a_segment(kind: Kind) -> None:
    ids = kind().encode("Step 1 ### Then 12 * 12 = 144. ### The answer is").ids
    segments = splitter_of(kind).split(ids)
    assert [segment.text.count("###") for segment in segments] in ([0, 1, 1], [1, 1, 0])
    assert len(segments) == 3


def test_segments_are_token_exact() -> None:
    vocabulary = {"<unk>": 0, "a": 1, ".\n###": 2, " b": 3, "###": 4, "#": 5}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.decoder = decoders.Fuse()
    splitter = Splitter(tokenizer.to_str())
    # ".\n###" holds the end of the first step, so the second begins one token later;
    # "###" + "#" is one delimiter.
    assert splitter.split([1, 2, 3, 4, 5, 1]) == (
        Segment(0, 2, "a.\n###"),
        Segment(2, 3, " b"),
        Segment(3, 6, "####a"),
    )


def test_no_token_has_no_segment_and_no_delimiter_means_one() -> None:
    splitter = splitter_of(byte_level_bpe)
    assert splitter.split([]) == ()
    ids = byte_level_bpe().encode("no step ## here").ids
    assert splitter.split(ids) == (Segment(0, len(ids), "no step ## here"),)


@pytest.mark.parametrize("dtype", [np.int32, np.int64, np.uint32, np.int16])
def test_arrays_and_lists_of_ids_give_the_same_segments(dtype: type) -> None:
    ids = byte_level_bpe().encode(CORPUS[0]).ids
    splitter = splitter_of(byte_level_bpe)
    assert splitter.split(np.array(ids, dtype=dtype)) == splitter.split(ids)
    twice = np.repeat(np.array(ids, dtype=dtype), 2)[::2]
    assert splitter.split(twice) == splitter.split(ids)


@pytest.mark.parametrize(
    ("text", "delimiter", "steps"),
    [
        ("", "###", ()),
        (" \n", "###", (" \n",)),
        ("a", "###", ("a",)),
        (" \n### a", "###", (" \n### a",)),
        ("a ### b ##### c", "###", ("a ", "### b ", "##### c")),
        ("a ## b", "###", ("a ## b",)),
        ("1. a\n\n\n2. b", "\n\n", ("1. a", "\n\n\n2. b")),
        ("aabab", "ab", ("a", "ab", "ab")),
        ("x§§y", "§", ("x", "§§y")),
    ],
)
def test_a_text_is_cut_where_its_tokens_would_be(
    text: str, delimiter: str, steps: tuple[str, ...]
) -> None:
    assert split_text(text, delimiter=delimiter) == steps


@given(text=texts(), delimiter=st.sampled_from(["###", "#", "## ", "\n\n"]))
def test_the_steps_of_a_text_join_to_it(text: str, delimiter: str) -> None:
    assert "".join(split_text(text, delimiter=delimiter)) == text


SOLUTION = """First I read it.

### Set up
Let $n$ be even, so

$$
n = 2k

+ 0
$$

```python
### not a heading
print(2)

```
### Finish
It is 4."""


@pytest.mark.parametrize(
    ("rule", "firsts"),
    [
        ("delimiter", ["First", "### Set up", "### not", "### Finish"]),
        ("heading", ["First", "### Set up", "### Finish"]),
        ("paragraph", ["First", "### Set up", "$$\nn = 2k\n\n+ 0\n$$\n\n", "```python"]),
        (
            "line",
            ["First", "### Set", "Let", "$$", "n =", "+ 0", "$$", "```", "### Finish", "It is 4."],
        ),
    ],
)
def test_each_rule_cuts_a_solution_at_its_own_places(rule: StepRule, firsts: list[str]) -> None:
    steps = split_text(SOLUTION, rule)
    assert "".join(steps) == SOLUTION
    assert len(steps) == len(firsts)
    assert all(step.startswith(first) for step, first in zip(steps, firsts, strict=True))


def test_short_steps_are_joined_to_the_next_and_many_to_few() -> None:
    text = "So\nwe add 1 and 2\nand get 3\nDone"
    assert split_text(text, "line", min_step_words=2) == (
        "So\nwe add 1 and 2\n",
        "and get 3\nDone",
    )
    assert split_text(text, "line", max_steps=3) == (
        "So\nwe add 1 and 2\n",
        "and get 3\n",
        "Done",
    )
    tokenizer = fused_word_level()
    ids = tokenizer.encode("Step 1 ### Then ### The answer is ###").ids
    cut = [len(s.text.split("###")) - 1 for s in Splitter(tokenizer.to_str()).split(ids)]
    assert cut == [0, 1, 1, 1]
    least = Splitter(tokenizer.to_str(), min_step_tokens=3).split(ids)
    assert [segment.end - segment.start for segment in least] == [4, 5]
    most = Splitter(tokenizer.to_str(), max_steps=3).split(ids)
    assert [segment.end - segment.start for segment in most] == [4, 4, 1]


def test_errors_say_what_is_wrong() -> None:
    size = byte_level_bpe().get_vocab_size()
    with pytest.raises(ValueError, match=rf"token id {size} at position 1 .* of {size} entries"):
        splitter_of(byte_level_bpe).split([0, size])
    with pytest.raises(ValueError, match="-1 is not a token id"):
        splitter_of(byte_level_bpe).split(np.array([-1]))
    with pytest.raises(ValueError, match="delimiter is empty"):
        Splitter(byte_level_bpe().to_str(), delimiter="")
    with pytest.raises(ValueError, match="the rules are delimiter, heading, paragraph, line"):
        split_text("a", "###")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="max_steps is 0; give at least 1"):
        split_text("a", max_steps=0)
    with pytest.raises(ValueError, match="min_step_words is -2; give at least 1"):
        split_text("a", min_step_words=-2)
    with pytest.raises(ValueError, match="min_step_tokens is 0; give at least 1"):
        Splitter(byte_level_bpe().to_str(), min_step_tokens=0)
    with pytest.raises(ValueError, match=r"not a tokenizer\.json"):
        Splitter("{}")


@pytest.mark.parametrize("opening", ["", "<think>\n"])
@pytest.mark.parametrize("rule", get_args(StepRule))
def test_no_step_starts_inside_thinking_that_is_not_shown(rule: StepRule, opening: str) -> None:
    """Wherever the tokens of the tags are cut, and also where the prompt opened the block."""
    tokenizer = byte_level_bpe()
    thought = "7 + 5?\n\n### 12.\n\n### so\n"
    block = f"{thought}</think>" if opening else f"<think>{thought}</think>"
    solution = "\n\n### First 12.\n\n### Then 24."
    ids = tokenizer.encode(block + solution, add_special_tokens=False).ids
    splitter = Splitter(tokenizer.to_str(), rule, cut_thinking=False)
    segments = splitter.split(ids, opening)
    assert [s.text for s in segments] == [
        f"{opening}{block}\n\n### First 12.\n\n",
        "### Then 24.",
    ]
    assert [s.start for s in segments] == [0, segments[0].end] and segments[-1].end == len(ids)
    shown = Splitter(tokenizer.to_str(), rule).split(ids, opening)
    assert len(shown) > 3


@pytest.mark.parametrize("rule", get_args(StepRule))
def test_a_rollout_that_never_stops_thinking_is_one_segment(rule: StepRule) -> None:
    tokenizer = byte_level_bpe()
    text = "### First\n\n### Second\n\n### Third"
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    splitter = Splitter(tokenizer.to_str(), rule, cut_thinking=False)
    assert len(splitter.split(ids)) == 3
    assert [s.text for s in splitter.split(ids, "<think>")] == [f"<think>{text}"]
