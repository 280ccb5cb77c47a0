"""The layout holds: data flow one way, every module says what it is, nothing names a machine."""

import ast
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "noisyrnn"

LAYERS = [
    {
        "checks",
        "display",
        "files",
        "interruption",
        "missing",
        "padding",
        "progress",
        "published_table",
        "redact",
        "registry",
        "step_lengths",
        "targets",
        "threads",
    },
    {"locks"},
    {"run_folder"},
    {"data"},
    {"native"},
    {"sde"},
    {"noise"},
    {"kernels"},
    {"models"},
    {"robustness"},
    {"training"},
    {"analysis"},
    {"report"},
    {"pipeline"},
    {"estimators", "export", "doctor"},
    {"cli"},
    {"__main__"},
]
RANK = {name: rank for rank, names in enumerate(LAYERS) for name in names}

# To its left, and still not for it: perturbations take any callable, and the report reads files.
NOT_FOR = {
    "robustness": {"models"},
    "report": {"data", "native", "noise", "sde", "kernels", "models", "training"},
}

_STARTS = "home|root|Users|work|opt|mnt|tmp|var"
ABSOLUTE_PATH = re.compile(rf"(?<![\w.~/>}}:-])/(?:{_STARTS})/\w|\b[A-Z]:\\\w")
REGISTRY = re.compile(
    r"pypi\.(?:org|io)|python" + r"hosted\.org|download\.py" + r"torch\.org|ana" + r"conda\.(?:org|com)|index" + r"-url"
)


def imported(tree: ast.Module, module: list[str]) -> set[str]:
    """Dotted names of ours that `module` (its path within the package, as a list) imports, wherever it does so."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = [node.module] if node.module else []
            if node.level:
                base = ["noisyrnn", *module[: len(module) - node.level], *base]
            names |= {".".join([*base, alias.name]) for alias in node.names}
    return {name for name in names if name.split(".")[0] == "noisyrnn"}


def layer_violations(package: Path) -> list[str]:
    """One sentence for each import that does not go to the left."""
    found = []
    for path in sorted(package.rglob("*.py")):
        module = list(path.relative_to(package).with_suffix("").parts)
        here = module[0]
        if here == "__init__":
            continue
        if here not in RANK:
            found.append(f"{path.name}: {here} has no place in LAYERS")
            continue
        for name in sorted(imported(ast.parse(path.read_text(encoding="utf-8")), module)):
            there = [*name.split("."), ""][1]
            if there == "__version__" or there == here:
                continue
            if there not in RANK:
                found.append(f"{'.'.join(module)} imports {name}: name the module it comes from")
            elif RANK[there] >= RANK[here] or there in NOT_FOR.get(here, ()):
                found.append(f"{'.'.join(module)} imports {name}")
    return found


def missing_docstrings(package: Path) -> list[str]:
    paths = sorted(package.rglob("*.py"))
    return [path.name for path in paths if not ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))]


def machine_names(text: str) -> list[str]:
    """Absolute paths and package registries that a text names."""
    return [match.group() for pattern in (ABSOLUTE_PATH, REGISTRY) for match in pattern.finditer(text)]


def repository_files() -> list[Path]:
    """Every file that is, or would be, part of the repository."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("not a git checkout, so what belongs to the repository is not known")
    return [ROOT / name for name in listed.split("\0") if name and (ROOT / name).is_file()]


def write(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return folder


def test_architecture_names_files_that_exist():
    text = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    assert [
        name for name in re.findall(r"`((?:src|tests|docs|benchmarks)/[^`]*)`", text) if not (ROOT / name).exists()
    ] == []
    folders = {path.name for path in PACKAGE.iterdir() if path.is_dir() and any(path.rglob("*.[pty]*"))} - {
        "__pycache__"
    }
    assert folders <= set(re.findall(r"`(\w+)/`", text))


def test_a_folder_imports_only_from_its_left():
    assert layer_violations(PACKAGE) == []


def test_every_layer_has_its_place():
    there = {path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}
    assert there - {"__init__"} <= set(RANK)


def test_every_module_has_a_docstring():
    assert missing_docstrings(PACKAGE) == []


def test_no_file_names_a_machine_or_a_registry():
    named = {}
    for path in repository_files():
        try:
            found = machine_names(path.read_text(encoding="utf-8"))
        except UnicodeDecodeError:
            continue
        if found:
            named[str(path.relative_to(ROOT))] = found
    assert named == {}


@pytest.mark.parametrize(
    ("file", "line", "found"),
    [
        ("data/a.py", "from noisyrnn.models.cell import Cell", ["data.a imports noisyrnn.models.cell.Cell"]),
        ("data/a.py", "import noisyrnn.cli", ["data.a imports noisyrnn.cli"]),
        ("data/a.py", "from noisyrnn import models", ["data.a imports noisyrnn.models"]),
        ("data/a.py", "from ..models import MODELS", ["data.a imports noisyrnn.models.MODELS"]),
        ("data/a.py", "def f():\n    from noisyrnn.sde import drift", ["data.a imports noisyrnn.sde.drift"]),
        ("data/__init__.py", "from ..sde import x", ["data.__init__ imports noisyrnn.sde.x"]),
        ("checks.py", "from noisyrnn.data import split", ["checks imports noisyrnn.data.split"]),
        ("robustness/a.py", "from noisyrnn.models import MODELS", ["robustness.a imports noisyrnn.models.MODELS"]),
        ("sde/a.py", "from noisyrnn import fit", ["sde.a imports noisyrnn.fit: name the module it comes from"]),
        ("other/a.py", "", ["a.py: other has no place in LAYERS"]),
        (
            "models/a.py",
            "from noisyrnn.sde import drift\nfrom . import b\nfrom .b import c\nimport noisyrnn.checks",
            [],
        ),
        ("pipeline/a.py", "from noisyrnn import __version__\nfrom noisyrnn.report import page", []),
        ("__init__.py", "from noisyrnn.training import fit", []),
    ],
)
def test_a_wrong_import_is_found(tmp_path, file, line, found):
    assert layer_violations(write(tmp_path, {file: line})) == found


def test_a_missing_docstring_is_found(tmp_path):
    assert missing_docstrings(write(tmp_path, {"a.py": "x = 1", "b.py": '"""B."""'})) == ["a.py"]


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("open('" + "/ho" + "me/someone/x.npz')", 1),
        ("see " + "/wo" + "rk/project", 1),
        ("C:" + "\\Users", 1),
        ("pip install --extra-index" + "-url x", 1),
        ("https://py" + "pi.org/simple", 1),
        ("https://files.python" + "hosted.org", 1),
        ("#!/usr/bin/env bash\n2>/dev/null", 0),
        ("https://example.org/home/page and runs/tmp/x", 0),
    ],
)
def test_the_name_of_a_machine_is_found(text, count):
    assert len(machine_names(text)) == count
