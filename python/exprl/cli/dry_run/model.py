"""What the dry run says of the model: its files, its chat template, and where its turns end."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from exprl import config
from exprl.data.template_remarks import remark_on_template
from exprl.data.turns import find_stops, find_turn_end, thinking_opened
from exprl.errors import ConfigError
from exprl.learn.model import read_config
from exprl.learn.model_files import check_model
from exprl.types import Prompt


def describe_model(cfg: config.Config, tokenizer: Any, prompt: Prompt) -> Iterator[str]:
    """Lines for the dry run; what the run would fail on is raised.

    Args:
        prompt: the first of the data.

    Raises:
        ConfigError: the files of the model cannot be used, or nothing ends a turn.
        StorageError: what a checkpoint consists of cannot be written.
    """
    yield f"files      {check_model(cfg.model, cfg.rollout, tokenizer)}"
    _try_saving(cfg, tokenizer)
    opened = thinking_opened(tokenizer, prompt, cfg.model)
    where = f"; the prompt ends inside {opened.strip()!r}" if opened else ""
    if cfg.needs_engine:
        stops = [_named(tokenizer, i) for i in find_stops(tokenizer, cfg.model)]
        yield f"turns      a rollout stops at {', '.join(stops)}{where}"
    if cfg.learns_references:
        end = _named(tokenizer, find_turn_end(tokenizer, cfg.model))
        closed = ", which the target closes first" if opened else ""
        yield f"turns      a target ends with {end}{where}{closed}"


def warn_of_template(cfg: config.Config, tokenizer: Any, prompt: Prompt) -> Iterator[str]:
    """What the chat template leaves out or adds."""
    teacher = cfg.teacher if cfg.needs_teacher else None
    yield from remark_on_template(tokenizer, cfg.model, prompt, teacher)


def _try_saving(cfg: config.Config, tokenizer: Any) -> None:
    """What of a checkpoint needs no weights."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            read_config(cfg.model).save_pretrained(folder)
            tokenizer.save_pretrained(Path(folder))
        except Exception as error:  # transformers checks more when it saves than when it loads
            raise ConfigError(
                f"model.path = {cfg.model.path!r}: its config or tokenizer cannot be saved, so no"
                f" checkpoint could be: {error}"
            ) from error


def _named(tokenizer: Any, token: int) -> str:
    return f"{tokenizer.convert_ids_to_tokens(token)} ({token})"
