"""The site's pages: what they run runs, what they list is what there is, and none is missing from the contents."""

import ast
import json
import re
import runpy
import shlex
from glob import glob
from pathlib import Path

import pytest
import torch

import noisyrnn
from noisyrnn.cli import COMMANDS, main
from noisyrnn.training.settings import published_experiments

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted([*DOCS.glob("*.md"), *DOCS.glob("*/*.md"), *DOCS.glob("*/*.rst")])
RUNNABLE = [
    DOCS / f"{name}.md"
    for name in (
        "quickstart",
        "mathematics",
        "equation",
        "published",
        "analysis",
        "kernels",
        "sweeps",
        "tracking",
        "pretrained",
    )
]
RUNNABLE += sorted(DOCS.glob("tutorials/*.md"))
NEEDS = {
    "tutorials/streaming": ("onnx", "onnxruntime", "onnxscript"),
    "sweeps": ("optuna",),
    "tracking": ("tensorboard", "mlflow"),
}
SMALL = {
    "compare": shlex.split("--epochs 1 --seeds 1 --hidden-size 8 --workers 1 --test-limit 20 --attack-sequences 10"),
    "train": shlex.split("--epochs 1 --hidden-size 8"),
    "sweep": shlex.split("--trials 1 --epochs 1 --hidden-size 8 --workers 1 --seeds 1"),
    "evaluate": shlex.split("--test-limit 20 --attack-sequences 10"),
}
"""What a test adds to a page's commands; the last of two equal flags counts."""
SETTINGS = (
    "dataset learning_rate hidden_size batch_size epochs decay_epochs init_std "
    "step_size learn_step skew_symmetry damping additive multiplicative stiffness friction"
).split()


def name_of(page: Path) -> str:
    return page.relative_to(DOCS).with_suffix("").as_posix()


