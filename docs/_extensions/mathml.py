"""Formulas as MathML, which browsers draw themselves: the pages need no script and no network."""

import re

from docutils import nodes
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.application import Sphinx
from sphinx.writers.html5 import HTML5Translator

REPLACED = {
    r"\\[Bb]igg?[lr]?(?![A-Za-z])": "",  # MathML chooses the sizes of delimiters itself
    r"\\dots(?![A-Za-z])": r"\\ldots",
}
"""What the converter does not know, and what stands for it."""


def as_mathml(formula: str, *, block: bool) -> str:
    """LaTeX as MathML."""
    for pattern, text in REPLACED.items():
        formula = re.sub(pattern, text, formula)
    return str(tex2mathml(formula, as_block=block))


def visit_math(writer: HTML5Translator, node: nodes.math) -> None:
    """A formula within a line."""
    writer.body.append(as_mathml(node.astext(), block=False))
    raise nodes.SkipNode


def visit_math_block(writer: HTML5Translator, node: nodes.math_block) -> None:
    """A formula on lines of its own."""
    writer.body.append(f'<div class="math">{as_mathml(node.astext(), block=True)}</div>\n')
    raise nodes.SkipNode


def setup(app: Sphinx) -> dict[str, bool]:
    """Make the renderer known under the name "mathml"."""
    app.add_html_math_renderer("mathml", inline_renderers=(visit_math, None), block_renderers=(visit_math_block, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
