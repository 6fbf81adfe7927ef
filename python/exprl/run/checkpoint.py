"""The whole state of a run, in a folder that appears at once or not at all.

    RUN/checkpoints/step-00016/           model and tokenizer in Hugging Face format
    RUN/checkpoints/step-00016/trainer/   optimizer.safetensors, state.json, ahead.parquet
    RUN/checkpoints/step-00016/adapter/   with LoRA: the adapter in PEFT's format

Trainer and adapter lie apart, because vLLM loads every safetensors file beside a model. With LoRA
the model is the merged one; a run goes on from model.path and the adapter.

Problem order and sampling seeds are pure functions of (seed, step), so a run has no generator
state: what is here is all that the next step needs. With rollout.ahead that is also what has been
sampled for later steps (in_flight.py).
"""

from __future__ import annotations

import fcntl
import json
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from exprl import files
from exprl.errors import ConfigError, DataError, StorageError

if TYPE_CHECKING:  # it loads torch, which the readers of a run do without
    from exprl.learn.policy import Policy, UpdateStats
from exprl.run.in_flight import read_in_flight, write_in_flight
from exprl.types import Rollout, Scored

FORMAT = 1
TRAINER = "trainer"


@dataclass(slots=True)
class RunState:
    """What a run carries from step to step beside weights and optimizer.

    step: training steps done.
    policy_version: optimizer steps done.
    solved: ids of the training problems that had a correct rollout so far.
    rollouts, ungraded: sampled so far, and those of them that judge or engine failed.
    bad_steps: non-finite optimizer steps in a row, up to now.
    base: fingerprint of the frozen weights that the adapter lies upon; None without LoRA.
    """

    step: int = 0
    policy_version: int = 0
    solved: set[str] = field(default_factory=set)
    rollouts: int = 0
    ungraded: int = 0
    bad_steps: int = 0
    base: str | None = None

    def count(self, scored: Sequence[Scored], updates: Sequence[UpdateStats]) -> None:
        """Count a step."""
        self.step += 1
        self.solved |= {s.rollout.problem_id for s in scored if s.correct}
        self.ungraded += sum(s.ungraded for s in scored)
        self.rollouts += len(scored)
        for one in updates:
            self.policy_version += not one.skipped
            self.bad_steps = self.bad_steps + 1 if one.skipped else 0


def save(
    run_dir: Path,
    state: RunState,
    policy: Policy,
    tokenizer: Any,
    keep: int,
    in_flight: Mapping[int, Sequence[Rollout]] | None = None,
) -> Path:
    """Write a checkpoint, then delete all but the newest `keep`.

    A reader never sees half of one, whenever the process dies.

    Args:
        in_flight: what is sampled for later steps (`Ahead.collect_rollouts`).

    Raises:
        StorageError: the disk is full or the folder cannot be written; older checkpoints stay.
    """
    folder = run_dir / "checkpoints" / f"step-{state.step:05d}"
    try:
        with files.write_atomically(folder) as partial:
            _write(partial, state, policy, tokenizer)
            write_in_flight(partial / TRAINER, in_flight or {})
    except OSError as error:
        whole = latest(run_dir)
        raise StorageError(
            f"{folder} was not written: {error}; make room or mend the folder, then the same"
            f" command goes on from {whole.name if whole else 'the start'}"
        ) from error
    for old in folders(run_dir)[:-keep]:
        shutil.rmtree(old)
    return folder


def _write(partial: Path, state: RunState, policy: Policy, tokenizer: Any) -> None:
    """All files of a checkpoint."""
    (partial / TRAINER).mkdir(parents=True)
    policy.save_model(partial)
    policy.save_optimizer(partial / TRAINER)
    tokenizer.save_pretrained(partial)
    content = {"format": FORMAT, **asdict(state), "solved": sorted(state.solved)}
    (partial / TRAINER / "state.json").write_text(json.dumps(content, indent=2), encoding="utf-8")


def try_saving(run_dir: Path, policy: Policy, tokenizer: Any) -> None:
    """Write and delete the small files of a checkpoint, so that the first one does not fail.

    Raises:
        StorageError: the folder takes no files.
        ConfigError: transformers refuses to save the model's config or tokenizer.
    """
    folder = run_dir / "checkpoints" / ".trial"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        policy.save_settings(folder)
        tokenizer.save_pretrained(folder)
    except OSError as error:
        raise StorageError(
            f"{folder.parent} takes no checkpoints: {error}; make room, mend the folder, or choose"
            " another run_dir"
        ) from error
    except Exception as error:  # it checks more when it saves than when it loads
        raise ConfigError(
            f"a checkpoint of this model cannot be saved: {error}; correct the model's files"
        ) from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def latest(run_dir: Path) -> Path | None:
    """The newest whole checkpoint; None where there is none."""
    whole = folders(run_dir)
    return whole[-1] if whole else None


def load_state(folder: Path) -> RunState:
    """Read a checkpoint's state.json.

    Raises:
        DataError: it is not one of ours.
    """
    path = folder / TRAINER / "state.json"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        version = content.pop("format")
        if version != FORMAT:
            raise DataError(f"{path}: format {version}; this exprl reads format {FORMAT}")
        return RunState(**{**content, "solved": set(content["solved"])})
    except (OSError, KeyError, TypeError, json.JSONDecodeError) as error:
        raise DataError(f"{path} is not a checkpoint's state: {error}") from error


def load_in_flight(folder: Path) -> dict[int, list[Rollout]]:
    """What a checkpoint holds of steps that were in flight, by step.

    Raises:
        DataError: it cannot be read.
    """
    return read_in_flight(folder / TRAINER)


@contextmanager
def lock_run(run_dir: Path) -> Iterator[None]:
    """Hold the run's folder, so that no second process trains in it.

    Raises:
        ConfigError: another process does, or the folder cannot be made or written.
    """
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
        lock = (run_dir / ".lock").open("w")
    except OSError as error:
        raise ConfigError(
            f"run_dir = {str(run_dir)!r} cannot be used: {error.strerror}; choose another run_dir"
        ) from None
    with lock as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(
                f"run_dir = {str(run_dir)!r} is in use by another process; choose another run_dir"
            ) from None
        yield


def folders(run_dir: Path) -> list[Path]:
    """The whole checkpoints of a run, oldest first."""
    found = (run_dir / "checkpoints").glob("step-*")
    whole = [path for path in found if re.fullmatch(r"step-\d+", path.name)]
    return sorted(whole, key=lambda path: int(path.name[5:]))
