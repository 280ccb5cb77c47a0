"""Tables, the documentation and the page of a small measurement; and the command itself."""

import copy
import json

import pytest
from benchmarks.speed.cases import summary
from benchmarks.speed.page import BEGIN, END, build_page, write_documentation
from benchmarks.speed.rounds import WorkerError
from benchmarks.speed.tables import (
    before_table,
    epoch_table,
    growth_table,
    main_table,
    missing_table,
    models_table,
    rivals_table,
    stream_table,
)

from benchmarks import step

QUICK = ["--extent", "main", "--threads", "1", "--rounds", "1", "--steps", "2", "--batch", "1", "--hidden", "3"]
MAIN = {"steps": 784, "batch": 128, "hidden": 128}


@pytest.fixture
def document():
    words = step.parse(["--threads", "2", "--contestants", "cpp", "cpp-quiet", "plain", "lstm", "before"])
    made = step.new_document(step.configure(words), "python -m benchmarks.step")
    floor = {"rate": "fma", "best": 0.05, "median": 0.1}
    floor = {"rates": {"fma": {"best": 2e11, "median": 1e11}}, "floor": floor, "others": 0.01}
    training = {name: summary([s, 1.1 * s, 0.9 * s]) for name, s in (("cpp", 0.125), ("plain", 0.5), ("lstm", 0.6))}
    training["cpp-quiet"] = {"unavailable": "it is on holiday"}
    made["cases"] = [
        {"threads": 2, "model": "noisy", "mode": "training", **MAIN, **floor, "results": training},
        {
            "threads": 2,
            "model": "noisy",
            "mode": "training",
            **{**MAIN, "batch": 1},
            "results": {"cpp": summary([0.004]), "lstm": summary([0.006])},
        },
    ]
    made["memory"] = [{"threads": 2, "mode": "training", **MAIN, "results": {"cpp": {"mib": 98.4}}}]
    made["stream"] = [
        {
            "threads": 1,
            "model": "noisy",
            "mode": "stream",
            "steps": 1,
            "batch": 1,
            "hidden": 128,
            "results": {"cpp": summary([31e-6])},
        }
    ]
    made["epochs"] = [
        {"threads": 2, "kernel": "auto", "sequences": 1280, "steps": 10.0, "step": 0.1, "epoch": [1.0, 1.2]}
        | {"ratio": 1.1, "training_ratio": 1.02}
    ]
    made["complete"] = True
    return made


def test_the_main_table_has_ratios_shares_and_memory(document):
    rows = {row[0]: row[1:] for row in main_table(document, 2).rows}
    assert rows["ours, kernel cpp"][:4] == ["125 (112–138)", "0.25", "80 % (40)", "98.4"]
    assert rows["nn.LSTM"][:4] == ["600 (540–660)", "1.20", "", ""]
    assert rows["ours, kernel cpp, no noise"][:4] == ["–", "", "", ""]


def test_the_others_are_shown_where_they_come_closest(document):
    rows = rivals_table(document).rows
    assert ["2, training", "noisy RNN (drift)", "nn.LSTM", "1.50", "T 784, batch 1, hidden 128"] in rows
    assert ["2, training", "noisy RNN (drift)", "plain loop", "4.00", "T 784, batch 128, hidden 128"] in rows


def test_growth_streams_epochs_and_what_is_missing(document):
    assert growth_table(document, 2, "training").rows[0] == ["784, 1, 128", "4", "6", ""]
    assert stream_table(document).rows == [["noisy RNN (drift)", "ours, kernel cpp", "1", "31 (31–31)", ""]]
    assert epoch_table(document).rows == [
        ["auto, 2 threads, 1280 sequences", "100", "1.0", "1.0–1.2", "1.100", "1.020"]
    ]
    found = missing_table(document).rows
    assert found == [["ours, kernel cpp, no noise", "it is on holiday", "training T 784, batch 128, hidden 128"]]


