import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.report.analysis_files import analysis, curve, quantity, write_analysis
from tests.report.conftest import column, write_run
from tests.report.test_page import HOSTILE, SCRIPT, Reader, read

from noisyrnn.report import read_run, write_report
from noisyrnn.report.comparison import compare
from noisyrnn.report.theory import theory_section

Make = Callable[..., Path]


def section(runs: list[Path]) -> dict[str, Any]:
    comparison = compare([read_run(path) for path in runs])
    found = theory_section(comparison.theory, comparison.groups)
    assert found is not None
    return found


@pytest.fixture
def analysed(make_run: Make) -> Callable[..., Path]:
    def make(label: str, seed: int, **content: Any) -> Path:
        return write_analysis(make_run(label=label, seed=seed), content)

    return make


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report on two labels of two seeds, and a run without analysis; only read."""
    root = tmp_path_factory.mktemp("analysed")
    runs = []
    for label in ("noisy", "lstm"):
        for seed in (1, 2):
            content = analysis(label, seed)
            content["curves"] = {name: content["curves"][name] for name in ("jacobian_norms", "certified_accuracy")}
            del content["landscapes"]["filter"]
            folder = write_run(root / f"{label}-{seed}", label=label, seed=seed, columns=[column("clean", None, 0.9)])
            runs.append(write_analysis(folder, content))
    runs.append(write_run(root / "gru", label="gru", seed=1, columns=[column("clean", None, 0.8)]))
    return write_report(runs, root / "out", title="t")


@pytest.fixture(scope="module")
def html(page: Path) -> str:
    return page.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def reader(html: str) -> Reader:
    return read(html)


def test_files_and_addresses(page: Path, reader: Reader) -> None:
    names = ["analysis.md", "comparison.json", "report.html", "table.md"]
    assert sorted(file.name for file in page.parent.iterdir()) == names
    assert all(address.startswith(("data:", "#")) for address in reader.addresses)
    assert "#theory" in reader.addresses
    assert (
        reader.tags.count("svg") == 8  # three of them for narrow screens
    )  # training twice (for narrow screens too), two curves, contours and surfaces of one panel
    assert page.stat().st_size < 1_500_000


def test_the_table_is_on_the_page(reader: Reader, html: str) -> None:
    start = reader.texts.index("Hessian trace")
    # noisy: 12.34 * 0.93 and 12.34; lstm: nine times that with 0.888 and 1. Two seeds give no interval and no p.
    assert reader.texts[start + 1 : start + 8] == [
        "256 training sequences",
        "lower is more robust",
        "estimate",
        "11.91",
        "104.8",
        "+92.93, too few seeds",
        "–",
    ]
    assert '<span class="interval ">+92.93, too few seeds</span>' in html
    assert 'title="seed 1: 11.48, seed 2: 12.34"' in html
    assert "none finite" in reader.texts
    assert "certificate, confidence 99.9 %" in reader.texts
    assert reader.texts.index("Curvature") < reader.texts.index("Regularizer") < reader.texts.index("Margin")


def test_figures_have_their_captions(reader: Reader) -> None:
    for title in ("State-to-state Jacobians over time", "Certified accuracy and attacks"):
        assert title in reader.texts
    text = " ".join(reader.texts)
    assert "bands range from the lowest to the highest" in text
    assert "All panels share one scale: the same axes, levels, colours and heights." in text
    assert {"landscape_eigen_contours.pdf", "landscape_eigen_surfaces.svg", "jacobian_norms.pdf"} <= set(reader.texts)


def test_verdicts_data_and_what_is_missing(reader: Reader) -> None:
    texts = reader.texts
    assert ", seed 1: stable: nearby states approach each other, Λ = -0.130 per step" in texts
    assert ", seed 2: undecided" in texts
    assert ", skipped for lstm seeds 1, 2: the budget of 30 minutes was used up" in texts
    assert texts[texts.index("Data used") + 1 :][:6] == [
        "Curvature",
        "256 training sequences, drawn with seed 0; 12 s per run",
        "Margin",
        "100 test sequences; 41.5 s per run",
        "Smoothing",
        "3 s per run",
    ]
    assert texts[texts.index("analysis_seed") + 1] == "0"
    assert "Not analysed: gru seed 1." in texts


def test_markdown_and_json_hold_the_table(page: Path) -> None:
    table = (page.parent / "analysis.md").read_text(encoding="utf-8")
    assert "| Hessian trace | estimate | 11.91 | 104.8 (too few seeds) | – |" in table
    rows = json.loads((page.parent / "comparison.json").read_text(encoding="utf-8"))["analysis"]
    assert rows[0]["labels"]["noisy"]["seeds"] == pytest.approx({"1": 12.34 * 0.93, "2": 12.34})
    assert rows[0]["labels"]["lstm"]["versus_base"]["p_value"] is None
    assert rows[0]["labels"]["lstm"]["versus_base"]["reason"] == "too few seeds"


def test_without_analysis_nothing_is_shown_or_written(written: Path, runs: list[Path]) -> None:
    html = written.read_text(encoding="utf-8")
    assert "theory" not in html.lower()
    assert "plates" not in html
    assert "analysis" not in json.loads((written.parent / "comparison.json").read_text(encoding="utf-8"))
    comparison = compare([read_run(path) for path in runs])
    assert theory_section(comparison.theory, comparison.groups) is None


@pytest.mark.usefixtures("no_figures")
def test_the_table_of_an_earlier_report_goes(tmp_path: Path, runs: list[Path]) -> None:
    output = tmp_path / "again"
    output.mkdir()
    (output / "analysis.md").write_text("of other runs")
    (output / "notes.md").write_text("the user's own")
    write_report(runs, output, title="T")
    assert not (output / "analysis.md").exists()
    assert (output / "notes.md").exists()


@pytest.mark.usefixtures("no_figures")
def test_an_analysis_without_results_still_says_why(analysed: Callable[..., Path], tmp_path: Path) -> None:
    parts = {"curvature": {"status": "failed", "reason": ""}}
    page = write_report([analysed("a", 1, diagnostics=parts)], tmp_path / "out", title="t")
    texts = read(page.read_text(encoding="utf-8")).texts
    assert ", failed for a seed 1: No reason was recorded." in texts
    assert not (page.parent / "analysis.md").exists()


def test_time_is_that_of_parts_that_were_done(analysed: Callable[..., Path]) -> None:
    ends = [{"status": "done", "seconds": 2.0}, {"status": "failed", "seconds": 99.0}, {"status": "done"}]
    runs = [analysed("a", seed, diagnostics={"margin": end}) for seed, end in enumerate(ends, start=1)]
    assert section(runs)["data"] == [("Margin", "2 s per run")]


def test_only_finished_runs_are_missed(analysed: Callable[..., Path], make_run: Make) -> None:
    failed = make_run(label="b", seed=1, summary={"status": "failed", "error": "broke"})
    found = section([analysed("a", 1), make_run(label="a", seed=2), make_run(label="a", seed=3), failed])
    assert found["notes"] == ["Not analysed: a seeds 2, 3."]


def test_what_makes_analyses_less_comparable_is_noted(analysed: Callable[..., Path]) -> None:
    one = {"settings": {"analysis_seed": 0, "only": 1}, "data": {"margin": "100 sequences", "jacobian": "20"}}
    two = {"settings": {"analysis_seed": 7}, "data": {"margin": "50 sequences", "jacobian": "20"}}
    found = section(
        [
            analysed("a", 1, quantities=[quantity("trace", 1.0, title="Trace")], **one),
            analysed("a", 2, quantities=[quantity("trace", 1.0, title="Trace", kind="estimate")], **two),
        ]
    )
    assert found["notes"] == [
        "The runs were analysed with different settings: analysis_seed was 0 and 7.",
        "The runs were analysed with different settings: only was 1 and null.",
        "Margin was not computed from the same data in all runs; see below.",
        "Trace has different kinds in different runs (estimate; exact): each has its own row.",
    ]
    assert found["data"] == [("Margin", "100 sequences (a seed 1); 50 sequences (a seed 2)"), ("Jacobian", "20")]
    assert found["settings"] == [("analysis_seed", "0 | 7"), ("only", "1 | null")]


def test_equal_analyses_need_no_note(analysed: Callable[..., Path]) -> None:
    content = {"settings": {"analysis_seed": 0}, "data": {"margin": "100"}, "quantities": [quantity("trace", 1.0)]}
    assert section([analysed("a", seed, **content) for seed in (1, 2)])["notes"] == []


@pytest.mark.parametrize(
    ("better", "sign"), [("lower", "below"), ("higher", "above"), (None, "")], ids=["lower", "higher", "neither"]
)
def test_the_colour_of_a_difference_says_which_is_more_robust(
    analysed: Callable[..., Path], better: str | None, sign: str
) -> None:
    runs = [
        analysed(label, seed, quantities=[quantity("trace", base + 0.01 * seed * base, better=better)])
        for label, base in (("a", 1.0), ("b", 3.0))
        for seed in (1, 2, 3)
    ]
    found = section(runs)
    first, second = (cell["test"] for cell in found["groups"][0]["rows"][0]["cells"])
    assert (first["p"], first["sign"]) == ("", "")
    assert (second["difference"], second["p"], second["sign"]) == ("+2.040", "p < 0.001", sign)
    assert found["tested"]


def test_a_difference_that_may_be_chance_has_no_colour(analysed: Callable[..., Path]) -> None:
    trace = {("a", 1): 1.0, ("a", 2): 2.0, ("a", 3): 2.0, ("b", 1): 2.0, ("b", 2): 1.5, ("b", 3): 2.0}
    runs = [
        analysed(label, seed, quantities=[quantity("trace", value, better="lower")])
        for (label, seed), value in trace.items()
    ]
    test = section(runs)["groups"][0]["rows"][0]["cells"][1]["test"]
    assert (test["difference"], test["sign"]) == ("+0.2", "")
    assert re.match(r"^p = 0\.\d{3}$", test["p"])


@pytest.mark.usefixtures("no_figures", "no_pdf")
def test_hostile_text_is_shown_and_not_run(make_run: Make, tmp_path: Path) -> None:
    content = {
        "settings": {HOSTILE: HOSTILE},
        "data": {"margin": HOSTILE},
        "quantities": [quantity("a", 1.0, title=HOSTILE, group=HOSTILE, unit=HOSTILE, note=HOSTILE)],
        "curves": {HOSTILE: curve([0, 1], [1.0, 2.0], xlabel=HOSTILE, ylabel=HOSTILE, note=HOSTILE)},
        "verdict": HOSTILE,
        "diagnostics": {"margin": {"status": HOSTILE, "reason": HOSTILE}},
    }
    run = write_analysis(make_run(label=HOSTILE, seed=1), content)
    html = write_report([run], tmp_path / "out", title="t").read_text(encoding="utf-8")
    reader = read(html)
    assert reader.tags.count("script") == 1 and html.count(SCRIPT) == 1
    assert all(address.startswith(("data:", "#")) for address in reader.addresses)
    assert "<script" not in (tmp_path / "out" / "analysis.md").read_text(encoding="utf-8").replace("\\<", "")
