import base64
import hashlib
import json
import os
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pytest
from tests.report.conftest import column, example

from noisyrnn.files import WriteError
from noisyrnn.report import page, read_run, write_report
from noisyrnn.report.comparison import compare

Make = Callable[..., Path]
VOID = {"meta", "link", "img", "br", "use", "path", "polyline", "rect", "stop"}
HOSTILE = '<script>alert("x")</script><img src="http://evil.example/x.png">'


SCRIPT = (Path(page.__file__).parent / "page.js").read_text(encoding="utf-8")
"""The page's own script, which sorts tables; there is no other one."""


class Reader(HTMLParser):
    """Addresses, tags and text of a page; fails where tags do not nest."""

    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.tags: list[str] = []
        self.open: list[str] = []
        self.texts: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [
            value or "" for name, value in attrs if name in ("src", "href", "srcset", "action", "poster")
        ]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if data.strip():
            self.texts.append(" ".join(data.split()))


def read(html: str) -> Reader:
    reader = Reader()
    reader.feed(html)
    assert reader.open == []
    return reader


def build(runs: list[Path], *, command: str | None = None) -> str:
    return page.build_page(compare([read_run(path) for path in runs]), title="A title", command=command)


@pytest.fixture(scope="module")
def html(written: Path) -> str:
    return written.read_text(encoding="utf-8")


def test_three_files_are_written(written: Path, html: str) -> None:
    assert written.name == "report.html"
    assert sorted(file.name for file in written.parent.iterdir()) == ["comparison.json", "report.html", "table.md"]
    assert written.stat().st_size < 3_000_000
    assert json.loads((written.parent / "comparison.json").read_text(encoding="utf-8"))["base"] == "noisy"
    assert "<h1>Four networks</h1>" in html
    assert "<pre>noisyrnn compare &lt;img" in html


def test_same_runs_give_the_same_files(runs: list[Path], written: Path, tmp_path: Path) -> None:
    again = write_report(runs, tmp_path, title="Four networks", command='noisyrnn compare <img src="/evil.png">')
    for name in ("table.md", "comparison.json"):
        assert (tmp_path / name).read_bytes() == (written.parent / name).read_bytes()
    one, two = (re.sub(r"Written .*? UTC", "", path.read_text(encoding="utf-8")) for path in (again, written))
    assert one == two


def test_the_page_needs_nothing_from_outside(html: str) -> None:
    reader = read(html)
    assert all(address.startswith(("data:", "#")) for address in reader.addresses)
    assert reader.tags.count("script") == 1 and html.count(SCRIPT) == 1
    assert not re.search(r"(src|href|url|@import)\s*[=(]?\s*[\"']?\s*(https?:)?//", html)
    assert "default-src 'none'" in html
    digest = base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in html  # a script that is not ours is not run


def test_the_table_shows_means_intervals_and_marks(html: str) -> None:
    rows = re.findall(r"<tr><th[^>]*>.*?</tr>", html[html.index('id="table"') :], flags=re.DOTALL)
    noisy = next(row for row in rows if "</span>noisy</th>" in row)
    cells = re.findall(
        r'<td class="(\w*) ?\w*" data-value="[\d.]+"[^>]*>(.*?)<span class="interval">(.*?)</span>', noisy
    )
    assert cells == [
        ("best", "<b>95.0</b>", "[76.3, 100.0]"),
        ("best", "<b>85.0</b>", "[64.1, 97.1]"),
        ("close", "<i>60.0</i>", "[35.1, 82.4]"),
    ]
    assert 'title="seed 1: 90.00, seed 2: 95.00, seed 3: 100.00"' in noisy


def test_paired_tests_are_shown(html: str) -> None:
    paired = html[html.index('<table class="paired">') : html.index('id="training"')]
    # lstm under white noise: -0.4, -0.4, -0.45; ten sequences differ, so p = 2⁻⁹, times six comparisons.
    assert '<span class="below">-41.7</span> <span class="soft small">[-61.6, -17.9]</span>' in paired
    assert "p = 0.012" in paired
    assert '<span class="">-1.7</span>' in paired
    assert 'title="3 seeds; interval over trainings and test sequences"' in paired
    assert "corrected for the 6\ncomparisons of this table by Holm's method" in html.replace("&#39;", "'")


