"""The README opens as promised, its Python runs, and what it and the guide name exists."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, flags=re.MULTILINE | re.DOTALL)


def test_python_blocks_run_in_order(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for block in blocks("python"):
        exec(compile(block, "README.md", "exec"), names)
    assert len(blocks("python")) >= 1
    assert capsys.readouterr().out.strip() != ""


def test_first_python_block_is_about_ten_lines():
    assert len(blocks("python")[0].strip().splitlines()) <= 12


def test_the_two_commands_come_first_and_are_in_the_makefile():
    targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE)
    commands = re.findall(r"^make (\w+)", "".join(blocks("sh")), flags=re.MULTILINE)
    assert commands[:2] == ["demo", "test"]
    assert set(commands) <= set(targets)


def test_opens_with_one_sentence():
    title, sentence = README.split("\n\n")[:2]
    assert title.startswith("# noisyrnn")
    assert sentence.endswith(".")
    assert not re.search(r"\.\s", sentence)


def test_links_lead_to_files():
    targets = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", README)
    assert [target for target in targets if not (ROOT / target).exists()] == []


def test_files_named_in_the_guide_exist():
    guide = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`((?:src|tests|docs)/[\w./]+)`", guide))
    assert len(named) > 10
    assert [name for name in sorted(named) if "mine.py" not in name and not (ROOT / name).exists()] == []
