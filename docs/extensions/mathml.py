"""Formulas as MathML, which browsers draw themselves: no script, no fonts, no network."""

from docutils import nodes
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.application import Sphinx
from sphinx.writers.html5 import HTML5Translator


def inline(page: HTML5Translator, formula: nodes.math) -> None:
    """Write a formula that stands in a line of text."""
    page.body.append(tex2mathml(formula.astext()))
    raise nodes.SkipNode


def block(page: HTML5Translator, formula: nodes.math_block) -> None:
    """Write a formula that stands in a line of its own."""
    page.body.append(f'<div class="math">{tex2mathml(formula.astext(), as_block=True)}</div>')
    raise nodes.SkipNode


def setup(app: Sphinx) -> dict[str, bool]:
    """Name the renderer for `html_math_renderer`."""
    app.add_html_math_renderer("mathml", (inline, None), (block, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