@pytest.mark.usefixtures("no_pdf")
def test_few_seeds_give_no_p_and_no_shading(make_run: Make) -> None:
    columns = [column("clean", None, 0.75)]
    runs = [make_run(label=label, seed=seed, columns=columns) for label in "ab" for seed in (1, 2)]
    html = build([*runs, *(make_run(label="c", seed=seed, columns=[column("clean", None, 0.5)]) for seed in (1, 2))])
    paired = html[html.index('<table class="paired">') : html.index('id="training"')]
    assert "too few seeds" in paired and "p =" not in paired and "p &lt;" not in paired
    assert "Fewer than 3 shared seeds are too few for a test" in html
    assert "shaded" not in html


def test_marks_are_told_apart_without_colour_and_printed(html: str) -> None:
    style = html[: html.index("</style>")]
    assert '.above::before { content: "▲' in style and '.below::before { content: "▼' in style
    exact = next(line for line in style.splitlines() if "print-color-adjust: exact" in line)
    assert all(name in exact for name in (".key", ".best", ".close", ".legend span", ".warning", ".differs"))


def test_failed_runs_are_visible_with_their_error(html: str) -> None:
    failed = html[html.index('id="failed"') : html.index('id="run"')]
    assert "hidden state became non-finite at step 12 of 64." in failed
    assert "<b>cornn</b>, seed 1" in failed
    assert "0 of 1" in html


@pytest.mark.usefixtures("no_figures")
def test_runs_not_evaluated_or_not_finished_are_listed(make_run: Make) -> None:
    unfinished = make_run(label="b", seed=2)
    (unfinished / "summary.json").unlink()
    html = build([make_run(label="a", seed=1), unfinished])
    assert "Trained, but not evaluated: it has no robustness.json." in html
    assert "Training has not finished: it has no summary.json." in html
    assert "None of the runs was evaluated." in html


def test_only_failed_runs_still_make_a_page(make_run: Make) -> None:
    html = build([make_run(label="a", seed=1, summary={"status": "failed", "error": None})])
    read(html)
    assert "No message was recorded." in html


def test_what_was_run_and_every_setting(html: str) -> None:
    texts = read(html).texts
    overview = texts[texts.index("Data, versions and command") :]
    for name, value in (
        ("Sequences", "1000 for training, 200 for validation, 20 for testing"),
        ("Seeds", "1, 2, 3"),
        ("Epochs", "4"),
        ("Runs", "10, of which 9 finished"),
        ("Torch", "2.13"),
        ("Shape", "64 steps × 1, 10 classes, values in [0, 1]"),
    ):
        assert overview[overview.index(name) + 1] == value
    assert texts[texts.index("noise_level") :][1:5] == ["0.05", "0.0", "0.0", "–"]
    assert texts[texts.index("dataset") + 1] == "digits"
    assert "PGDLinf(strength=0.1)" in texts


@pytest.mark.usefixtures("no_figures")
def test_the_shape_names_the_channels(make_run: Make) -> None:
    for names, shown in (
        (["u", "<v>"], "u, <v>"),
        ([f"c{k}" for k in range(12)], "c0, c1, c2, c3, c4, c5, c6, c7, c8, c9, …"),
    ):
        data = {"input_size": len(names), "channel_names": names, "value_range": None}
        texts = read(build([make_run(label="a", seed=1, dataset=data)])).texts
        assert texts[texts.index("Shape") + 1] == f"64 steps × {len(names)} ({shown}), 10 classes"


@pytest.mark.usefixtures("no_figures")
def test_settings_that_differ_between_seeds_are_shown_as_different(make_run: Make) -> None:
    runs = [make_run(label="a", seed=seed, config={"width": 8 * seed, "grid": [1, 2]}) for seed in (1, 2)]
    html = build(runs)
    assert re.search(r'<tr class="differs"><th[^>]*>width</th><td>8 \| 16</td>', html)
    assert not re.search(r'<tr class="differs"><th[^>]*>grid</th>', html)


def test_size_and_time(html: str) -> None:
    texts = read(html).texts
    start = texts.index("Training time (s)")
    row = texts[texts.index("noisy", start) :]
    assert row[1:7] == ["17,290", "14.5", "4", "4", "95.0", "200"]  # seconds: 13.5, 14.5, 15.5


@pytest.mark.usefixtures("no_figures")
def test_a_model_that_did_not_learn_is_in_the_notes(make_run: Make) -> None:
    summary = {"status": "finished", "error": None, "parameters": 10, "seconds": 1.0, "epochs": 4, "best_epoch": 4}
    summary |= {"best_validation_accuracy": 1.0, "validation_sequences": 5, "not_fitted": "not fitted: 50.0 %."}
    html = build([make_run(label="a", seed=1, columns=[column("clean", None, 0.9)], summary=summary)])
    assert "<li>a, seed 1: not fitted: 50.0 %.</li>" in html


