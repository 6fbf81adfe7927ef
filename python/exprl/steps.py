"""Tokens to steps: where a rollout, or a text, is cut (docs/concepts/method.md, Segments)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import accumulate, starmap
from typing import TYPE_CHECKING, Literal

from exprl import _core

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from exprl.types import Segment

StepRule = Literal["delimiter", "heading", "paragraph", "line"]
SHOWN = 80
"""Characters of a text that a message shows."""
CutText = Callable[[str], Sequence[str]]
"""A rule of your own: the steps of a text, as texts; joined, they are the text."""


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
        rule: StepRule | CutText = "delimiter",
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
        self._cut = rule if callable(rule) else None
        built_in = "line" if callable(rule) else rule
        self._core = _core.Splitter(
            tokenizer_json, built_in, delimiter, min_step_tokens, max_steps, cut_thinking
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
            ValueError: an id is not in the vocabulary, or the texts of a rule of your own, joined,
                are not the text. What such a rule raises is raised as it is.
        """
        from exprl.types import Segment

        ids = _to_ids(token_ids)
        if self._cut is None:
            found = self._core.split(ids, bool(opening))
        else:
            starts = find_starts(self._cut, self.decode(ids, opening))
            after = [start - len(opening) for start in starts if start > len(opening)]
            found = self._core.split_at(ids, bool(opening), after)
        segments = tuple(starmap(Segment, found))
        if not (opening and segments):
            return segments
        first, *others = segments
        return (replace(first, text=opening + first.text), *others)

    def decode(self, token_ids: npt.NDArray[np.integer] | Sequence[int], opening: str = "") -> str:
        """The text of a rollout: that of its segments, joined. The arguments are those of `split`.

        Raises:
            ValueError: an id is not in the vocabulary.
        """
        found = self._core.split(_to_ids(token_ids), bool(opening))
        return "".join([opening, *(text for _, _, text in found)]) if found else ""


def _to_ids(
    token_ids: npt.NDArray[np.integer] | Sequence[int],
) -> npt.NDArray[np.integer] | list[int]:
    import numpy as np  # a config names the rules, and needs no numpy

    return token_ids if isinstance(token_ids, np.ndarray) else list(token_ids)


def find_starts(cut: CutText, text: str) -> list[int]:
    """The characters at which the steps of a rule of your own start.

    Raises:
        ValueError: its texts, joined, are not the text.

    >>> find_starts(lambda text: text.split("; "), "a; b")
    Traceback (most recent call last):
    ...
    ValueError: the steps, joined, are not the text: 'ab' for 'a; b'; give every character to a step
    """
    if not text.strip():
        return [0]
    pieces = list(cut(text))
    if "".join(pieces) != text:
        raise ValueError(
            f"the steps, joined, are not the text: {''.join(pieces)[:SHOWN]!r} for"
            f" {text[:SHOWN]!r}; give every character to a step"
        )
    return list(accumulate(map(len, pieces), initial=0))[:-1]


def split_text(
    text: str,
    rule: StepRule | CutText = "delimiter",
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
    - a function of your own: it takes the text, and returns the texts of its steps. One of white
      space only is joined to the step before it.

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
    >>> import re
    >>> split_text("Step 1: two Step 2: four", lambda text: re.split(r"(?=Step \d)", text))
    ('Step 1: two ', 'Step 2: four')

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
        ValueError: there is no such rule, the delimiter is empty, a number is below 1, or the texts
            of a rule of your own, joined, are not the text.
    """
    if callable(rule):
        starts = find_starts(rule, text)
        return tuple(_core.split_text_at(text, starts, min_step_words, max_steps, cut_thinking))
    return tuple(_core.split_text(text, rule, delimiter, min_step_words, max_steps, cut_thinking))
