"""Runs to one HTML file that needs no network and runs no script but ours."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from markupsafe import Markup

from exprl import files
from exprl.errors import ConfigError
from exprl.monitor.report import charts, marks, settings, summary
from exprl.monitor.report.runs import Run, find_episodes, read_runs
from exprl.monitor.report.samples import find_samples
from exprl.monitor.report.templates import open_templates
from exprl.run.starts import find_version

HERE = Path(__file__).parent


@dataclass(frozen=True, slots=True)
class Drawing:
    """A chart on the page: its number in the data, its title, and the alarms marked in it."""

    number: int
    title: str
    says: str
    alarms: tuple[str, ...]


def write_report(folders: Sequence[Path], out: Path, *, references: bool = True) -> None:
    """Write the report of one or several runs, whole or not at all.

    Args:
        references: whether rollouts show the hidden references and the judge's words, which quote
            them.

    Raises:
        DataError: a folder is not a run's, or its metrics.jsonl is broken.
        ConfigError: `out` is a folder, or a package of the extra `report` is not installed.
        OSError: the file cannot be written.
    """
    if out.is_dir():
        raise ConfigError(f"{out} is a folder; name a file, such as {out / 'report.html'}")
    files.write_text(out, render(read_runs(folders), references=references))


def render(runs: Sequence[Run], *, references: bool = True) -> str:
    """The page. Everything that does not come from this folder is escaped by Jinja."""
    environment = open_templates(HERE)
    environment.filters |= {
        "model_text": marks.show_text,
        "number": summary.number,
        "percent": summary.percent,
        "when": show_time,
        "signed": summary.signed,
    }
    environment.globals |= {
        "grade_level": marks.grade_level,
        "advantage_level": marks.advantage_level,
    }
    limit = 3 if len(runs) == 1 else 1
    episodes = [find_episodes(run) for run in runs]
    sections, data = draw_sections(runs, episodes)
    scripts = {name: Markup(text) for name, text in read_scripts().items()}
    return environment.get_template("page.html").render(
        title=", ".join(run.name for run in runs),
        version=find_version("exprl") or "",
        now=time.time(),
        policy=security_policy(list(scripts.values())),
        scripts=scripts,
        styles=Markup("\n".join((HERE / name).read_text() for name in ("look.css", "report.css"))),
        data=script_json({"runs": [one_run(run) for run in runs], "charts": data}),
        runs=runs,
        tiles=[summary.find_tiles(run) for run in runs],
        episodes=episodes,
        sections=sections,
        undrawn=charts.undrawn(runs),
        evaluations=summary.evaluation_rows(runs),
        spans=[list(summary.find_spans(run)) for run in runs],
        samples=[find_samples(run, limit, hidden=references) for run in runs],
        differences=settings.find_differences(runs) if len(runs) > 1 else [],
        settings=[settings.list_settings(run) for run in runs],
        spark=summary.SPARK,
    )


def draw_sections(
    runs: Sequence[Run], episodes: Sequence[Sequence[Any]]
) -> tuple[list[tuple[str, list[Drawing]]], list[dict[str, Any]]]:
    """The sections with their charts, and the data of the charts by number."""
    data: list[dict[str, Any]] = []
    sections = []
    for section in charts.choose_sections(runs):
        drawings = []
        for chart, run in charts.spread(section.charts, runs):
            drawn = charts.draw_chart(chart, runs, episodes, run)
            title = (
                chart.title if run is None or len(runs) == 1 else f"{chart.title}: {runs[run].name}"
            )
            names = tuple(dict.fromkeys(alarm["name"] for alarm in drawn["alarms"]))
            drawings.append(Drawing(len(data), title, chart.says, names))
            data.append(drawn)
        sections.append((section.title, drawings))
    return sections, data


def one_run(run: Run) -> dict[str, Any]:
    """What report.js knows of a run."""
    return {"name": run.name, "axes": charts.draw_axes(run)}


def read_scripts() -> dict[str, str]:
    """The scripts of the page: ours, and plotly.js as its package brings it.

    Raises:
        ConfigError: plotly is not installed.
    """
    spec = find_spec("plotly")
    if spec is None or not spec.submodule_search_locations:
        raise ConfigError(
            "a report needs plotly, which is not installed: pip install 'exprl[report]'"
        )
    [folder] = spec.submodule_search_locations
    paths = {
        "theme": HERE / "theme.js",
        "plotly": Path(folder) / "package_data" / "plotly.min.js",
        "report": HERE / "report.js",
    }
    return {name: path.read_text(encoding="utf-8") for name, path in paths.items()}


def security_policy(scripts: Sequence[str]) -> str:
    """A Content-Security-Policy under which exactly these inline scripts run, and nothing loads.

    Styles may stand in the page, because Plotly writes some; no text of a model can.
    """
    hashes = " ".join(f"'sha256-{_sha256(script)}'" for script in scripts)
    return (
        f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; img-src data: blob:;"
        " base-uri 'none'; form-action 'none'"
    )


def script_json(tree: Mapping[str, Any]) -> Markup:
    """JSON that can stand in a <script>: no character of it ends the element.

    >>> script_json({"name": "</script>"})
    Markup('{"name":"\\\\u003c/script>"}')
    """
    text = json.dumps(tree, allow_nan=False, separators=(",", ":"))
    return Markup(re.sub("[<&]", lambda found: f"\\u{ord(found[0]):04x}", text))


def show_time(seconds: float) -> str:
    """A time of day for readers.

    >>> show_time(0.0)
    '1970-01-01 00:00 UTC'
    """
    return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(seconds))


def _sha256(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
