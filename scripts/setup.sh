#!/bin/sh
# Make .venv and install the project in it with the pinned versions, unless that is done already.
# PYTHON names the Python to use; otherwise the first usable one in PATH is taken.
set -eu

usable='import sys; sys.exit(sys.version_info < (3, 11))'

fail() {
    printf '%s\n' "$@" >&2
    exit 1
}

# A name in PATH is no proof: version managers leave commands there for versions that are not installed.
can_make_venv() {
    "$1" -c "import ensurepip, venv; $usable" >/dev/null 2>&1
}

find_python() {
    for name in python3.11 python3 python3.12 python3.13 python3.14; do
        rest=$PATH:
        while [ -n "$rest" ]; do
            candidate=${rest%%:*}/$name
            rest=${rest#*:}
            if [ -x "$candidate" ] && can_make_venv "$candidate"; then
                printf '%s\n' "$candidate"
                return
            fi
        done
    done
    return 1
}

# What the installation depends on: the folder too, since an editable install points at it.
wanted() {
    pwd
    cat pyproject.toml constraints.txt oracles.txt
}

if ! .venv/bin/python -c "import pip; $usable" >/dev/null 2>&1; then
    if [ -n "${PYTHON:-}" ]; then
        can_make_venv "$PYTHON" || fail "PYTHON must be Python 3.11 or newer with its venv module, got '$PYTHON'."
        python=$PYTHON
    else
        python=$(find_python) || fail \
            "noisyrnn needs Python 3.11 or newer with its venv module, and there is none in PATH." \
            "Install one and run make again: 'sudo apt install python3 python3-venv' on Debian or Ubuntu," \
            "'sudo dnf install python3' on Fedora, 'brew install python' on macOS, else from www.python.org." \
            "A Python that is not in PATH is named like this: make test PYTHON=its-path"
    fi
    echo "Making .venv with $python"
    rm -rf .venv
    "$python" -m venv .venv || fail "'$python -m venv' failed: see above."
fi

if ! wanted | cmp -s - .venv/installed; then
    echo "Installing noisyrnn and what it needs into .venv: a few minutes the first time"
    rm -f .venv/installed
    # An older pip, such as the one that Python 3.11 brings, takes longer.
    .venv/bin/python -m pip install --disable-pip-version-check --quiet --upgrade -c constraints.txt pip ||
        echo "pip could not be upgraded: the installation goes on with the one that is there." >&2
    # --no-compile: Python compiles a module when it first imports it; most of these never are.
    .venv/bin/python -m pip install --disable-pip-version-check --no-compile -c constraints.txt -e '.[dev]' || fail \
        "The installation failed: see above. It needs the package registry; run make again to go on."
    # A test that misses one of these is skipped, and says so.
    .venv/bin/python -m pip install --disable-pip-version-check --no-compile --no-deps -r oracles.txt ||
        echo "The oracles of oracles.txt could not be installed: the tests that compare with them will be skipped." >&2
    # Written last and moved into place, so that an interrupted installation is not taken for a finished one.
    wanted >.venv/installed.part
    mv .venv/installed.part .venv/installed
fi
