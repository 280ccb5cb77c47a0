"""Formulas of the site: every one of them is converted to MathML as LaTeX would set it."""

import re
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

pytest.importorskip("latex2mathml")
ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "docs" / "_extensions"))
from mathml import as_mathml  # noqa: E402

PAGES = [*ROOT.glob("docs/*.md"), *ROOT.glob("docs/*/*.md")]
MODULES = list((ROOT / "src").rglob("*.py"))
SPACE = "{http://www.w3.org/1998/Math/MathML}"


def formulas() -> list[str]:
    """Every formula of the pages and of the docstrings."""
    found = []
    for page in PAGES:
        text = re.sub(r"^```.*?^```|`[^`\n]*`", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
        found += [a or b for a, b in re.findall(r"\$\$(.+?)\$\$|\$([^$\n]+)\$", text, flags=re.DOTALL)]
    for module in MODULES:
        text = module.read_text(encoding="utf-8")
        found += re.findall(r":math:`([^`]+)`", text)
        found += re.findall(r"\.\. math:: (.+?)\n *\n", text, flags=re.DOTALL)
        found += re.findall(r"\.\. math::\n *\n(.+?)\n *\n", text, flags=re.DOTALL)
    return found


def tree(formula: str) -> ET.Element:
    return ET.fromstring(as_mathml(formula, block=False))


def texts(element: ET.Element) -> str:
    return "".join(element.itertext())


def test_every_formula_is_converted():
    found = formulas()
    assert len(found) > 100
    for formula in found:
        fractions = list(tree(formula).iter(f"{SPACE}mfrac"))
        assert len(fractions) == len(re.findall(r"\\[dt]?frac", formula)), formula
        assert all(len(fraction) == 2 and texts(part) for fraction in fractions for part in fraction), formula


def test_fractions_have_braces():
    files = [*PAGES, *MODULES]
    bare = [file.name for file in files if re.search(r"\\[dt]?frac[^{]", file.read_text(encoding="utf-8"))]
    assert bare == []


@pytest.mark.parametrize("formula", [r"\tfrac12 x", r"\tfrac{1}{2} x", r"\frac12 x", r"g - \tfrac12 x"])
def test_one_half_is_one_over_two(formula):
    (fraction,) = tree(formula).iter(f"{SPACE}mfrac")
    assert [texts(part) for part in fraction] == ["1", "2"]


@pytest.mark.parametrize("formula", [r"\bar h_M", r"\bar{h}_{M}", r"\hat h_M", r"\underline h_M"])
def test_a_subscript_stands_behind_its_accented_letter(formula):
    (script,) = tree(formula).iter(f"{SPACE}msub")
    assert [texts(part)[0] for part in script] == ["h", "M"]
    assert not list(tree(formula).iter(f"{SPACE}munderover"))


def test_a_numerator_is_whole():
    (fraction,) = tree(r"\frac{\|J_m v_m\|}{\|v_m\|}").iter(f"{SPACE}mfrac")
    assert [texts(part) for part in fraction] == ["‖Jmvm‖", "‖vm‖"]


@pytest.mark.parametrize("formula", [r"\unknowncommand x", r"\begin{aligned} a &= b \end{aligned}"])
def test_what_is_not_converted_is_an_error(formula):
    with pytest.raises(ValueError, match="formula must use commands"):
        as_mathml(formula, block=True)
