"""Tables as CSV and LaTeX."""

import base64
import csv
import io
import shutil
import subprocess
from pathlib import Path

import pytest

from noisyrnn.report import read_run
from noisyrnn.report.comparison import Comparison, compare
from noisyrnn.report.downloads import csv_text, latex_escape, latex_of, table_files, tidy_csv


@pytest.fixture(scope="module")
def comparison(runs: list[Path]) -> Comparison:
    return compare([read_run(path) for path in runs])


def test_csv_has_a_line_for_each_model_and_column(comparison: Comparison) -> None:
    lines = list(csv.DictReader(io.StringIO(tidy_csv(comparison.main, comparison.labels))))
    assert len(lines) == 9  # three models with results, three columns
    (noisy,) = (line for line in lines if (line["model"], line["quantity"]) == ("noisy", "White noise σ 0.2"))
    assert (float(noisy["mean"]), noisy["unit"], noisy["mark"]) == (0.85, "share", "best")
    assert noisy["seeds"] == "1 2 3" and noisy["values"] == "0.8 0.85 0.9"
    assert 0 < float(noisy["low"]) < 0.85 < float(noisy["high"]) < 1


def test_text_with_commas_quotes_and_lines_survives() -> None:
    text = csv_text(["a"], [['x, "y"\nz'], [None], [float("nan")], [1.23456789]])
    assert list(csv.reader(io.StringIO(text))) == [["a"], ['x, "y"\nz'], [""], [""], ["1.23457"]]


def test_latex_escapes_what_it_would_interpret() -> None:
    assert latex_escape(r"50 % of a_b & \c {d} #1 ~^ σ ℓ∞") == (
        r"50 \% of a\_b \& \textbackslash{}c \{d\} \#1 \textasciitilde{}\textasciicircum{} $\sigma$ $\ell$$\infty$"
    )


def test_latex_has_a_column_for_each_model_and_the_best_in_bold(comparison: Comparison) -> None:
    lines = latex_of(comparison.main, comparison.labels).splitlines()
    assert lines[1] == r"\begin{tabular}{lrrrr}"
    white = next(line for line in lines if line.startswith("White noise"))
    assert white.startswith(r"White noise $\sigma$ 0.2 & \textbf{85.0} {\small {[}64.1, 97.1{]}} & ")
    assert white.endswith(r" & -- \\")  # the model that failed
    pgd = next(line for line in lines if line.startswith("PGD"))
    assert " 60.0 {" in pgd and "textbf{65.0}" in pgd  # a tie with the best is not bold


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no pdflatex is installed")
def test_latex_compiles(comparison: Comparison, tmp_path: Path) -> None:
    body = latex_of(comparison.main, comparison.labels)
    text = f"\\documentclass{{article}}\\usepackage{{booktabs}}\\begin{{document}}{body}\\end{{document}}"
    (tmp_path / "a.tex").write_text(text)
    subprocess.run(["pdflatex", "-halt-on-error", "a.tex"], cwd=tmp_path, check=True, capture_output=True)


def test_files_are_data_urls(comparison: Comparison) -> None:
    files = table_files(comparison.main, comparison.labels)
    kind, _, content = files["csv"].partition(";base64,")
    assert kind == "data:text/csv;charset=utf-8"
    assert base64.b64decode(content).decode() == tidy_csv(comparison.main, comparison.labels)
    assert files["tex"].startswith("data:text/x-tex;charset=utf-8;base64,")
