"""Where a model thinks in its text: one definition for judges' replies, verifiers, steps and SFT.

Thinking blocks are known by their tags, in any case: `<think>`, `<thinking>`, `<thought>`,
`<reasoning>`, `<seed:think>`, `[THINK]`, `◁think▷`, each with its closing tag.
"""

from __future__ import annotations

from exprl import _core


def outside_thinking(text: str) -> tuple[str, ...]:
    """The parts of a text outside thinking blocks, in order; linear in its length.

    A closing tag without an opening one means that the prompt opened the block: everything before
    it is thinking. A block that never closes runs to the end. Where the prompt opened a block,
    put `<think>` in front of a text that was cut: nothing in it tells that it is all thinking.

    >>> outside_thinking("so <think>42?</think>43")
    ('so ', '43')
    >>> outside_thinking("42?</think>43")
    ('43',)
    """
    return tuple(_core.outside_thinking(_drop_surrogates(text)))


def open_thinking(text: str) -> str | None:
    """The closing tag that a text still owes, if it ends within a thinking block.

    >>> open_thinking("So far: <think>42?")
    '</think>'
    >>> open_thinking("<think>42?</think>43")
    """
    return _core.open_thinking(_drop_surrogates(text))


def _drop_surrogates(text: str) -> str:
    """A text that UTF-8 can hold; a lone surrogate becomes a question mark."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode()
