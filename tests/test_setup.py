"""Setting up: declared dependencies, pinned versions, and scripts/setup.sh with a stand-in for Python."""

import ast
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import noisyrnn

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
CONSTRAINTS = [
    line for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines() if not line.startswith("#")
]

# Where a package is imported under another name than it is installed under.
INSTALLED_AS = {
    "PIL": "pillow",
    "sklearn": "scikit-learn",
    "yaml": "pyyaml",
    "lightning_fabric": "lightning-fabric",
    "lazy_loader": "lazy-loader",
    "mlflow": "mlflow-skinny",
}
BROUGHT_ALONG = {"markupsafe": "jinja2", "docstring_parser": "jsonargparse"}


def name_of(requirement: str) -> str:
    return re.split(r"[\[<>=!~; ]", requirement)[0].lower().replace("_", "-")


def declared(*extras: str) -> set[str]:
    project = PROJECT["project"]
    requirements = list(project["dependencies"])
    for extra in extras:
        requirements += project["optional-dependencies"][extra]
    return {name_of(requirement) for requirement in requirements} - {"noisyrnn"}


def third_party_imports() -> set[str]:
    names = set()
    for path in (ROOT / "src").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                names.add(node.module.split(".")[0])
    return names - set(sys.stdlib_module_names) - {"noisyrnn"}


# Declarations


def test_every_import_is_declared():
    needed = {INSTALLED_AS.get(name, BROUGHT_ALONG.get(name, name)) for name in third_party_imports()}
    assert needed <= declared("cluster", "data", "ucr", "gpu", "export", "sweep", "tracking")


def test_every_dependency_is_pinned():
    assert declared("cluster", "data", "dev", "docs", "export", "gpu", "bench", "sweep", "tracking") <= {
        name_of(line) for line in CONSTRAINTS
    }


def test_constraints_hold_names_and_versions_only():
    assert [line for line in CONSTRAINTS if not re.fullmatch(r"[A-Za-z0-9._-]+==[0-9][0-9A-Za-z.]*", line)] == []
    assert "torch==2.13.0" in CONSTRAINTS
    assert len({name_of(line) for line in CONSTRAINTS}) == len(CONSTRAINTS)


def test_the_versions_for_aeon_differ_from_the_pinned_ones_where_they_must():
    lines = (ROOT / "scripts" / "aeon.txt").read_text(encoding="utf-8").splitlines()
    pins = [line for line in lines if not line.startswith("#")]
    assert [line for line in pins if not re.fullmatch(r"[A-Za-z0-9._-]+==[0-9][0-9A-Za-z.]*", line)] == []
    pinned = {name_of(line) for line in CONSTRAINTS}
    assert {line for line in pins if name_of(line) in pinned} - set(CONSTRAINTS) == {"numpy==2.3.5", "pandas==3.0.6"}


def test_every_dependency_has_a_reason():
    rows = (ROOT / "docs" / "dependencies.md").read_text(encoding="utf-8").lower()
    assert [
        name
        for name in sorted(declared("cluster", "ucr", "dev", "docs", "export", "sweep", "tracking"))
        if f"`{name}`" not in rows
    ] == []


