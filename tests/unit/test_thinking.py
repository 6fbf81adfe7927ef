"""Where a model thinks in its text."""

import pytest

from exprl.thinking import open_thinking, outside_thinking


@pytest.mark.parametrize(
    ("text", "outside", "owes"),
    [
        ("", "", None),
        ("no block, 3 < 4, a[1], ◁", "no block, 3 < 4, a[1], ◁", None),
        ("<think>a</think>b", "b", None),
        ("a<THINK>b</Think>c<thinking>d</thinking>e", "ace", None),
        ("the prompt opened it</think>b", "b", None),
        ("a<think>b</think>c</think>d", "d", None),
        ("a<think>it never closes", "a", "</think>"),
        ("[THINK]x[/THINK]é◁think▷y", "é", "◁/think▷"),
        ("<think>a<think>b</think>c", "c", None),
        ("a half of a pair: \ud83d", "a half of a pair: ?", None),
    ],
)
def test_the_text_outside_thinking_and_what_it_still_owes(text, outside, owes):
    assert "".join(outside_thinking(text)) == outside
    assert open_thinking(text) == owes