def blocks(page: Path, languages: str) -> list[tuple[str, str]]:
    """Language and text of the blocks in these languages, in order."""
    text = page.read_text(encoding="utf-8")
    return re.findall(rf"^```({languages})\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)


def run_command(line: str) -> None:
    """One line of a shell block, in this process, with patterns filled in and small sizes."""
    program, command, *words = shlex.split(line, comments=True)
    if program != "noisyrnn":  # another program, or this one on runs that a page does not make
        return
    found = [match for word in words for match in (sorted(glob(word)) if "*" in word else [word])]
    assert main([command, *found, *SMALL.get(command, [])]) == 0, line


LONG = (
    "every_step",
    "existing_model",
    "irregular_sampling",
    "missing_values",
    "pretrained",
    "quickstart",
    "sensor_data",
    "streaming",
    "sweeps",
    "tracking",
)
"""Pages whose blocks take several seconds."""


@pytest.mark.parametrize(
    "page",
    [pytest.param(page, marks=pytest.mark.slow if page.stem in LONG else ()) for page in RUNNABLE],
    ids=name_of,
)
@pytest.mark.usefixtures("undrawn")
def test_blocks_run_from_top_to_bottom(page, tmp_path, monkeypatch, capsys):
    for module in NEEDS.get(name_of(page), ()):
        pytest.importorskip(module)
    monkeypatch.chdir(tmp_path)
    torch.compiler.reset()  # graphs count towards a limit for each function, and other tests compile the same ones
    names: dict[str, object] = {"__name__": page.stem}
    told: list[str] = []
    for language, text in blocks(page, "python|sh"):
        capsys.readouterr()
        if language == "python":
            exec(compile(text, str(page), "exec"), names)
            told += re.findall(r"^(?:True|False)$|(?<= )(?:True|False)$", capsys.readouterr().out, flags=re.MULTILINE)
        else:
            for line in text.splitlines():
                run_command(line)
    assert "False" not in told  # a page prints True where it compares
    assert len(told) >= len(re.findall(r"# True", page.read_text(encoding="utf-8")))


@pytest.mark.parametrize("file", sorted(DOCS.glob("tutorials/*.ipynb")), ids=lambda file: file.stem)
def test_cells_of_a_notebook_run_from_top_to_bottom(file, tmp_path, monkeypatch):
    """As a kernel runs them: the value of a last expression is shown, here by the methods that a notebook calls."""
    monkeypatch.chdir(tmp_path)
    notebook = json.loads(file.read_text(encoding="utf-8"))
    assert notebook["nbformat"] == 4
    names: dict[str, object] = {"__name__": file.stem}
    shown = []
    for cell in notebook["cells"]:
        if cell["cell_type"] != "code":
            continue
        assert cell["outputs"] == []
        tree = ast.parse("".join(cell["source"]))
        last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
        exec(compile(tree, str(file), "exec"), names)
        if last is not None:
            value = eval(compile(ast.Expression(last.value), str(file), "eval"), names)
            table = value._repr_html_() if hasattr(value, "_repr_html_") else None  # a figure may return none
            shown.append(table or repr(value))
    tables = [text for text in shown if text.startswith("<table>")]
    assert len(tables) == 4
    assert "not attacked: no gradients" in tables[-1]
    assert names["results"][0].accuracy > 0.3  # ten classes: the model has learned


@pytest.mark.usefixtures("undrawn")
def test_the_configuration_of_a_sweep_on_the_page_is_understood(tmp_path):
    pytest.importorskip("optuna")
    ((_, text),) = blocks(DOCS / "sweeps.md", "yaml")
    (tmp_path / "sweep.yaml").write_text(text, encoding="utf-8")
    small = ["--trials", "1", "--epochs", "1", "--output", str(tmp_path)]
    assert main(["sweep", "--config", str(tmp_path / "sweep.yaml"), *small]) == 0
    assert len(list(tmp_path.glob("sweep-digits-lstm-*/best.yaml"))) == 1


def as_cell(value: object) -> str:
    if isinstance(value, bool) or value is None:
        return {None: "–", True: "yes", False: "no"}[value]
    if isinstance(value, str):
        return f"`{value}`"
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return f"{value:g}"


def table(header: list[str], rows: list[list[str]]) -> str:
    return "\n".join("| " + " | ".join(row) + " |" for row in [header, ["---"] * len(header), *rows])


def test_tables_of_published_rows_are_those_of_the_files():
    page = (DOCS / "published.md").read_text(encoding="utf-8")
    experiments = published_experiments()
    settings = [[f"`{name}`", *(as_cell(row.train.get(key)) for key in SETTINGS)] for name, row in experiments.items()]
    assert table(["row", *(f"`{key}`" for key in SETTINGS)], settings) in page
    columns = list(experiments["smnist-noisy-high"].published)
    accuracies = [
        [f"`{name}`", *(f"{row.published[column]:.1f}" for column in columns)]
        for name, row in experiments.items()
        if row.published
    ]
    assert table(["row", *columns], accuracies) in page


def test_every_page_is_in_one_table_of_contents():
    listed: list[str] = []
    for page in PAGES:
        for _, tree in blocks(page, r"\{toctree\}"):
            entries = [line for line in tree.splitlines() if line and not line.startswith(":")]
            listed += [(page.parent / entry).relative_to(DOCS).as_posix() for entry in entries]
    assert sorted(listed) == sorted(name_of(page) for page in PAGES if name_of(page) != "index")


def test_every_package_with_public_names_is_in_the_reference():
    packages = (ROOT / "src" / "noisyrnn").glob("*/__init__.py")
    public = [file.parent.name for file in packages if "__all__" in file.read_text(encoding="utf-8")]
    assert sorted(page.stem for page in DOCS.glob("api/*.rst")) == sorted(public)


def test_every_command_is_in_the_reference():
    listed = re.findall(r"^\| `noisyrnn (\w+)`", (DOCS / "api" / "index.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert listed == list(COMMANDS)


def test_figures_are_those_that_the_script_draws_and_all_are_shown():
    script = (DOCS / "figures.py").read_text(encoding="utf-8")
    drawn = re.findall(r'^    "(\w+)": \1,$', script, flags=re.MULTILINE)
    assert len(drawn) > 0
    shown = re.findall(r"\]\(figures/(\w+)\.svg\)", (DOCS / "mathematics.md").read_text(encoding="utf-8"))
    assert sorted(shown) == sorted(drawn) == sorted(file.stem for file in DOCS.glob("figures/*.svg"))


def test_the_summary_and_the_picture_of_ordered_mnist_are_those_of_its_table(tmp_path):
    script = runpy.run_path(str(DOCS / "ordered_mnist.py"))
    page = (DOCS / "results" / "ordered-mnist.md").read_text(encoding="utf-8")
    assert f"\n\n{script['summary'](page)}\n\n" in page, "run docs/ordered_mnist.py"
    found = script["accuracies"](page)
    assert set(found) <= set(script["ROWS"])
    script["draw"](found, tmp_path / "drawn.svg")
    drawn, kept = (
        (folder / name).read_text(encoding="utf-8")
        for folder, name in ((tmp_path, "drawn.svg"), (DOCS / "images", "ordered-mnist.svg"))
    )
    assert all(f">{name}</text" in text for name in found for text in (drawn, kept))
    versions = [re.findall(r"Matplotlib v[\d.]+", text) for text in (drawn, kept)]
    assert drawn == kept or versions[0] != versions[1], "run docs/ordered_mnist.py"


def test_other_tables_of_ordered_mnist_replace_those_of_the_page_alone():
    with_tables = runpy.run_path(str(DOCS / "ordered_mnist.py"))["with_tables"]
    page = (DOCS / "results" / "ordered-mnist.md").read_text(encoding="utf-8")
    tables = "# Ordered MNIST\n\nPublished: somewhere else.\n\n| row |\n|---|\n"
    changed = with_tables(page, tables)
    assert changed.startswith(page[:2000]) and changed.endswith("\n\nPublished: somewhere else.\n\n| row |\n|---|\n")
    assert with_tables(changed, page) == page


def test_the_summary_of_ordered_mnist_has_intervals_over_trainings_only():
    summary = runpy.run_path(str(DOCS / "ordered_mnist.py"))["summary"]
    columns = ["Clean", "White noise σ 0.1", "White noise σ 0.3", "Salt and pepper α 0.1"]
    lines = [
        ["row", "", "seeds", *columns],
        ["---"] * 7,
        ["noisy-high", "published", "10", "99.1", "98.9", "73.5", "85.5"],
        ["", "ours, best epoch", "3", *["90.5 [80.0, 91.0]"] * 4],
        ["", "difference", "", *["+1.0 [+0.0, +2.0] higher"] * 4],
        ["", "ours, last epoch", "3", *["1.0 [0.0, 2.0]"] * 4],
        *(
            [label, "ours, best epoch", "2", *["**50.0** [40.0, 60.0]"] * 4]
            for label in ("noisy-inputs", "noisy-low", "lipschitz", "antisymmetric")
        ),
    ]
    others = [["test inputs", "noisy-high"], ["---"] * 2, ["Worst case over attacks ℓ∞ ϵ 0.05", "7.0 [6.0, 8.0]"]]
    page = "\n\n".join("\n".join(f"| {' | '.join(line)} |" for line in part) for part in (lines, others))
    _, _, inputs, high, published, *_ = summary(page).splitlines()
    assert inputs == (
        "| noisy-inputs: noise on the images and on the hidden state | 2 | 50.0 | 50.0 | 50.0 | 50.0 | – |"
    )
    assert high.endswith("| 3 " + "| 90.5 [80.0, 91.0] " * 4 + "| 7.0 [6.0, 8.0] |")
    assert published == "| — published | 10 | 99.1 | 98.9 | 73.5 | 85.5 | – |"


@pytest.mark.parametrize("file", ["CITATION.cff", "docs/cite.md"])
def test_citation_has_the_version_of_the_package(file):
    versions = re.findall(r"^ *version *[:=] *\{?([\d.]+)", (ROOT / file).read_text(encoding="utf-8"), re.MULTILINE)
    assert versions == [noisyrnn.__version__]