def test_the_version_has_one_source():
    assert PROJECT["project"]["dynamic"] == ["version"]
    assert PROJECT["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "noisyrnn.__version__"}
    assert re.fullmatch(r"\d+\.\d+\.\d+", noisyrnn.__version__)
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert f"## [{noisyrnn.__version__}]" in changelog


def test_data_files_are_packaged():
    patterns = PROJECT["tool"]["setuptools"]["package-data"]["noisyrnn"]
    package = ROOT / "src" / "noisyrnn"
    packaged = {path for pattern in patterns for path in package.glob(pattern)}
    others = {
        path
        for path in package.rglob("*")
        if path.is_file() and path.suffix not in {".py", ".pyc"} and not path.name.startswith(".")
    }
    assert others <= packaged


def test_the_licence_is_apache():
    text = (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert "Version 2.0, January 2004" in text
    assert "9. Accepting Warranty or Additional Liability" in text
    assert "APPENDIX: How to apply the Apache License to your work" in text
    assert PROJECT["project"]["license"] == "Apache-2.0"


# scripts/setup.sh

FAKE_PYTHON = """#!/bin/sh
# Behaves like Python as far as scripts/setup.sh goes, and notes what it was asked to do.
case "$1 $2" in
    "-c "*) exit 0 ;;
    "-m venv") mkdir -p .venv/bin && cp "$0" .venv/bin/python && echo venv >>log ;;
    "-m pip") echo "pip $*" >>log; [ ! -e pip-fails ] ;;
    *) exit 1 ;;
esac
"""

needs_sh = pytest.mark.skipif(
    any(shutil.which(tool) is None for tool in ("sh", "make", "cmp")), reason="needs sh, make and cmp"
)


class Checkout:
    """What the set-up reads, in a folder with a space, and a PATH of a few tools and a stand-in for Python."""

    def __init__(self, root: Path) -> None:
        self.folder = root / "a folder"
        self.tools = root / "tools"
        (self.folder / "scripts").mkdir(parents=True)
        self.tools.mkdir()
        for name in ("Makefile", "pyproject.toml", "constraints.txt", "oracles.txt", "scripts/setup.sh"):
            shutil.copy(ROOT / name, self.folder / name)
        for name in ("sh", "make", "cmp", "cat", "mkdir", "cp", "mv", "rm", "sed"):
            tool = shutil.which(name)
            assert tool is not None
            (self.tools / name).symlink_to(tool)

    def add_python(self, name: str = "python3.11", text: str = FAKE_PYTHON) -> None:
        path = self.tools / name
        path.write_text(text, encoding="utf-8")
        path.chmod(0o755)

    def make(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [str(self.tools / "make"), *arguments]
        return subprocess.run(
            command, cwd=self.folder, env={"PATH": str(self.tools)}, capture_output=True, text=True, timeout=60
        )

    def log(self) -> list[str]:
        """What the stand-in was asked to do since the last call."""
        path = self.folder / "log"
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        path.unlink(missing_ok=True)
        return [line.split()[0] for line in lines]

    def assert_setup_runs(self, *steps: str) -> None:
        """The set-up succeeds and takes these steps."""
        assert self.make("setup").returncode == 0
        assert self.log() == list(steps)


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return Checkout(tmp_path)


@needs_sh
def test_setup_installs_once(checkout):
    checkout.add_python()
    first = checkout.make("setup")
    assert first.returncode == 0, first.stderr
    assert checkout.log() == ["venv", "pip", "pip", "pip"]
    second = checkout.make("setup")
    assert (second.returncode, second.stdout) == (0, "")
    assert checkout.log() == []


@needs_sh
def test_setup_installs_with_the_constraints(checkout):
    checkout.add_python()
    checkout.make("setup")
    log = (checkout.folder / "log").read_text()
    assert "install --disable-pip-version-check --quiet --upgrade -c constraints.txt pip" in log
    assert "install --disable-pip-version-check --no-compile -c constraints.txt -e .[dev]" in log
    assert "install --disable-pip-version-check --no-compile --no-deps -r oracles.txt" in log


@needs_sh
@pytest.mark.parametrize("name", ["pyproject.toml", "constraints.txt", "oracles.txt"])
def test_setup_installs_again_after_an_edit(checkout, name):
    checkout.add_python()
    checkout.make("setup")
    checkout.log()
    with (checkout.folder / name).open("a") as file:
        file.write("# edited\n")
    checkout.assert_setup_runs("pip", "pip", "pip")


@needs_sh
def test_setup_installs_again_after_a_move(checkout):
    checkout.add_python()
    checkout.make("setup")
    checkout.log()
    checkout.folder = checkout.folder.rename(checkout.folder.with_name("moved"))
    checkout.assert_setup_runs("pip", "pip", "pip")


@needs_sh
def test_a_failed_installation_is_not_taken_for_a_finished_one(checkout):
    checkout.add_python()
    (checkout.folder / "pip-fails").touch()
    failed = checkout.make("setup")
    assert failed.returncode != 0
    assert (
        "The installation failed: see above. It needs the package registry; run make again to go on." in failed.stderr
    )
    checkout.log()
    (checkout.folder / "pip-fails").unlink()
    checkout.assert_setup_runs("pip", "pip", "pip")


@needs_sh
def test_an_edit_that_failed_and_was_taken_back_installs_again(checkout):
    checkout.add_python()
    checkout.make("setup")
    constraints = checkout.folder / "constraints.txt"
    before = constraints.read_text(encoding="utf-8")
    constraints.write_text(before + "# edited\n", encoding="utf-8")
    (checkout.folder / "pip-fails").touch()
    assert checkout.make("setup").returncode != 0
    checkout.log()
    constraints.write_text(before, encoding="utf-8")
    (checkout.folder / "pip-fails").unlink()
    checkout.assert_setup_runs("pip", "pip", "pip")


@needs_sh
def test_a_broken_environment_is_made_again(checkout):
    checkout.add_python()
    checkout.make("setup")
    checkout.log()
    (checkout.folder / ".venv" / "bin" / "python").unlink()
    (checkout.folder / ".venv" / "bin" / "python").symlink_to("nowhere")
    checkout.assert_setup_runs("venv", "pip", "pip", "pip")


@needs_sh
def test_a_python_that_does_not_run_is_passed_over(checkout):
    checkout.add_python("python3.11", "#!/bin/sh\nexit 127\n")
    checkout.add_python("python3")
    done = checkout.make("setup")
    assert done.returncode == 0
    assert f"Making .venv with {checkout.tools}/python3\n" in done.stdout


@needs_sh
@pytest.mark.parametrize("target", ["demo", "test", "lint"])
def test_without_python_the_message_says_what_to_install(checkout, target):
    done = checkout.make(target)
    assert done.returncode != 0
    assert "noisyrnn needs Python 3.11 or newer with its venv module, and there is none in PATH." in done.stderr
    assert "'sudo apt install python3 python3-venv' on Debian or Ubuntu" in done.stderr
    assert not (checkout.folder / ".venv").exists()


@needs_sh
def test_an_unusable_python_by_name_is_refused(checkout):
    checkout.add_python()
    done = checkout.make("setup", "PYTHON=python2")
    assert done.returncode != 0
    assert "PYTHON must be Python 3.11 or newer with its venv module, got 'python2'." in done.stderr


@needs_sh
def test_help_lists_the_targets(checkout):
    shown = checkout.make().stdout
    for target in ("demo", "test", "lint", "coverage", "setup", "clean"):
        assert f"make {target}" in shown
