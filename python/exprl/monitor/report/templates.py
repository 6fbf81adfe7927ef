"""Templates of pages: what does not come from a template is escaped."""

from __future__ import annotations

from pathlib import Path

import jinja2


def open_templates(folder: Path) -> jinja2.Environment:
    """The templates of a folder. A name that a template does not get is an error."""
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(folder),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
