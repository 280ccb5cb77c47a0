#!/bin/sh
# Check and time the GPU kernel on this machine, in under eight minutes; --help shows the options.
# PYTHON names the Python to use; otherwise that of .venv, else python3.
set -eu

cd "$(dirname "$0")/.."
python=${PYTHON:-.venv/bin/python}
[ -x "$python" ] || command -v "$python" >/dev/null 2>&1 || python=python3
exec "$python" -m benchmarks.gpu_check "$@"
