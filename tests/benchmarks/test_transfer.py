"""A transfer matrix of small models on the digits, and the tables of matrices whose values are known."""

import math
import tomllib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from benchmarks.transfer import plan as plan_module
from benchmarks.transfer import trainings as trainings_module
from benchmarks.transfer.__main__ import main
from benchmarks.transfer.page import COMPARISONS, Matrix, beyond_input_noise, differences_table, gather, page, sentence
from benchmarks.transfer.plan import BASE, LEARNING_RATES, ROWS, SEARCH_SEEDS, SMNIST, Plan
from benchmarks.transfer.search import Point, score, search
from benchmarks.transfer.trainings import Training, run, trainings

from noisyrnn.data import load_dataset
from noisyrnn.data.dataset import Dataset
from noisyrnn.files import read_json
from noisyrnn.pipeline import EvaluateConfig
from noisyrnn.pipeline.train import build_model
from noisyrnn.report.columns import Column
from noisyrnn.robustness import FGSM, WhiteNoise, evaluate
from noisyrnn.robustness.statistics import seeds_interval, seeds_test
from noisyrnn.training import fit, load

STRENGTHS = {"white_noise": [0.3], "fgsm": [0.05], "pgd_linf": [0.02, 0.05]}
PLAN = Plan(
    shared={
        "dataset": "digits",
        "hidden_size": 4,
        "batch_size": 256,
        "epochs": 1,
        "decay_epochs": (1,),
        "clip_norm": 1.0,
        "select": "last",
        "precision": "32-true",
    },
    models={"noisy": {"step_size": 1.0, "additive": 0.0, "multiplicative": 0.0}, "gru": {}},
    two_layers={"noisy": {"step_size": 0.3}},
    search_epochs=1,
    evaluation=EvaluateConfig(strengths=STRENGTHS, draws=2, attack_draws=1, attack_sequences=30),
    dynamics_sequences=10,
)
RATE = {"learning_rate": 0.01}
CHOSEN = {
    "gru": {BASE: RATE, "ema": {"ema": 0.99}, "two-layers": {"learning_rate": 0.003}, "dropout": {"dropout": 0.1}}
}
HIDDEN = "hidden-0.05"


def matrix_of(output: Path, *, rows: tuple[str, ...] = (BASE, HIDDEN), seeds: int = 2) -> list[Training]:
    return trainings(PLAN, CHOSEN, models=["gru"], rows=rows, seeds=seeds, output=output)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> list[Training]:
    """Two rows × two seeds of a GRU."""
    each = matrix_of(tmp_path_factory.mktemp("transfer"))
    assert run(each, workers=1) == 0
    return each


def unreadable(name: str, **options: object) -> Dataset:
    """The data set, of which the test part must not be read."""

    def refuse() -> None:
        raise AssertionError("the test part was read")

    return replace(load_dataset("digits"), read_test=refuse)


def test_the_search_reads_no_test_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan_module, "load_dataset", unreadable)
    file = tmp_path / "chosen.toml"
    chosen = search(PLAN, ["gru"], [BASE, HIDDEN, "weight-decay"], output=tmp_path, file=file, workers=1)
    assert tomllib.loads(file.read_text()) == chosen
    records = [read_json(path) for path in (tmp_path / "search").glob("*.json")]
    assert {record["settings"]["seed"] for record in records} == set(SEARCH_SEEDS)
    assert not set(SEARCH_SEEDS) & set(range(1, 11))  # those of the trainings

    def mean(setting: str, value: float, *names: str) -> float:
        """Over the search's seeds, computed from the records."""
        own = [
            record
            for record in records
            if record["settings"][setting] == value
            and (record["settings"]["label"] == "gru-weight-decay") == (setting == "weight_decay")
        ]
        assert len(own) == len(SEARCH_SEEDS)
        return sum(record["accuracies"][name] for record in own for name in names)

    clean = {rate["learning_rate"]: mean("learning_rate", rate["learning_rate"], "clean") for rate in LEARNING_RATES}
    assert clean[chosen["gru"][BASE]["learning_rate"]] == max(clean.values())
    decays = [one["weight_decay"] for one in ROWS["weight-decay"].candidates]
    scores = {decay: mean("weight_decay", decay, "clean", "white_noise", "fgsm") for decay in decays}
    assert scores[chosen["gru"]["weight-decay"]["weight_decay"]] == max(scores.values())
    for record in records:  # the rate that was chosen first holds for the levels
        if record["settings"]["label"] == "gru-weight-decay":
            assert record["settings"]["learning_rate"] == chosen["gru"][BASE]["learning_rate"]


