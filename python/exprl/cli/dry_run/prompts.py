"""The prompts of policy and judge as they are sent, for a real row."""

from __future__ import annotations

from typing import Any

from rich.console import Console

from exprl import config
from exprl.cli.printable import make_printable
from exprl.data.tokenizer import prompt_ids
from exprl.types import Problem

LONGEST = 6000
"""Characters of a prompt that are shown: its beginning and its end."""


def show_policy_prompt(
    console: Console, cfg: config.Config, tokenizer: Any, problem: Problem
) -> None:
    """Print what the policy reads for a problem: chat template applied, special tokens included."""
    ids = prompt_ids(tokenizer, problem.prompt, cfg.model)
    text = tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
    title = f"of problem {problem.id}, as the policy reads it ({len(ids)} tokens):"
    show_prompt(console, "prompt", title, text)


def show_prompt(console: Console, label: str, title: str, text: str) -> None:
    """Print a prompt behind a line on its left, control characters as escapes."""
    console.print(f"{label:<10} {make_printable(title)}", markup=False, soft_wrap=True)
    for line in shorten(text).split("\n"):
        shown = make_printable(line.replace("\t", "    "))
        console.print(f"           | {shown}", markup=False, soft_wrap=True, highlight=False)


def shorten(text: str) -> str:
    """A long text without its middle, which it counts.

    >>> shorten("short")
    'short'
    """
    if len(text) <= LONGEST:
        return text
    half = LONGEST // 2
    return f"{text[:half]}\n... {len(text) - LONGEST:,} characters ...\n{text[-half:]}"
