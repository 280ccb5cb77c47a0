"""Entries of plug-ins: found by entry points, loaded on demand, and left out with a warning if they are broken."""

import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
from tests.plugins import POINTS, install

from noisyrnn.registry import Entry, Registry


def make_registry(**options: object) -> Registry[Entry]:
    return Registry("noisyrnn.models", {"ours": Entry(description="ours", build=int)}, **options)  # type: ignore[arg-type]


def test_plug_ins_are_loaded_on_demand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = "from noisyrnn.registry import Entry\nmine = Entry(description='mine', build=float)\n"
    install(tmp_path, {"noisyrnn.models": {"mine": "lazy_plugin:mine"}}, module=module, name="lazy")
    monkeypatch.syspath_prepend(tmp_path)
    registry = make_registry()
    assert "ours" in registry and registry["ours"].build is int
    assert "lazy_plugin" not in sys.modules
    assert registry["mine"].build is float
    assert list(registry) == ["ours", "mine"] and len(registry) == 2
    with pytest.raises(KeyError):
        registry["others"]


@pytest.mark.parametrize(
    ("module", "reason"),
    [
        ("import absent_package\n", "ModuleNotFoundError: No module named 'absent_package'"),
        ("mine = 3\n", "TypeError: it must be a Entry, got int"),
        ("raise SystemError('odd')\n", "SystemError: odd"),
        ("", "AttributeError: "),
    ],
)
def test_a_broken_plug_in_is_named_once_and_the_others_work(
    module: str, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"broken{abs(hash(module)) % 10**6}"
    install(tmp_path, {"noisyrnn.models": {"mine": f"{name}_plugin:mine"}}, module=module, name=name)
    good = "from noisyrnn.registry import Entry\ngood = Entry(description='good', build=float)\n"
    install(tmp_path, {"noisyrnn.models": {"good": f"good{name}_plugin:good"}}, module=good, name=f"good{name}")
    monkeypatch.syspath_prepend(tmp_path)
    registry = make_registry()
    with pytest.warns(UserWarning, match=f"^The package {name}-plugin 1.2 adds 'mine' to noisyrnn.models") as found:
        assert set(registry) == {"ours", "good"}
    assert len(found) == 1 and reason in str(found[0].message)
    assert str(found[0].message).endswith("Repair or uninstall the package.")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert "mine" not in registry


def test_a_name_of_ours_stays_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = "from noisyrnn.registry import Entry\nours = Entry(description='mine', build=float)\n"
    install(tmp_path, {"noisyrnn.models": {"ours": "taken_plugin:ours"}}, module=module, name="taken")
    monkeypatch.syspath_prepend(tmp_path)
    registry = make_registry()
    with pytest.warns(UserWarning, match="there is already an entry of this name"):
        assert list(registry) == ["ours"]
    assert registry["ours"].build is int


def test_an_entry_that_fails_the_check_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = "from noisyrnn.registry import Entry\nmine = Entry(description='mine', build=float)\n"
    install(tmp_path, {"noisyrnn.models": {"mine": "checked_plugin:mine"}}, module=module, name="checked")
    monkeypatch.syspath_prepend(tmp_path)

    def refuse(entry: Entry) -> None:
        raise TypeError(f"not {entry.description}")

    with pytest.warns(UserWarning, match="TypeError: not mine"):
        assert list(make_registry(check=refuse)) == ["ours"]


def run(folder: Path, *words: object) -> subprocess.CompletedProcess[str]:
    """A command in a process that has the folder on its path."""
    path = os.pathsep.join([str(folder), *filter(None, sys.path)])
    command = [sys.executable, "-m", "noisyrnn", *map(str, words)]
    environment = {**os.environ, "PYTHONPATH": path}
    return subprocess.run(command, capture_output=True, text=True, timeout=180, check=False, env=environment)


def test_a_package_brings_a_model_a_data_set_and_a_perturbation(tmp_path: Path) -> None:
    folder = tmp_path / "site"
    folder.mkdir()
    install(folder, POINTS)
    install(folder, {"noisyrnn.models": {"ruin": "ruin_plugin:x"}}, module="1 / 0\n", name="ruin")
    listed = run(folder, "list")
    assert listed.returncode == 0
    for line in ("owngru", "shift", "steps"):
        assert any(shown.split()[:1] == [line] for shown in listed.stdout.splitlines())
    assert listed.stderr.count("The package ruin-plugin 1.2 adds 'ruin' to noisyrnn.models") == 1
    words = ("--models", "owngru,gru", "--dataset", "steps", "--hidden-size", 4, "--epochs", 2, "--seeds", 1)
    compared = run(
        folder, "compare", *words, "--strengths", "{shift: [0.5]}", "--workers", 2, "--output", tmp_path / "runs"
    )
    assert compared.returncode == 0, compared.stderr
    assert compared.stderr.count("cannot be used") == 1  # not once more for each worker
    assert "| owngru |" in compared.stdout and "Shift c 0.5" in compared.stdout
    training = ("train", "--model", "owngru", "--dataset", "steps", "--epochs", 1, "--output", tmp_path / "edited")
    assert run(folder, *training).returncode == 0
    assert run(folder, *training).returncode == 0
    assert len(list((tmp_path / "edited").iterdir())) == 1
    module = folder / "own_plugin.py"
    module.write_text(module.read_text() + "# edited\n")
    assert run(folder, *training).returncode == 0
    assert len(list((tmp_path / "edited").iterdir())) == 2  # another model is another run
    words = ("--model", "owngru", "--dataset", "steps", "--epochs", 1, "--trials", 1, "--strengths", "{shift: [0.5]}")
    searched = run(folder, "sweep", *words, "--output", tmp_path / "sweep")
    assert searched.returncode == 0, searched.stderr
    assert "learning_rate" in searched.stdout and "hidden_size" in searched.stdout
