"""The report of runs: one HTML file that needs no network. Its look is the viewer's, too."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

FILE_NAME = "report.html"
PACKAGES = ("jinja2", "plotly")
"""Of the extra `report`."""


def try_report(run_dir: Path, warn: Callable[[str], object]) -> Path | None:
    """Write RUN/report.html for a run that ends; a report that cannot be written fails no run.

    Args:
        warn: is told why there is no report.

    Returns:
        The file; None where it was not written.
    """
    missing = [name for name in PACKAGES if find_spec(name) is None]
    if missing:
        warn(
            f"no report of this run is written, because {' and '.join(missing)} is not installed:"
            f" pip install 'exprl[report]', then exprl report {run_dir}"
        )
        return None
    out = run_dir / FILE_NAME
    try:
        from exprl.monitor.report.page import write_report

        write_report([run_dir], out)
    except Exception as error:  # whatever it is, the run is done and saved
        warn(
            f"the report was not written ({type(error).__name__}: {error}); exprl report {run_dir}"
        )
        return None
    return out
