"""How often the judge is wrong, as reward.noise says it: two rates, or a file of `exprl calibrate`.

A file is read when the config is, so that RUN/config.toml holds the rates themselves: a run that
goes on, and `exprl whatif`, use those of its start whatever has become of the file.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from pydantic import AfterValidator, Field, WithJsonSchema

from exprl.errors import ConfigError

LEAST_INFORMATION = 0.2
"""Below it the correction multiplies scores, and their noise, by more than five."""
Rate = Annotated[float, Field(ge=0.0, le=1.0)]


class Noise(NamedTuple):
    """A judge's rates of error, where a grade of 4 or 5 means "right".

    false_positive: share of the wrong solutions that it calls right.
    false_negative: share of the right solutions that it does not.
    """

    false_positive: Rate
    false_negative: Rate

    @property
    def information(self) -> float:
        """1 - FPR - FNR: 1 of a judge without errors, 0 of one that guesses."""
        return 1.0 - self.false_positive - self.false_negative

    def correct(self, score: float) -> float:
        """(score - FPR) / (1 - FPR - FNR), arXiv 2510.18924.

        >>> Noise(0.1, 0.2).correct(0.8)
        1.0
        """
        return (score - self.false_positive) / self.information


def _refuse_guessing(noise: Noise) -> Noise:
    if noise.information < LEAST_INFORMATION:
        raise ValueError(
            f"1 - FPR - FNR is {noise.information:.2f}, below {LEAST_INFORMATION}: such a judge"
            " hardly tells right from wrong, and no correction of its scores mends that; improve"
            " its rubric, its references or its model, and calibrate again"
        )
    return noise


JudgeNoise = Annotated[
    Noise,
    AfterValidator(_refuse_guessing),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "string"},
                {
                    "type": "array",
                    "prefixItems": [{"type": "number"}] * 2,
                    "minItems": 2,
                    "maxItems": 2,
                },
                {
                    "type": "object",
                    "properties": {name: {"type": "number"} for name in Noise._fields},
                    "required": list(Noise._fields),
                    "additionalProperties": False,
                },
            ]
        }
    ),
]
"""What reward.noise holds: rates, or the path of a file that has them."""


def with_rates(tree: dict[str, Any]) -> dict[str, Any]:
    """The plain values of a config, each reward.noise that names a file replaced by its rates.

    Raises:
        ConfigError: a file cannot be read, or holds no such rates.
    """
    judge = tree.get("judge")
    judge = judge if isinstance(judge, dict) else {}
    asked = judge.get("readout", "text"), judge.get("condition", "right")
    reward, domains = tree.get("reward"), tree.get("domains")
    if isinstance(reward, dict):
        tree = {**tree, "reward": _read_file(reward, "reward.noise", asked)}
    if isinstance(domains, dict):
        named = {
            name: _read_file(own, f"domains.{name}.noise", asked) for name, own in domains.items()
        }
        tree = {**tree, "domains": named}
    return tree


def _read_file(section: Any, key: str, asked: tuple[str, str]) -> Any:
    path = section.get("noise") if isinstance(section, dict) else None
    if not isinstance(path, str) or path == "none":
        return section
    where = f"{key} = {path!r}"
    return {**section, "noise": read_rates(Path(path).expanduser(), where, *asked)}


def read_rates(path: Path, where: str, readout: str, condition: str) -> list[float]:
    """[FPR, FNR] of calibration.json.

    Args:
        where: the setting that names the file, for messages.
        readout, condition: the judge's; each of them has rates of its own.

    Raises:
        ConfigError: the file cannot be read, or does not have them.
    """
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(
            f"{where}: cannot be read: {error.strerror}; name the calibration.json that `exprl"
            " calibrate` wrote, or the rates themselves: { false_positive = 0.1, false_negative ="
            " 0.2 }"
        ) from None
    except ValueError as error:
        raise ConfigError(f"{where}: is not JSON: {error}") from None
    readouts = result.get("readouts") if isinstance(result, dict) else None
    if not isinstance(readouts, dict):
        raise ConfigError(
            f"{where}: is not a result of this version's `exprl calibrate`: it has no 'readouts'"
        )
    found = _measured(readouts, readout, f"{where}: judge.readout", "--readout")
    found = _measured(found, condition, f"{where}: judge.condition", "--condition")
    rates = [found[name]["value"] for name in Noise._fields]
    if None in rates:
        kind = "wrong" if rates[0] is None else "right"
        raise ConfigError(
            f"{where}: none of the solutions that the judge graded is {kind}, so that a rate is"
            " unknown; calibrate on solutions of both kinds"
        )
    return rates


def _measured(found: dict[str, Any], name: str, key: str, option: str) -> Any:
    if name not in found:
        raise ConfigError(
            f"{key} is {name!r}, and the file was measured with {', '.join(found)}; run `exprl"
            f" calibrate` again, with {option} {name}"
        )
    return found[name]
