"""Formulas as MathML, which browsers draw themselves: the pages need no script and no network."""

import re

from docutils import nodes
from latex2mathml.converter import convert
from sphinx.application import Sphinx
from sphinx.writers.html5 import HTML5Translator

NOT_CONVERTED = re.compile(r">[^<]*(\\|&(?!#?\w+;))")
"""Text in MathML that is still LaTeX: a command that the converter does not know, or an alignment."""


def as_mathml(formula: str, *, block: bool) -> str:
    """Convert LaTeX to MathML.

    Raises:
        ValueError: If a part of the formula is not converted.
    """
    converted = convert(formula, display="block" if block else "inline")
    if NOT_CONVERTED.search(converted):
        raise ValueError(f"formula must use commands that latex2mathml knows, got {formula!r}.")
    return converted


def visit_math(writer: HTML5Translator, node: nodes.math) -> None:
    """Write a formula within a line."""
    writer.body.append(as_mathml(node.astext(), block=False))
    raise nodes.SkipNode


def visit_math_block(writer: HTML5Translator, node: nodes.math_block) -> None:
    """Write a formula on lines of its own."""
    writer.body.append(f'<div class="math">{as_mathml(node.astext(), block=True)}</div>\n')
    raise nodes.SkipNode


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the renderer under the name "mathml"."""
    app.add_html_math_renderer("mathml", inline_renderers=(visit_math, None), block_renderers=(visit_math_block, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
