"""Whether a path names a folder here or a repository of the Hugging Face hub, and if that answers.

The hub's own client tries every file of a repository again and again where there is no network,
for a minute or more. Here it is asked once; if it does not answer, only its cache is used.
"""

from __future__ import annotations

import logging
import os
import re
from functools import lru_cache
from pathlib import Path

from exprl.errors import ConfigError

LOG = logging.getLogger(__name__)
GENERATION_CONFIG = "generation_config.json"
ANSWERS_WITHIN_S = 5.0
_HUB_ID = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")


def require_model(path: str) -> None:
    """Refuse a model.path that names nothing, before anything tries to load it.

    Raises:
        ConfigError: no such folder, a folder without a model, or a model of the hub that is not in
            its cache while the hub does not answer.
    """
    place = Path(path)
    if place.is_dir():
        if not (place / "config.json").is_file():
            raise ConfigError(
                f"model.path = {path!r}: the folder has no config.json; name a model in Hugging"
                " Face format, such as RUN/checkpoints/step-00010 of a run"
            )
        return
    if place.exists():
        raise ConfigError(f"model.path = {path!r} is a file; name the folder that holds the model")
    if not _HUB_ID.fullmatch(path):
        raise ConfigError(f"model.path = {path!r}: no such folder")
    why = why_offline()
    if why and cached_folder(path) is None:
        raise ConfigError(
            f"model.path = {path!r}: no such folder here, and no such model in the cache of the"
            f" Hugging Face hub ({why})"
        )


def cached_folder(path: str) -> Path | None:
    """The folder of a model's files: its own, or that of the hub's cache; None where none is."""
    from huggingface_hub import try_to_load_from_cache

    if Path(path).is_dir():
        return Path(path)
    if not _HUB_ID.fullmatch(path):
        return None
    file = try_to_load_from_cache(path, "config.json")
    return Path(file).parent if isinstance(file, str) else None


def find_file(path: str, name: str) -> Path | None:
    """A file of a model, from its folder or the hub; None where the model has none."""
    from transformers.utils import cached_file

    found = cached_file(
        path,
        name,
        _raise_exceptions_for_gated_repo=False,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
    )
    return None if found is None else Path(found)


@lru_cache(maxsize=1)
def why_offline() -> str | None:
    """Why only the hub's cache is used from now on; None where the hub answers."""
    from huggingface_hub import constants, get_session

    if constants.is_offline_mode():
        return "HF_HUB_OFFLINE is set"
    try:
        get_session().head(constants.ENDPOINT, timeout=ANSWERS_WITHIN_S)
    except Exception as error:  # whatever the client of the day calls it
        os.environ["HF_HUB_OFFLINE"] = "1"  # for processes that start later
        constants.HF_HUB_OFFLINE = True
        reason = f"{constants.ENDPOINT} does not answer: {error}"
        LOG.warning("%s; only the cache of the Hugging Face hub is used", reason)
        return reason
    return None