def test_every_model_is_compared_with_its_loop_its_peer_and_the_version_before(document):
    place = {"threads": 2, "model": "lstm", "mode": "training", **MAIN}
    times = {"cpp": 0.2, "cpp-quiet": 0.15, "reference": 0.8, "before": 0.4, "before-quiet": 0.1, "lstm": 0.3}
    floor = {"rate": "fma", "best": 0.06, "median": 0.12}
    results = {name: summary([seconds]) for name, seconds in times.items()}
    document["cases"].append({**place, "results": results, "floor": floor})
    document["cases"].append({**place, "steps": 196, "results": {"cpp-quiet": summary([0.2]), "lstm": summary([0.1])}})
    table = models_table(document, 2, "training")
    rows = {row[0]: dict(zip(table.header, row, strict=True)) for row in table.rows}
    row = rows["LSTM, T 784, hidden 128"]
    assert row["ms"] == "200" and row["no noise, ms"] == "150" and row["share of the floor"] == "80 % (40)"
    assert row["÷ plain loop"] == "0.25" and row["÷ before"] == "0.50"
    assert row["÷ torch's own without noise"] == "0.67" and row["no noise ÷ torch's own"] == "0.50"
    assert rows["LSTM, T 196, hidden 128"]["no noise ÷ torch's own"] == "2.00"
    assert ["2, training", "LSTM, no noise", "nn.LSTM", "0.50", "T 196, batch 128, hidden 128"] in (
        rivals_table(document).rows
    )
    assert before_table(document).rows == [
        ["2, training", "LSTM", "0.50", "T 784, batch 128, hidden 128", "1"],
        ["2, training", "LSTM, no noise", "1.50", "T 784, batch 128, hidden 128", "1"],
    ]


def test_the_page_shows_all_and_names_no_machine(document):
    page = build_page(document)
    assert page.count("<svg") == 2  # ranking and growth
    for text in ("80 % (40)", "it is on holiday", "python -m benchmarks.step", "0.01 cores busy"):
        assert text in page
    assert "Not all was measured" not in page
    document["complete"] = False
    document["cases"][0]["others"] = 0.9
    page = build_page(document)
    assert "Not all was measured" in page
    assert "repeat this on an idle machine" in page


def test_the_documentation_is_replaced_and_what_stands_around_it_stays(document, tmp_path):
    path = tmp_path / "performance.md"
    write_documentation(path, document)
    path.write_text("Before.\n" + path.read_text() + "After.\n")
    changed = copy.deepcopy(document)
    changed["cases"][0]["results"]["cpp"] = summary([0.0999])
    write_documentation(path, changed)
    text = path.read_text()
    assert text.startswith("Before.\n# Speed") and text.endswith(END + "\nAfter.\n")
    assert text.count(BEGIN) == text.count(END) == 1
    assert "99.9 (99.9–99.9)" in text and "125 (112–138)" not in text
    again = path.read_text()
    write_documentation(path, changed)
    assert path.read_text() == again


def test_a_documentation_with_half_a_marker_is_refused(document, tmp_path):
    path = tmp_path / "performance.md"
    path.write_text(f"{BEGIN}\nmine")
    with pytest.raises(ValueError, match=r"performance\.md must have both markers or none, got one\. Restore <!--"):
        write_documentation(path, document)
    assert path.read_text() == f"{BEGIN}\nmine"


class Refuser:
    """A worker that does not start, or is interrupted."""

    error: type[BaseException] = WorkerError
    process = None

    def __init__(self, name, threads, device="cpu", source=None):
        self.name = name

    def start(self):
        pass

    def ask(self, do, **arguments):
        raise self.error("no")

    def stop(self):
        pass


