"""The tokens of a rollout as text, by the run's own tokenizer."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from exprl import config
from exprl.run import checkpoint

if TYPE_CHECKING:
    from tokenizers import Tokenizer

FILE = "tokenizer.json"


class Tokens:
    """Decodes tokens; without a tokenizer it says what is missing."""

    def __init__(self, run_dir: Path, cfg: config.Config | None) -> None:
        self._run_dir = run_dir
        self._cfg = cfg

    def decode(self, ids: Sequence[int]) -> list[str] | None:
        """The text of each token; None where no tokenizer can be read (see `missing`).

        A token that ends no character has none: its bytes are in the text of a later one.
        """
        tokenizer = self._tokenizer
        if isinstance(tokenizer, str):
            return None
        from tokenizers.decoders import DecodeStream

        texts, stream = [], DecodeStream(skip_special_tokens=False)
        for one in ids:
            try:
                texts.append(stream.step(tokenizer, one) or "")
            except Exception:  # bytes that are no text; `tokenizers` raises nothing narrower
                stream = DecodeStream(skip_special_tokens=False)
                texts.append(tokenizer.decode([one], skip_special_tokens=False))
        return texts

    @property
    def missing(self) -> str:
        """Why there are no texts; empty where there are."""
        return self._tokenizer if isinstance(self._tokenizer, str) else ""

    @cached_property
    def _tokenizer(self) -> Tokenizer | str:
        """The tokenizer, or why there is none."""
        try:
            from tokenizers import Tokenizer
        except ModuleNotFoundError:
            return "the package `tokenizers` is not installed: pip install tokenizers"
        for path in self._places():
            if path.is_file():
                try:
                    return Tokenizer.from_file(str(path))
                except Exception as error:  # `tokenizers` raises nothing narrower
                    return f"{path} cannot be read: {error}"
        model = self._cfg.model.path if self._cfg else "model.path"
        return (
            f"no {FILE} of the policy in the run's checkpoints or in {model}; start exprl view in"
            " the folder in which the run was started"
        )

    def _places(self) -> list[Path]:
        """Where the tokenizer may be: in a checkpoint, the model's folder, the hub's cache."""
        newest = checkpoint.latest(self._run_dir)
        places = [newest / FILE] if newest else []
        if self._cfg is None:
            return places
        model = self._cfg.model.path
        folders = [Path(), *self._start_folders()]
        places += [folder / model / FILE for folder in folders]
        try:
            from huggingface_hub import try_to_load_from_cache

            cached = try_to_load_from_cache(model, FILE)
        except (ImportError, ValueError):  # a path is no name of the hub
            cached = None
        return [*places, Path(cached)] if isinstance(cached, str) else places

    def _start_folders(self) -> list[Path]:
        """The folders in which the run was started, the newest first."""
        try:
            starts = json.loads((self._run_dir / "run.json").read_text())["starts"]
            return [Path(start["folder"]) for start in reversed(starts)]
        except (OSError, ValueError, KeyError, TypeError):  # an older run, or another machine's
            return []
