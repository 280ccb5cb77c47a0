"""Settings of the site: `python -m sphinx -W -b html docs build/docs` builds it."""

import sys
from pathlib import Path

from noisyrnn import __version__

sys.path.insert(0, str(Path(__file__).parent / "_extensions"))

project = "noisyrnn"
author = "The noisyrnn developers"
project_copyright = "the noisyrnn developers"
version = release = __version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode", "mathml"]
myst_enable_extensions = ["dollarmath", "amsmath", "deflist"]
myst_heading_anchors = 3
suppress_warnings = ["myst.header"]  # the tables that the benchmark writes stand two levels down
exclude_patterns = ["_extensions"]

html_theme = "furo"
html_title = f"noisyrnn {version}"
html_math_renderer = "mathml"
html_copy_source = False
html_show_sphinx = False

smartquotes = False  # "ito" is an argument, to be copied as it is
default_role = "literal"  # the docstrings write `name` where reStructuredText wants ``name``
python_maximum_signature_line_length = 100
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True  # an attribute that is also a property is described once