@pytest.mark.parametrize(("error", "code"), [(WorkerError, 0), (KeyboardInterrupt, 130)])
def test_the_command_writes_its_files_whatever_happens(tmp_path, monkeypatch, error, code):
    monkeypatch.setattr(Refuser, "error", error)
    monkeypatch.setattr(step, "Worker", Refuser)
    monkeypatch.setattr("benchmarks.speed.rounds.Worker", Refuser)
    monkeypatch.setattr(step.signal, "signal", lambda *_: None)
    docs = tmp_path / "performance.md"
    assert step.main([*QUICK, "--contestants", "lstm", "--output", str(tmp_path), "--docs", str(docs)]) == code
    written = json.loads((tmp_path / "step.json").read_text())
    assert written["complete"] is (code == 0)
    assert written["command"].endswith(f"--output {tmp_path.name} --docs performance.md")
    assert "Speed of a training step" in (tmp_path / "step.html").read_text()
    assert ("| nn.LSTM | no |" in docs.read_text()) is (code == 0)


def test_an_unfinished_run_goes_on_from_its_last_case(tmp_path, monkeypatch):
    monkeypatch.setattr(step, "Worker", Refuser)
    monkeypatch.setattr("benchmarks.speed.rounds.Worker", Refuser)
    monkeypatch.setattr(step.signal, "signal", lambda *_: None)
    monkeypatch.setattr("benchmarks.speed.figures._svg", lambda *_: "<svg></svg>")  # drawing takes most of the time
    asked = []

    def measured(entry, case, workers, **_):
        entry["results"] = {}
        if len(asked) == stop:
            raise KeyboardInterrupt
        asked.append((case.mode, case.size))
        entry["results"] |= {name: summary([1.0]) for name in workers}

    monkeypatch.setattr(step, "measure_case", measured)
    small = ["--extent", "growth", "--threads", "1", "--steps", "2", "--batch", "1", "--hidden", "3"]
    words = [*small, "--contestants", "lstm", "--parts", "cases", "--output", str(tmp_path)]
    path, stop = tmp_path / "step.json", 5
    assert step.main([*words, "--resume"]) == 2  # nothing to go on from
    assert step.main(words) == 130
    first, stop = asked.copy(), -1
    asked.clear()
    assert step.main([*words, "--budget", "9", "--resume"]) == 2  # other settings
    assert asked == [] and not json.loads(path.read_text())["complete"]
    assert step.main([*words, "--resume"]) == 0
    written = json.loads(path.read_text())
    assert written["complete"] and "--resume" not in written["command"]
    cases = [(entry["mode"], entry["steps"], entry["batch"], entry["hidden"]) for entry in written["cases"]]
    assert len(set(cases)) == len(cases) == len(step.configure(step.parse(words)).cases(1))
    assert first + asked == [(mode, step.Size(steps=t, batch=b, hidden=d)) for mode, t, b, d in cases]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--rounds", "0"], "must be at least 1, got 0"),
        (["--budget", "0"], "budget must be greater than 0, got 0."),
        (["--contestants", "abacus"], "invalid choice: 'abacus'"),
        (["--before", "elsewhere"], "before must be a src folder with noisyrnn in it, got elsewhere."),
    ],
)
def test_a_wrong_option_is_refused(words, said, capsys):
    with pytest.raises(SystemExit) as ending:
        step.parse(words)
    assert ending.value.code == 2
    assert said in capsys.readouterr().err


@pytest.mark.slow
def test_the_command_measures(tmp_path, capsys):
    words = [*QUICK, "--contestants", "reference", "lstm", "--parts", "cases", "memory", "stream"]
    assert step.main([*words, "--output", str(tmp_path)]) == 0
    written = json.loads((tmp_path / "step.json").read_text())
    assert written["complete"]
    for entry in written["cases"]:
        assert {name for name, result in entry["results"].items() if result["median"] > 0} == {"reference", "lstm"}
        assert entry["rates"]["sgemm"]["best"] > 1e8
    assert written["stream"][0]["results"]["lstm"]["median"] < 0.1
    assert [set(entry["results"]) for entry in written["memory"]] == [{"reference", "lstm"}] * 2
    assert step.main(["--from", str(tmp_path / "step.json"), "--output", str(tmp_path / "again")]) == 0
    assert (tmp_path / "again" / "step.html").read_text() == (tmp_path / "step.html").read_text()