def test_the_search_measures_validation_data(tmp_path: Path) -> None:
    config = PLAN.config("gru", BASE, 101, {"learning_rate": 0.01})
    found = score(Point(plan=PLAN, config=config, file=tmp_path / "score.json"))
    dataset = load_dataset("digits")
    model = build_model(config, dataset)
    fit(model, dataset, config)
    model.eval()
    split = dataset.validation
    assert found == {
        "clean": evaluate(model, split).accuracy,
        "white_noise": evaluate(model, split, WhiteNoise(0.3), draws=1, seed=1).accuracy,
        "fgsm": evaluate(model, split, FGSM(0.05)).accuracy,
    }


def test_every_row_and_candidate_has_valid_settings() -> None:
    for model in SMNIST.models:
        for row, entry in ROWS.items():
            for own in entry.candidates or ({},):
                config = SMNIST.config(model, row, 1, own)
                assert config.options["additive"] == entry.settings.get("additive", 0.0)
                assert config.options["multiplicative"] == 0.0
                assert all({**config.to_dict()}[name] == value for name, value in own.items())
                if model == "noisy":
                    assert config.options["step_size"] == (0.1 if row in ("two-layers", "dropout") else 1.0)
    assert {row for pair in COMPARISONS for row in pair} == set(ROWS)


def test_the_trainings_go_seed_by_seed_with_the_chosen_settings(tmp_path: Path) -> None:
    each = matrix_of(tmp_path, rows=(BASE, "ema"))
    assert [(t.seed, t.row) for t in each] == [(1, BASE), (1, "ema"), (2, BASE), (2, "ema")]
    assert [t.config.ema for t in each] == [None, 0.99, None, 0.99]
    assert {t.config.learning_rate for t in each} == {0.01}
    two = matrix_of(tmp_path, rows=("two-layers", "dropout"), seeds=1)
    assert [(t.config.learning_rate, t.config.options["dropout"]) for t in two] == [(0.003, 0.0), (0.003, 0.1)]
    with pytest.raises(ValueError, match="adversarial"):
        _ = matrix_of(tmp_path, rows=("adversarial",))[0].config


def test_the_accuracies_are_those_of_the_trained_models(finished: list[Training]) -> None:
    matrix = gather(finished, "gru")
    assert matrix.seeds == [1, 2] and matrix.rows == [BASE, HIDDEN]
    test = load_dataset("digits").test
    columns = {
        Column("clean", 0.0): None,
        Column("white_noise", 0.3): WhiteNoise(0.3),
        Column("fgsm", 0.05): FGSM(0.05),
    }
    for training in finished:
        model = load(training.folder.model).eval()
        for column, perturbation in columns.items():
            split = test.subset(torch.arange(30)) if column.perturbation == "fgsm" else test
            result = evaluate(model, split, perturbation, draws=2)
            own = matrix.accuracies[training.row, column][training.seed - 1]
            np.testing.assert_allclose(own, result.main.sequences)
    worst = [column for column in matrix.columns if column.perturbation.startswith("worst")]
    assert worst == [Column("worst_linf", 0.05)]


def test_the_page_shows_means_intervals_and_differences(finished: list[Training]) -> None:
    matrix = gather(finished, "gru")
    text = page(PLAN, CHOSEN, [matrix])
    column = Column("white_noise", 0.3)
    place = 1 + matrix.columns.index(column)
    (line,) = (
        line
        for line in text.splitlines()
        if line.startswith("| hidden noise 0.05 |") and "±" in line and line.count("|") == 2 + len(matrix.columns)
    )
    found = seeds_interval(matrix.accuracies[HIDDEN, column])
    cell = line.strip("|").split("|")[place].strip()
    assert cell == f"{100 * found.mean:.1f} ± {50 * (found.high - found.low):.1f}"
    test = seeds_test(matrix.accuracies[HIDDEN, column], matrix.accuracies[BASE, column])
    points = [f"{100 * value:+.1f}" for value in (test.difference, test.low, test.high)]
    (line,) = (line for line in text.splitlines() if line.startswith("| White noise σ 0.3 |"))
    assert line == f"| White noise σ 0.3 | {points[0]} [{points[1]}, {points[2]}] |"
    assert "too few seeds" in text


def test_a_second_run_repeats_nothing(finished: list[Training], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trainings_module, "train_run", None)
    monkeypatch.setattr(trainings_module, "dynamics", None)
    assert run(matrix_of(finished[0].output), workers=1) == 0


def test_only_complete_seeds_count(finished: list[Training]) -> None:
    last = finished[-1]
    content = last.dynamics_file.read_bytes()
    last.dynamics_file.unlink()
    try:
        assert gather(finished, "gru").seeds == [1]
        with pytest.raises(ValueError, match="complete"):
            gather([last], "gru")
    finally:
        last.dynamics_file.write_bytes(content)


