"""The plan of a pilot: what is done, measured and concluded, written before the first step."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from exprl import config, files
from exprl.errors import ConfigError, DataError
from exprl.run.recorded import MAY_CHANGE
from exprl.study.prove.arms import ARMS, SAYS, Arm, arm_config
from exprl.study.prove.split import Split
from exprl.study.prove.verdict import ERROR, LEAST_SEEDS, interval_level

FILE_NAME = "plan.json"
PRIMARY = (
    "Held-out pass@1 after the last step of the arm right, minus that of each control: wrong,"
    " shuffled, sparse, and the policy before training. Mean over held-out problems and seeds."
)
STOPPING = (
    "Seed by seed, all arms of one before the next. After each seed from number {least} on, the"
    " verdict is formed; the pilot stops at the first yes or no, and after the last seed."
)
RULE = (
    "Intervals of level {level:.4f} by a paired bootstrap over problems and seeds. No: the upper"
    " end of one effect is below {effect:g}. Else yes: the lower ends of all effects are above 0."
    " Else cannot tell. A wrong yes and a wrong no have a chance of about {error:g} at most each."
)
_NOT_OURS = ("data.path", "eval.data.path", "judge.ledger", "logging.", "alarms.")
"""Settings that say where files lie, or how a run is watched."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What is fixed before the first step.

    data: the file as the user named it.   digest: of the rows (Split.digest).
    settings: of the arm `right`, by dotted key; of the others what differs from it.
    """

    exprl: str
    data: str
    digest: str
    rows: int
    left_out: Mapping[str, int]
    train: int
    held_out: tuple[str, ...]
    seeds: tuple[int, ...]
    steps: int
    samples: int
    least_effect: float
    level: float
    settings: Mapping[str, Mapping[str, Any]]
    primary: str
    stopping: str
    rule: str

    def to_json(self) -> dict[str, Any]:
        """Everything as plain JSON values."""
        tree = asdict(self)
        return tree | {"arms": dict(SAYS), "held_out": list(self.held_out), "seeds": [*self.seeds]}


def make_plan(
    version: str, data: str, split: Split, base: config.Config, seeds: int, least_effect: float
) -> Plan:
    """The plan of a pilot over `seeds` seeds, from that of `base` on."""
    level = interval_level(seeds)
    return Plan(
        exprl=version,
        data=data,
        digest=split.digest,
        rows=split.rows,
        left_out=dict(split.left_out),
        train=len(split.train),
        held_out=split.held_out_ids,
        seeds=tuple(range(base.seed, base.seed + seeds)),
        steps=base.train.steps,
        samples=base.eval.samples,
        least_effect=least_effect,
        level=level,
        settings={arm: _settings(base, arm) for arm in ARMS},
        primary=PRIMARY,
        stopping=STOPPING.format(least=LEAST_SEEDS),
        rule=RULE.format(level=level, effect=least_effect, error=ERROR),
    )


def _settings(base: config.Config, arm: Arm) -> dict[str, Any]:
    def computed(of: Arm) -> dict[str, Any]:
        flat = config.flatten(arm_config(base, of, base.seed, Path("run")))
        kept = tuple(key for key in MAY_CHANGE if key not in ("train.steps", "eval"))
        return {k: v for k, v in flat.items() if not k.startswith((*kept, *_NOT_OURS))}

    own, right = computed(arm), computed("right")
    if arm == "right":
        return own
    return {
        key: own.get(key) for key in sorted(own.keys() | right) if own.get(key) != right.get(key)
    }


def keep_plan(folder: Path, plan: Plan) -> str:
    """Write the plan, or find it written as it is; returns the SHA-256 of the file.

    Raises:
        ConfigError: another plan is there, or the file was changed since.
    """
    path, tree = folder / FILE_NAME, plan.to_json()
    tree = json.loads(json.dumps(tree))
    if path.exists():
        there = read_plan(folder)
        differ = [
            key for key in tree | there if key != "written" and there.get(key) != tree.get(key)
        ]
        if differ:
            lines = "".join(f"\n  {line}" for key in differ for line in _explain(key, there, tree))
            raise ConfigError(
                f"{path} is the plan of another pilot, or was changed after it was written. A plan"
                f" stays as it is: choose another folder with --out.{lines}"
            )
    else:
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        files.write_json(path, {"written": now} | tree)
    return hash_plan(folder)


def hash_plan(folder: Path) -> str:
    """The SHA-256 of the plan's file."""
    return hashlib.sha256((folder / FILE_NAME).read_bytes()).hexdigest()


def read_plan(folder: Path) -> dict[str, Any]:
    """The plan in a folder, as plain values.

    Raises:
        DataError: the file is no JSON object.
    """
    path = folder / FILE_NAME
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        tree = None
    if not isinstance(tree, dict):
        raise DataError(f"{path} is not a plan; delete it, and its folder with it")
    return tree


def _explain(key: str, there: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What differs, with both values; of settings each key."""
    before, after = there.get(key), now.get(key)
    if not (isinstance(before, dict) and isinstance(after, dict)):
        return [f"{key}: {_shorten(before)} then, {_shorten(after)} now"]
    keys = sorted(k for k in before | after if before.get(k) != after.get(k))
    return [line for k in keys for line in _explain(k, before, after)]


def _shorten(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:60] + "..."
