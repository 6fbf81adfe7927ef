"""Formulas as MathML, which browsers draw themselves: no script, no fonts, no network."""

from docutils import nodes
from docutils.utils.math import MathError
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.application import Sphinx
from sphinx.util import logging
from sphinx.writers.html5 import HTML5Translator


def inline(page: HTML5Translator, formula: nodes.math) -> None:
    """Write a formula that stands in a line of text."""
    page.body.append(mathml(formula))
    raise nodes.SkipNode


def block(page: HTML5Translator, formula: nodes.math_block) -> None:
    """Write a formula that stands in a line of its own."""
    page.body.append(f'<div class="math">{mathml(formula, as_block=True)}</div>')
    raise nodes.SkipNode


def mathml(formula: nodes.Element, as_block: bool = False) -> str:
    """The formula, or a warning with its place: docutils knows a part of LaTeX."""
    try:
        return str(tex2mathml(formula.astext(), as_block=as_block))
    except MathError as error:
        logging.getLogger(__name__).warning("formula: %s", error, location=formula)
        return ""


def setup(app: Sphinx) -> dict[str, bool]:
    """Name the renderer for `html_math_renderer`."""
    app.add_html_math_renderer("mathml", (inline, None), (block, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
