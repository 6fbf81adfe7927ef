"""A model's text on a page: it is seen whole, and cannot act."""

from __future__ import annotations

import pytest

from exprl.monitor.report.marks import advantage_level, grade_level, show_text


def test_markup_is_shown_as_it_was_written() -> None:
    assert show_text("<script>alert('a & b')</script>") == (
        "&lt;script&gt;alert(&#39;a &amp; b&#39;)&lt;/script&gt;"
    )


@pytest.mark.parametrize(
    "character", ["\0", "\x1b", "\r", "\x9b", "\u202e", "\u2066", "\u200b", "\ufeff", "\U000e0041"]
)
def test_a_character_that_hides_or_turns_others_stands_there_by_its_code(character: str) -> None:
    shown = show_text(f"a{character}b")
    assert character not in shown
    assert f"U+{ord(character):04X}" in shown
    assert shown.startswith("a<span") and shown.endswith("</span>b")


def test_right_to_left_letters_emoji_and_lines_stay() -> None:
    text = "مرحبا\nאבג\t👩\u200d🔬 e\u0301"
    assert show_text(text) == text


def test_grades_and_advantages_share_one_scale() -> None:
    assert [grade_level(grade) for grade in (1, 3, 5, None)] == [
        "level-1",
        "level-3",
        "level-5",
        "level-none",
    ]
    values = (-1.0, -0.5, -0.01, 0.0, -0.0, 0.49, 0.5, float("nan"))
    assert [advantage_level(value)[-1] for value in values] == list("1123345e")
