"""Comparisons of settings."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from noisyrnn.cli import main
from noisyrnn.pipeline import CompareConfig, EvaluateConfig, RunContext, compare
from noisyrnn.pipeline.variants import read_variants
from noisyrnn.training.settings import read_experiment, recommended


def test_text_and_mappings_say_the_same() -> None:
    text = read_variants("noisy:additive=0, noisy : additive=0.1 : step-size=0.3:label=much, lstm")
    listed = read_variants(
        [
            {"model": "noisy", "additive": 0},
            {"model": "noisy", "additive": 0.1, "step_size": 0.3, "label": "much"},
            "lstm",
        ]
    )
    assert text == listed
    assert [variant.shown_label for variant in text] == ["noisy additive=0", "much", "lstm"]


def test_a_variant_changes_its_own_settings_only() -> None:
    config = CompareConfig(variants="noisy, noisy:additive=0.3, lstm", seeds=2, train={"epochs": 3, "additive": 0.2})
    first, second, third, *others = config.run_configs()
    plain = CompareConfig(models=["noisy", "lstm"], seeds=2, train={"epochs": 3, "additive": 0.2}).run_configs()
    assert [first, third] == plain[:2]  # the same runs, in the same folders
    assert second.options["additive"] == 0.3 and second.epochs == 3 and second.shown_label == "noisy additive=0.3"
    changed = {name for name, value in second.to_dict().items() if value != first.to_dict()[name]}
    assert changed == {"additive", "label"}
    assert [run.seed for run in others] == [2, 2, 2]
    assert first.learning_rate == recommended("digits", "noisy")["learning_rate"]


def test_a_published_experiment_is_a_row() -> None:
    config = CompareConfig(variants="smnist-lipschitz, smnist-noisy-high:additive=0:label=quiet", seeds=1)
    lipschitz, quiet = config.run_configs()
    published = read_experiment("smnist-noisy-high").train
    assert lipschitz.learning_rate == 0.003 and lipschitz.shown_label == "smnist-lipschitz"
    assert quiet.options["additive"] == 0 and quiet.options["multiplicative"] == published["multiplicative"]
    assert quiet.epochs == 100 and quiet.dataset == "smnist"


@pytest.mark.parametrize(
    ("variants", "words"),
    [
        ("noisi:additive=0", "Did you mean 'noisy'"),
        ("noisy:additiv=0", "Did you mean 'additive'"),
        ("noisy:additive", "variants must be MODEL:setting=value, got 'noisy:additive'"),
        ("noisy:additive=", "variants must be MODEL:setting=value"),
        ("noisy, noisy", "variants must differ in their labels, got 'noisy' 2 times"),
        ("noisy:seed=3", "variants must not set seed, got 3"),
        ("noisy:dataset=smnist", "variants must not set dataset, got 'smnist'. All variants share one .*--dataset"),
        ("noisy:values_per_step=7", "variants must not set values_per_step, got 7.*--values-per-step"),
        (
            "noisy:additive=0:additive=1",
            "variants must set each setting once, got additive twice in 'noisy:additive=0:",
        ),
        ("noisy:additive=[1", r"variants must have values such as .*, got '\[1' in 'noisy:additive=\[1'"),
        (
            "noisy:additive=0, noisy:additive=0.0",
            "variants must differ in their settings, got 'noisy additive=0' and 'noisy additive=0.0'",
        ),
        ([{"additive": 1}], "variants must each have a model"),
        ([3], "variants must be texts or mappings, got 3"),
        ("lstm:step_size=0.1", "option of model 'lstm' must be one of"),
        ("noisy:additive=-1", "additive must be at least 0"),
        ("smnist-lipschitz, psmnist-lipschitz", "variants must share one data set, got smnist with 1 values per step"),
        (
            "noisy, noisy:drop=v",
            r"variants must read their data alike, got another drop for 'noisy' than for 'noisy d",
        ),
    ],
)
def test_what_is_refused(variants: Any, words: str) -> None:
    with pytest.raises((ValueError, TypeError), match=words):
        CompareConfig(variants=variants, seeds=1).run_configs()


def test_numbers_with_an_exponent() -> None:
    (variant,) = read_variants("noisy:learning_rate=1e-3")
    assert variant.settings == {"learning_rate": 0.001}


def test_models_and_variants_exclude_each_other() -> None:
    with pytest.raises(ValueError, match="models must be left out with variants, got lstm"):
        CompareConfig(models=["lstm"], variants="noisy")


def test_three_levels_of_noise_in_one_report(waves_file: Path, tmp_path: Path) -> None:
    train = {"dataset": str(waves_file), "hidden_size": 4, "epochs": 2, "batch_size": 16}
    config = CompareConfig(
        variants="noisy:additive=0, noisy:additive=0.05, noisy:additive=0.1",
        seeds=2,
        train=train,
        evaluation=EvaluateConfig(strengths={"white_noise": [0.5]}, draws=2),
    )
    page, failures = compare(config, RunContext(output=tmp_path / "one"))
    assert failures == {}
    labels = json.loads((page.parent / "comparison.json").read_text())["labels"]
    assert list(labels) == ["noisy additive=0", "noisy additive=0.05", "noisy additive=0.1"]
    assert "3 variants on" in page.read_text()
    text = {"variants": ["noisy:additive=0", {"model": "noisy", "additive": 0.05}], "seeds": 2, **train}
    (tmp_path / "variants.yaml").write_text(yaml.safe_dump(text))
    strengths = ["--strengths", "{white_noise: [0.5]}", "--draws", "2", "--batch-seeds"]
    words = ["compare", "--config", str(tmp_path / "variants.yaml"), "--output", str(tmp_path / "two"), *strengths]
    assert main(words) == 0
    again = json.loads((tmp_path / "two" / "comparison.json").read_text())["labels"]
    for label in ("noisy additive=0", "noisy additive=0.05"):  # side by side, the same
        assert [column["seeds"] for column in again[label]["columns"]] == [
            column["seeds"] for column in labels[label]["columns"]
        ]


def test_a_shared_option_is_left_out_where_a_model_lacks_it() -> None:
    config = CompareConfig(variants="noisy, gru", seeds=1, train={"skew_symmetry": 0.7})
    noisy, gru = config.run_configs()
    assert noisy.options["skew_symmetry"] == 0.7
    assert "skew_symmetry" not in gru.options
