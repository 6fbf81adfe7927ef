"""Settings of the site: Sphinx reads the Markdown pages of this folder (`make docs`)."""

import sys
from pathlib import Path

from pygments.lexers.data import JsonLexer
from sphinx.highlighting import lexers

import exprl

sys.path.insert(0, str(Path(__file__).parent / "extensions"))

project = "exprl"
project_copyright = "the exprl authors, Apache-2.0"
release = exprl.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "from_code",
    "mathml",
    "offline",
]
exclude_patterns = ["extensions"]

# ```math is a formula here and on a forge alike; formulas become MathML, which needs no script.
myst_enable_extensions = ["dollarmath"]
myst_fence_as_directive = ["math"]
myst_heading_anchors = 4
html_math_renderer = "mathml"

# Docstrings write code in single backticks, as Markdown does.
default_role = "code"
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
napoleon_use_ivar = True
napoleon_attr_annotations = False
maximum_signature_line_length = 88
python_use_unqualified_type_names = True

lexers["jsonl"] = JsonLexer()

html_theme = "furo"
html_title = "exprl"
html_static_path = ["static"]
html_css_files = ["site.css"]
# Texts of settings and commands keep their straight quotes.
smartquotes = False
html_show_sphinx = False
html_copy_source = False
html_show_sourcelink = False
templates_path: list[str] = []
