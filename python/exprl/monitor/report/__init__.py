"""The report of runs: one HTML file that needs no network. Its look is the viewer's, too."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

FILE_NAME = "report.html"
PACKAGES = ("jinja2", "plotly")
"""Of the extra `report`."""


def try_report(
    run_dir: Path, tell: Callable[[str], object], publish: Callable[[Path], object]
) -> None:
    """Write RUN/report.html for a run that ends; a report that cannot be written fails no run.

    Args:
        tell: is told where the report is, or why there is none.
        publish: takes the written file to the trackers.
    """
    missing = [name for name in PACKAGES if find_spec(name) is None]
    if missing:
        tell(
            f"no report of this run is written, because {' and '.join(missing)} is not installed:"
            f" pip install 'exprl[report]', then exprl report {run_dir}"
        )
        return
    out, lacks = run_dir / FILE_NAME, "written"
    try:
        from exprl.monitor.report.page import write_report

        write_report([run_dir], out)
        tell(f"report: {out}")
        lacks = "given to the trackers"
        publish(out)
    except Exception as error:  # whatever it is, the run is done and saved
        tell(f"the report was not {lacks}: {type(error).__name__}: {error}")
