"""What is not collected where an optional dependency is missing."""

from importlib.util import find_spec

collect_ignore = [] if find_spec("aeon") else ["src/noisyrnn/estimators/aeon.py"]
