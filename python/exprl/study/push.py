"""A checkpoint, to a repository of the Hugging Face hub: weights, adapter, card, config, curves."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from exprl import config
from exprl.errors import ConfigError, ExprlError
from exprl.monitor.curve import draw_curve
from exprl.run.checkpoint import TRAINER
from exprl.study import targets
from exprl.study.model_card import hide_folders, is_hub_id, public_config, write_card

CARD = "README.md"
RECORDS = ("metrics.jsonl", "eval.jsonl")
"""Of the run, for whoever doubts the card: numbers without texts, so without data."""


@dataclass(frozen=True, slots=True)
class Upload:
    """What a push writes.

    files: by path in the repository: a file here, or content.
    """

    repo_id: str
    message: str
    files: Mapping[str, Path | bytes]

    @property
    def card(self) -> str:
        """The model card."""
        content = self.files[CARD]
        assert isinstance(content, bytes)
        return content.decode()

    def sizes(self) -> dict[str, int]:
        """Bytes of each file."""
        return {
            name: len(item) if isinstance(item, bytes) else item.stat().st_size
            for name, item in self.files.items()
        }


def prepare(name: str, repo_id: str) -> Upload:
    """Gather what a push writes; nothing is sent.

    Args:
        name: RUN (its newest checkpoint), RUN@step-N, or a checkpoint's folder.
        repo_id: of the hub, such as "me/my-model".

    Raises:
        ConfigError: the name is no checkpoint of a run, or the repository's name is not one.
        DataError: the run has no metrics.
    """
    if not is_hub_id(repo_id):
        raise ConfigError(f"{repo_id!r} is no repository of the hub; name one as OWNER/NAME")
    target = targets.find(name)
    if target.run_dir is None:
        raise ConfigError(f"{name!r} is no run of exprl; name a run's folder, or RUN@step-N")
    if target.step == 0:
        raise ConfigError(f"{name!r} is the model that the run started from: nothing was trained")
    folder, run_dir = Path(target.weights), target.run_dir
    files: dict[str, Path | bytes] = {
        path.relative_to(folder).as_posix(): path
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.relative_to(folder).parts[0] != TRAINER
    }
    adapter = next((name for name in files if name.endswith("/adapter_config.json")), None)
    if adapter:
        about = hide_folders(json.loads((folder / adapter).read_text(encoding="utf-8")))
        files[adapter] = json.dumps(about, indent=2).encode()
    cfg = config.load(run_dir / "config.toml")
    files["exprl/config.toml"] = public_config(cfg).encode()
    files |= {f"exprl/{one}": run_dir / one for one in RECORDS if (run_dir / one).exists()}
    files["curves.png"] = _draw(run_dir)
    files[CARD] = write_card(repo_id, run_dir, target.step, lora=adapter is not None).encode()
    return Upload(repo_id, f"Step {target.step} of a run of exprl", files)


def send(upload: Upload, *, public: bool) -> str:
    """Write it as one commit; the repository is made where there is none.

    The token is found by huggingface_hub: HF_TOKEN, or that of `hf auth login`.

    Returns:
        The address of the commit.

    Raises:
        ConfigError: the repository is public although `public` is not set.
        ExprlError: the hub refuses, or does not answer.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import (
        HfHubHTTPError,
        HFValidationError,
        LocalTokenNotFoundError,
        OfflineModeIsEnabled,
    )

    api = HfApi(library_name="exprl")
    try:
        api.create_repo(upload.repo_id, private=not public, exist_ok=True)
        about = api.model_info(upload.repo_id)
        if public or about.private:
            there = {file.rfilename for file in about.siblings or ()}
            commit = api.create_commit(
                upload.repo_id, _operations(upload, there), commit_message=upload.message
            )
            return str(commit.commit_url)
    except LocalTokenNotFoundError:
        raise ConfigError("the hub asks for a token: `hf auth login`, or set HF_TOKEN") from None
    except OfflineModeIsEnabled:
        raise ConfigError("HF_HUB_OFFLINE is set; unset it to push to the hub") from None
    except HFValidationError as error:
        raise ConfigError(str(error)) from None
    except HfHubHTTPError as error:
        status = error.response.status_code
        if status in (401, 403):
            raise ConfigError(
                f"the hub refuses to write {upload.repo_id} (HTTP {status}): log in with a token"
                " that may write there, by `hf auth login` or HF_TOKEN"
            ) from None
        raise ExprlError(f"the hub did not take {upload.repo_id}: {error}") from error
    except Exception as error:  # its client's HTTP library, and so its errors, change by version
        raise ExprlError(
            f"the hub did not take {upload.repo_id}: {type(error).__name__}: {error}"
        ) from error
    raise ConfigError(
        f"{upload.repo_id} exists and is public; push with --public, or to another name"
    )


def _operations(upload: Upload, there: set[str]) -> list[Any]:
    """Add what is new, and delete weights of an earlier push that would be loaded beside it."""
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    weights = (".safetensors", ".safetensors.index.json", "/adapter_config.json")
    stale = sorted(name for name in there - set(upload.files) if name.endswith(weights))
    return [
        *(CommitOperationAdd(name, item) for name, item in upload.files.items()),
        *(CommitOperationDelete(name) for name in stale),
    ]


def _draw(run_dir: Path) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        picture = Path(folder) / "curves.png"
        draw_curve(run_dir, picture)
        return picture.read_bytes()
