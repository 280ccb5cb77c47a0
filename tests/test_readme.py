"""The README opens as promised, its Python runs, and what it and the guide name exists."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, flags=re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("epochs", ["epochs=1", pytest.param("epochs=25", marks=pytest.mark.slow)])
def test_python_blocks_run_in_order(epochs, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    assert sum(block.count("epochs=25") for block in blocks("python")) == 1
    for block in blocks("python"):
        exec(compile(block.replace("epochs=25", epochs), "README.md", "exec"), names)
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


def test_the_picture_is_small_and_drawn_by_a_script_in_the_repository():
    (picture,) = re.findall(r"!\[[^]]*\]\(([^)]+)\)", README)
    assert (ROOT / picture).stat().st_size < 100_000
    assert Path(picture).name in (ROOT / "docs" / "ordered_mnist.py").read_text(encoding="utf-8")


def test_the_table_is_the_summary_of_ordered_mnist():
    def table(text: str) -> str:
        return text[text.index("| trained with |") :].split("\n\n")[0]

    # tests/test_docs.py compares this one with the tables of its page
    assert table(README) == table((ROOT / "docs" / "results" / "ordered-mnist.md").read_text(encoding="utf-8"))
