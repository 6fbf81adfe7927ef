"""Tokens to steps: where a rollout, or a text, is cut at its step delimiter."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import starmap

import numpy as np
import numpy.typing as npt

from exprl import _core
from exprl.types import Segment


class Splitter:
    """Cuts rollouts of one tokenizer at one delimiter, token-exactly.

    A step starts at a delimiter and runs to the next; text before the first delimiter is a step of
    its own unless it is only white space. A delimiter made of one repeated character matches every
    run that is at least as long (`#####` is one `###`); any other one matches exactly. A token
    that holds the end of one step and the start of the next belongs to the step where its first
    byte lies. Decoding is that of `tokenizer.decode(ids, skip_special_tokens=True)` of the
    `tokenizers` library, without clean-up of spaces.
    """

    def __init__(self, tokenizer_json: str, delimiter: str = "###") -> None:
        """Build the table of the vocabulary's bytes: once per tokenizer.

        Args:
            tokenizer_json: the text of a tokenizer.json, such as `tokenizer.to_str()` of
                `tokenizers` or `tokenizer.backend_tokenizer.to_str()` of transformers gives it.
            delimiter: at least one character.

        Raises:
            ValueError: not a tokenizer.json, or the delimiter is empty.
        """
        self._core = _core.Splitter(tokenizer_json, delimiter)

    def split(
        self, token_ids: npt.NDArray[np.integer] | Sequence[int], opening: str = ""
    ) -> tuple[Segment, ...]:
        """The segments of one rollout: they tile its tokens, and their texts its decoded text.

        Args:
            token_ids: [n], the sampled tokens without the prompt; special tokens may be in it.
            opening: of a thinking block that the prompt ends in (`Rollout.opening`): the text of
                the first segment begins with it, so that the texts alone tell what is thinking.

        Returns:
            One segment where there is no delimiter, none where there is no token.

        Raises:
            ValueError: an id is not in the vocabulary.
        """
        ids = token_ids if isinstance(token_ids, np.ndarray) else list(token_ids)
        segments = tuple(starmap(Segment, self._core.split(ids)))
        if not (opening and segments):
            return segments
        first, *others = segments
        return (replace(first, text=opening + first.text), *others)


def split_text(text: str, delimiter: str = "###") -> tuple[str, ...]:
    r"""The steps of a trace that has no tokens, cut at the same places.

    >>> split_text("first\n### second\n#### third")
    ('first\n', '### second\n', '#### third')

    Raises:
        ValueError: the delimiter is empty.
    """
    return tuple(_core.split_text(text, delimiter))
