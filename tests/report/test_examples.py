from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.report.conftest import column, example

from noisyrnn.report import examples, read_run
from noisyrnn.report.accuracy import columns_of
from noisyrnn.report.comparison import Comparison, compare

Make = Callable[..., Path]


def gallery(comparison: Comparison, *, count: int) -> list[dict[str, Any]]:
    return examples.gallery(comparison.groups, columns_of(comparison.main), count=count)


def test_noise_is_pictured_once_and_attacks_for_each_model(runs: list[Path]) -> None:
    first, second = gallery(compare([read_run(path) for path in runs]), count=5)
    assert (first["index"], second["index"], first["label"]) == (5, 11, "3")
    assert [column["title"] for column in first["head"]] == ["Clean", "White noise σ 0.2", "PGD ℓ∞ ϵ 0.1"]
    assert [column["picture"] is not None for column in first["head"]] == [True, True, False]
    assert [row["label"] for row in first["rows"]] == ["noisy", "lipschitz", "lstm"]
    for row in first["rows"]:
        assert [answer["picture"] is not None for answer in row["answers"]] == [False, False, True]


def test_answers_say_class_verdict_and_confidence(runs: list[Path]) -> None:
    (item,) = gallery(compare([read_run(path) for path in runs]), count=1)
    right, wrong = item["rows"][0]["answers"][0], item["rows"][1]["answers"][0]
    assert (right["prediction"], right["right"], right["confidence"]) == ("3", True, "87 %")
    assert (wrong["prediction"], wrong["right"]) == ("8", False)


def test_images_are_heatmaps_and_other_sequences_are_lines(make_run: Make) -> None:
    options = {
        "columns": [column("clean", None, 1.0)],
        "examples": [example("clean", None, index=0, prediction=3, shade=0)],
    }
    for shape, kind in (([8, 8], "image"), ([9, 9], "lines"), (None, "lines")):
        run = read_run(make_run(label="a", seed=1, dataset={"image_shape": shape}, **options))
        picture = gallery(compare([run]), count=1)[0]["head"][0]["picture"]
        assert kind in picture
        assert picture["alt"] == "Test sequence 0, class 3, Clean"


def test_examples_that_one_model_lacks(make_run: Make) -> None:
    columns = [column("clean", None, 1.0), column("fgsm", 0.1, 0.5)]
    both = [
        example(name, strength, index=4, prediction=3, shade=0) for name, strength in (("clean", None), ("fgsm", 0.1))
    ]
    runs = [
        make_run(label="a", seed=1, columns=columns, examples=both[:1]),
        make_run(label="b", seed=1, columns=columns, examples=both),
        make_run(label="c", seed=1, columns=columns),
    ]
    (item,) = gallery(compare([read_run(path) for path in runs]), count=3)
    assert [row["label"] for row in item["rows"]] == ["a", "b"]
    assert item["rows"][0]["answers"][1] is None
    assert item["rows"][1]["answers"][1]["right"]


def test_an_example_of_a_column_without_accuracy_is_left_out(make_run: Make) -> None:
    only = [example("fgsm", 0.7, index=0, prediction=3, shade=0)]
    run = read_run(make_run(label="a", seed=1, columns=[column("clean", None, 1.0)], examples=only))
    (item,) = gallery(compare([run]), count=1)
    assert item["head"] == []


def test_no_examples_give_an_empty_gallery(make_run: Make) -> None:
    run = read_run(make_run(label="a", seed=1, columns=[column("clean", None, 1.0)]))
    assert gallery(compare([run]), count=3) == []