@pytest.mark.usefixtures("no_pdf")
def test_hostile_text_is_shown_and_not_run(make_run: Make, tmp_path: Path) -> None:
    columns = [column("clean", None, 0.9), column("fgsm", 0.1, 0.5)]
    examples = [example("clean", None, index=0, prediction=4, shade=0)]
    run = make_run(
        label=HOSTILE,
        seed=1,
        columns=columns,
        examples=examples,
        config={"note": HOSTILE},
        dataset={"class_names": [HOSTILE] * 10, "source": HOSTILE},
    )
    failed = make_run(label="b", seed=1, summary={"status": "failed", "error": HOSTILE})
    html = write_report([run, failed], tmp_path / "out", title=HOSTILE, command=HOSTILE).read_text(encoding="utf-8")
    reader = read(html)
    assert reader.tags.count("script") == 1 and html.count(SCRIPT) == 1
    assert all(address.startswith(("data:", "#")) for address in reader.addresses)
    assert reader.texts.count(HOSTILE) >= 6


@pytest.mark.usefixtures("no_figures")
def test_one_seed_names_its_interval(make_run: Make) -> None:
    html = build([make_run(label=label, seed=1, columns=[column("clean", None, 0.75)]) for label in "ab"])
    assert "[53.4, 90.3]" in html
    assert "over other test sequences, for these trained models only" in html
    assert 'title="1 seed; interval over test sequences, for these trained models"' in html


@pytest.mark.usefixtures("no_figures")
def test_fewer_examples_are_shown_where_the_page_would_be_too_large(
    runs: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    html = build(runs)
    assert html.count("<h3>Sequence ") == 2
    # Leaving out one example saves more than 2,000 bytes.
    monkeypatch.setattr(page, "LARGEST_PAGE", len(html.encode()) - 1_000)
    assert build(runs).count("<h3>Sequence ") == 1
    monkeypatch.setattr(page, "LARGEST_PAGE", 1)
    assert build(runs).count("<h3>Sequence ") == 0


@pytest.mark.slow
def test_many_large_examples_stay_below_three_megabytes(make_run: Make) -> None:
    columns = [column("clean", None, 0.9), *(column("fgsm", strength / 10, 0.5) for strength in range(1, 9))]
    examples = [
        example(entry["perturbation"], entry["strength"], index=index, prediction=1, shade=0)
        | {"inputs": [[step % 7 / 7.0] * 12 for step in range(400)]}
        for entry in columns
        for index in range(12)
    ]
    runs = [make_run(label=str(i), seed=1, columns=columns, examples=examples, epochs=1000) for i in range(3)]
    assert len(build(runs).encode()) < 3_000_000


@pytest.mark.usefixtures("no_figures")
def test_an_interrupted_write_leaves_the_old_files(
    runs: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "out"
    output.mkdir()
    for name in ("report.html", "table.md", "comparison.json"):
        (output / name).write_text("old", encoding="utf-8")
    before = {file.name: file.read_bytes() for file in output.iterdir()}

    def broken(source: Path, target: Path) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(os, "replace", broken)
    with pytest.raises(WriteError, match=r"table\.md could not be written \(No space left on device\)"):
        write_report(runs, output, title="new")
    assert {file.name: file.read_bytes() for file in output.iterdir()} == before


def test_nothing_is_written_where_the_runs_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^RUN must be a run folder, got "):
        write_report([tmp_path], tmp_path / "out", title="t")
    with pytest.raises(ValueError, match=r"^runs must hold at least one run folder, got none\."):
        write_report([], tmp_path / "out", title="t")
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("no_figures")
def test_an_output_that_is_a_file_is_refused(runs: list[Path], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x", encoding="utf-8")
    with pytest.raises(
        ValueError, match=r"^output must be a folder that can be written, got '.*file' \(File exists\)\."
    ):
        write_report(runs, tmp_path / "file", title="t")


@pytest.mark.parametrize("runs", ["runs/a", Path("runs/a")])
def test_a_single_path_is_refused(runs: str | Path, tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=r"^runs must be a list of run folders, got 'runs/a'\. Write \['runs/a'\]\.$"):
        write_report(runs, tmp_path, title="t")  # type: ignore[arg-type]
