"""What a what-if found: on the terminal, as JSON, and rollout by rollout as Parquet."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.console import Console
from rich.table import Table

from exprl import files
from exprl.errors import ConfigError
from exprl.judge import Forecast
from exprl.study.whatif.differences import SIGNS, Pair, RolloutDifference

if TYPE_CHECKING:
    from exprl.study.whatif.whatif import WhatIf

SHOWN = 10
"""Problems on the terminal."""
NAMES = {
    "reward": "mean reward",
    "missing": "rollouts out: no score",
    "masked": "rollouts out: overlong",
    "missing_steps": "steps without a grade",
    "bridged_steps": "steps joined to the next",
    "silent_groups": "groups that teach nothing",
}


def show_forecast(console: Console, forecast: Forecast) -> None:
    """What the judge would be asked, and what that would cost."""
    if not forecast.requests and not forecast.from_ledger:
        console.print("judge: nothing to ask; the run's files have every grade that is needed")
        return
    console.print(
        f"judge: {forecast.requests:,} requests to send; the ledger answers"
        f" {forecast.from_ledger:,}",
        highlight=False,
    )
    if not forecast.requests:
        return
    cost = "judge.prices names no prices"
    if forecast.cost is not None and forecast.most_cost is not None:
        cost = f"cost {forecast.cost:,.2f}, at most {forecast.most_cost:,.2f} (judge.prices)"
    console.print(
        f"about {forecast.prompt_tokens:,} prompt tokens, of which a prefix cache may hold"
        f" {forecast.cached_tokens:,}; about {forecast.completion_tokens:,} tokens of replies, at"
        f" most {forecast.most_completion_tokens:,}; {cost}",
        highlight=False,
    )


def show(console: Console, found: WhatIf) -> None:
    """Settings, shares, correlations, and the problems that change most."""
    counts = found.counts
    console.print(
        f"{found.run}: {_count(len(found.steps), 'step')}, {counts.rollouts:,} rollouts of"
        f" {_count(counts.groups, 'group')}, {counts.tokens:,} tokens",
        highlight=False,
    )
    console.print(_settings(found))
    console.print(_counts(found))
    console.print(
        f"Of the tokens that are trained on in both, {_percent(found.flipped)} change the sign of"
        f" their advantage.\nCorrelation of advantages: per token"
        f" {_number(found.token_correlation, '.3f')}, per rollout"
        f" {_number(found.rollout_correlation, '.3f')}.",
        highlight=False,
    )
    console.print(_transitions(found))
    if found.replaced:
        console.print(
            f"The run replaced {_count(found.replaced, 'group')} that taught nothing"
            f" (rollout.redraw); {found.replaced_teach} of them would teach here. They are not"
            " counted above.",
            highlight=False,
        )
    if found.reason is not None:
        console.print(str(found.reason), markup=False, highlight=False)
    console.print(_problems(found))


def _settings(found: WhatIf) -> Table:
    table = Table("setting", "the run", "what if", title="What differs", title_justify="left")
    for key, (before, after) in found.settings.items():
        table.add_row(key, _text(before), _text(after))
    if not found.settings:
        table.add_row("none: the run's own settings", "", "")
    return table


def _counts(found: WhatIf) -> Table:
    table = Table("", "the run", "what if")
    for name, title in NAMES.items():
        pair: Pair = getattr(found.counts, name)
        form = ".4f" if name == "reward" else ",.0f"
        table.add_row(title, *(_number(value, form) for value in pair))
    return table


def _transitions(found: WhatIf) -> Table:
    table = Table(
        "advantage in the run",
        *(f"what if: {sign}" for sign in SIGNS),
        title="Share of all tokens",
        title_justify="left",
    )
    total = found.transitions.sum()
    for sign, row in zip(SIGNS, found.transitions, strict=True):
        shares = row / total if total else np.full(len(SIGNS), math.nan)
        table.add_row(sign, *map(_percent, shares))
    return table


def _problems(found: WhatIf) -> Table:
    more = len(found.problems) - SHOWN
    table = Table(
        *("problem", "rollouts", "reward", "missing", "flipped", "change"),
        title="Problems whose advantages change most",
        title_justify="left",
        caption=f"and {more} more; -o FILE.json has all" if more > 0 else None,
        caption_justify="left",
    )
    for one in found.problems[:SHOWN]:
        table.add_row(
            _text(one.problem_id),
            str(one.rollouts),
            _arrow(one.reward, ".3f"),
            _arrow(one.missing, ".0f"),
            _percent(one.flipped),
            _number(one.change, ".3f"),
        )
    return table


def check_output(path: Path) -> None:
    """Refuse a file whose name does not say what it is to hold.

    Raises:
        ConfigError: it ends neither in .json nor in .parquet.
    """
    if path.suffix not in (".json", ".parquet"):
        raise ConfigError(
            f"-o {path}: name a file that ends in .json (everything but the single rollouts) or in"
            " .parquet (a row per rollout)"
        )


def write(path: Path, found: WhatIf) -> None:
    """Write what was found, as JSON or rollout by rollout as Parquet."""
    check_output(path)
    if path.suffix == ".json":
        files.write_json(path, to_json(found))
        return
    from pyarrow import parquet

    with files.write_atomically(path) as partial:
        parquet.write_table(_table(found.rollouts), partial, compression="zstd")


def to_json(found: WhatIf) -> dict[str, Any]:
    """Plain JSON values; NaN, where there is no number, is null."""
    tree = {
        "run": str(found.run),
        "steps": list(found.steps),
        "settings": _pairs(found.settings),
        "treatments": {domain: _pairs(differ) for domain, differ in found.treatments.items()},
        "judge": found.forecast._asdict(),
        "counts": _dict(found.counts),
        "flipped": found.flipped,
        "token_correlation": found.token_correlation,
        "rollout_correlation": found.rollout_correlation,
        "signs": list(SIGNS),
        "tokens_by_sign": found.transitions.tolist(),
        "replaced_groups": found.replaced,
        "replaced_groups_that_teach": found.replaced_teach,
        "problems": [_dict(one) for one in found.problems],
        "commonest_reason": None if found.reason is None else str(found.reason),
    }
    return dict(_no_nan(tree))


def _table(rollouts: Sequence[RolloutDifference]) -> Any:
    """A row per rollout, in the order of the run's files."""
    import pyarrow as pa

    floats = pa.list_(pa.float64())
    was = [one.was for one in rollouts]
    now = [one.scored for one in rollouts]
    return pa.table(
        {
            "step": pa.array([one.step for one in rollouts], pa.int32()),
            "row": pa.array([one.row for one in rollouts], pa.int32()),
            "problem_id": pa.array([s.rollout.problem_id for s in was], pa.string()),
            "domain": pa.array([s.domain for s in was], pa.string()),
            "index": pa.array([s.rollout.index for s in was], pa.int32()),
            "scores_before": pa.array([s.scores for s in was], floats),
            "scores_after": pa.array([s.scores for s in now], floats),
            "grades_before": pa.array([s.grades for s in was], pa.list_(pa.int8())),
            "grades_after": pa.array([s.grades for s in now], pa.list_(pa.int8())),
            "missing_before": pa.array([s.missing for s in was], pa.bool_()),
            "missing_after": pa.array([s.missing for s in now], pa.bool_()),
            "reasons_after": pa.array([s.reasons for s in now], pa.list_(pa.string())),
            "piece_end": files.list_column([one.ends for one in rollouts], pa.int64()),
            "advantages_before": files.list_column(
                [one.before for one in rollouts], pa.float64(), nan_is_null=True
            ),
            "advantages_after": files.list_column(
                [one.after for one in rollouts], pa.float64(), nan_is_null=True
            ),
        }
    )


def _pairs(settings: Any) -> dict[str, Any]:
    return {key: {"before": before, "after": after} for key, (before, after) in settings.items()}


def _dict(value: Any) -> dict[str, Any]:
    """A dataclass whose pairs are named."""
    return {
        name: Pair(*part)._asdict() if isinstance(part, tuple) else part
        for name, part in asdict(value).items()
    }


def _no_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _no_nan(below) for key, below in value.items()}
    if isinstance(value, list):
        return [_no_nan(below) for below in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def _text(value: Any) -> str:
    """For a cell: without the markup and the control characters that a name may hold."""
    text = "".join(c if c.isprintable() else "?" for c in str(value))
    return text.replace("[", r"\[")


def _arrow(pair: Pair, form: str) -> str:
    """Before and after; one number where they do not differ."""
    before, after = (_number(value, form) for value in pair)
    return before if before == after else f"{before} \N{RIGHTWARDS ARROW} {after}"


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


def _number(value: float, form: str) -> str:
    return "-" if math.isnan(value) else format(value, form)


def _percent(share: float) -> str:
    return "-" if math.isnan(share) else f"{share:.1%}"
