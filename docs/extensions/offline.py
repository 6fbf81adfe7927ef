"""The site must work without a network: no page may fetch a script, style or picture."""

import re
from pathlib import Path

from sphinx.application import Sphinx
from sphinx.errors import ExtensionError

FETCHED = re.compile(r'<(?:script|link|img|iframe)[^>]*\b(?:src|href)="((?:https?:)?//[^"]*)"')


def check(app: Sphinx, error: Exception | None) -> None:
    """Fail the build with the pages that fetch something."""
    if error is None:
        for page in Path(app.outdir).rglob("*.html"):
            if found := FETCHED.search(page.read_text(encoding="utf-8")):
                raise ExtensionError(f"{page} fetches {found[1]}: keep a copy in docs/static")


def setup(app: Sphinx) -> dict[str, bool]:
    """Called by Sphinx."""
    app.connect("build-finished", check)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
