"""Tokens to steps: where a rollout, or a text, is cut (docs/concepts/method.md, Segments)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import starmap
from typing import TYPE_CHECKING, Literal

from exprl import _core

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from exprl.types import Segment

StepRule = Literal["delimiter", "heading", "paragraph", "line"]


class Splitter:
    """Cuts rollouts of one tokenizer by one rule, token-exactly.

    A token that holds the end of one step and the start of the next belongs to the step where its
    first byte lies. No step is white space only. Decoding is that of
    `tokenizer.decode(ids, skip_special_tokens=True)` of the `tokenizers` library, without clean-up
    of spaces.
    """

    def __init__(
        self,
        tokenizer_json: str,
        rule: StepRule = "delimiter",
        *,
        delimiter: str = "###",
        min_step_tokens: int = 1,
        max_steps: int | None = None,
        cut_thinking: bool = True,
    ) -> None:
        """Build the table of the vocabulary's bytes: once per tokenizer.

        Args:
            tokenizer_json: the text of a tokenizer.json, such as `tokenizer.to_str()` of
                `tokenizers` or `tokenizer.backend_tokenizer.to_str()` of transformers gives it.
            rule, delimiter, max_steps, cut_thinking: as in `split_text`.
            min_step_tokens: a step of fewer tokens is joined to the next one, and the last step to
                the one before it.

        Raises:
            ValueError: not a tokenizer.json, or settings that `split_text` refuses.
        """
        self.cut_thinking = cut_thinking
        self._core = _core.Splitter(
            tokenizer_json, rule, delimiter, min_step_tokens, max_steps, cut_thinking
        )

    def split(
        self, token_ids: npt.NDArray[np.integer] | Sequence[int], opening: str = ""
    ) -> tuple[Segment, ...]:
        """The segments of one rollout: they tile its tokens, and their texts its decoded text.

        Args:
            token_ids: [n], the sampled tokens without the prompt; special tokens may be in it.
            opening: of a thinking block that the prompt ends in (`Rollout.opening`): the text of
                the first segment begins with it, so that the texts alone tell what is thinking.

        Returns:
            One segment where the rule finds one step, none where there is no token.

        Raises:
            ValueError: an id is not in the vocabulary.
        """
        import numpy as np  # a config names the rules, and needs no numpy

        from exprl.types import Segment

        ids = token_ids if isinstance(token_ids, np.ndarray) else list(token_ids)
        segments = tuple(starmap(Segment, self._core.split(ids, bool(opening))))
        if not (opening and segments):
            return segments
        first, *others = segments
        return (replace(first, text=opening + first.text), *others)


def split_text(
    text: str,
    rule: StepRule = "delimiter",
    *,
    delimiter: str = "###",
    min_step_words: int = 1,
    max_steps: int | None = None,
    cut_thinking: bool = True,
) -> tuple[str, ...]:
    r"""The steps of a trace that has no tokens, cut at the same places; joined, they are the text.

    Rules:

    - `delimiter`: a step starts at the delimiter, wherever it stands. A delimiter made of one
      repeated character matches every run that is at least as long (`#####` is one `###`).
    - `heading`: a step starts at a line that begins with three or more `#`, after at most three
      blanks, outside code fences.
    - `paragraph`: a step ends after its blank lines. A blank line within a code fence or a display
      (`$$` to `$$`, `\[` to `\]`) ends none.
    - `line`: every line is a step, with the blank lines after it. A code fence is one step.

    >>> split_text("first\n### second\n#### third")
    ('first\n', '### second\n', '#### third')
    >>> split_text("C### major\n### next", "heading")
    ('C### major\n', '### next')
    >>> split_text("one\ntwo\n\nthree", "paragraph")
    ('one\ntwo\n\n', 'three')
    >>> split_text("one\ntwo\n\nthree\nfour", "line", max_steps=2)
    ('one\ntwo\n\n', 'three\nfour')
    >>> split_text("<think>1?\n2?</think>\none\ntwo", "line", cut_thinking=False)
    ('<think>1?\n2?</think>\none\n', 'two')

    Args:
        delimiter: at least one character; read by the rule `delimiter` only.
        min_step_words: a step of fewer words is joined to the next one, and the last step to the
            one before it.
        max_steps: neighbours are joined so that at most this many steps are left. How many were
            joined differs by one at most; the larger ones come first. None joins none.
        cut_thinking: False starts no step inside a thinking block (`exprl.thinking`), so that each
            step shows something to a judge who sees no thinking. A block belongs to the step that
            it stands in, and at the start to the first one.

    Returns:
        At least one step, and none of white space only, unless the text is; none if it is empty.

    Raises:
        ValueError: there is no such rule, the delimiter is empty, or a number is below 1.
    """
    return tuple(_core.split_text(text, rule, delimiter, min_step_words, max_steps, cut_thinking))