def test_a_failure_stops_no_other_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*arguments: object) -> None:
        raise RuntimeError("loss must be finite, got nan.")

    monkeypatch.setattr(trainings_module, "train_run", fail)
    assert run(matrix_of(tmp_path), workers=1) == 4
    assert capsys.readouterr().out.count("loss must be finite") == 4


def test_a_run_without_a_search_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "--output", str(tmp_path), "--chosen", str(tmp_path / "none.toml")], PLAN) == 2
    assert "none.toml must be written before a run" in capsys.readouterr().err


# Matrices whose values are known

CLEAN, NOISE = Column("clean", 0.0), Column("white_noise", 0.3)
ROWS_KNOWN = (BASE, HIDDEN, "input", "input-hidden")


def known(means: dict[tuple[str, Column], float], *, seeds: int = 10) -> Matrix:
    """A matrix of 400 sequences whose accuracies vary a little over seeds; 0.5 where `means` has none."""
    generator = np.random.default_rng(0)
    accuracies = {
        (row, column): np.sort(generator.random((seeds, 400)), axis=1) < means.get((row, column), 0.5)
        for row in ROWS_KNOWN
        for column in (CLEAN, NOISE)
    }
    dynamics = {(row, "lyapunov"): (generator.normal(size=seeds) + (row == HIDDEN) * 10).tolist() for row in ROWS_KNOWN}
    return Matrix(
        model="gru",
        seeds=range(1, seeds + 1),
        accuracies={key: value.astype(float) for key, value in accuracies.items()},
        dynamics=dynamics,
    )


MEANS = {(HIDDEN, NOISE): 0.7, ("input", NOISE): 0.9, ("input-hidden", NOISE): 0.9, ("input-hidden", CLEAN): 0.3}


def test_all_differences_of_a_model_are_corrected_together() -> None:
    matrix = known(MEANS)
    tests = matrix.tests()
    pairs = [(HIDDEN, BASE), ("input", BASE), (HIDDEN, "input"), ("input-hidden", "input")]
    assert list(dict.fromkeys(pair for pair, _ in tests)) == pairs
    assert len(tests) == 4 * 3
    order = sorted(tests, key=lambda key: tests[key].p_value)
    largest = 0.0
    for rank, key in enumerate(order):  # Holm's method, written out
        largest = max(largest, min(1.0, (len(order) - rank) * tests[key].p_value))
        assert tests[key].adjusted == largest
    assert tests[(HIDDEN, BASE), "lyapunov"].significant
    assert not tests[(HIDDEN, BASE), CLEAN].significant


def test_bold_differences_and_sentences_are_the_significant_ones() -> None:
    matrix = known(MEANS)
    tests = matrix.tests()
    lines = differences_table(matrix, tests, COMPARISONS).splitlines()[2:]
    bold = {
        (pair, line.split("|")[1].strip())
        for line in lines
        for pair, cell in zip(dict.fromkeys(pair for pair, _ in tests), line.split("|")[2:], strict=False)
        if "**" in cell
    }
    titles = {CLEAN: "Clean", NOISE: "White noise σ 0.3", "lyapunov": "largest Lyapunov exponent"}
    assert bold == {(pair, titles[quantity]) for (pair, quantity), test in tests.items() if test.significant}
    up = f"{100 * tests[(HIDDEN, BASE), NOISE].difference:+.1f}"
    assert sentence((HIDDEN, BASE), tests) == (
        f"- hidden noise 0.05 against nothing: accuracy higher under white noise σ 0.3 ({up}); "
        "higher: largest Lyapunov exponent; no significant difference in the other 1."
    )
    added, hidden = beyond_input_noise(tests)
    clean = f"{100 * tests[('input-hidden', 'input'), CLEAN].difference:+.1f}"
    noise = f"{100 * tests[(HIDDEN, 'input'), NOISE].difference:+.1f}"
    assert added == (
        "- Added to input noise, hidden noise 0.05 gains significantly under none of the perturbations, and loses "
        f"under clean ({clean})."
    )
    assert hidden == (
        "- Hidden noise 0.05 gains significantly under none of the perturbations, and loses under white noise σ 0.3 "
        f"({noise}). The model has a higher largest Lyapunov exponent."
    )


def test_no_difference_is_said_to_be_none() -> None:
    matrix = known({})
    equal = replace(matrix, dynamics={}, accuracies=dict.fromkeys(matrix.accuracies, matrix.accuracies[BASE, CLEAN]))
    tests = equal.tests()
    assert not any(test.significant for test in tests.values())
    expected = "- input noise against nothing: no significant difference in any of the 2 quantities."
    assert sentence(("input", BASE), tests) == expected


def test_few_seeds_give_no_tests() -> None:
    tests = known(MEANS, seeds=2).tests()
    assert all(math.isnan(test.p_value) for test in tests.values())
    assert sentence((HIDDEN, BASE), tests) == "- hidden noise 0.05 against nothing: no tests, too few seeds."
