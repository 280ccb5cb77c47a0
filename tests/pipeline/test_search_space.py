"""Where a sweep looks."""

from typing import Any

import pytest

from noisyrnn.models import MODELS
from noisyrnn.pipeline import SweepConfig
from noisyrnn.pipeline.search_space import read_space, suggest
from noisyrnn.training.settings import search_space


@pytest.mark.parametrize("model", MODELS)
def test_every_model_has_a_space_whose_limits_it_allows(model: str) -> None:
    assert SweepConfig(model=model).searched() == read_space(search_space(model))


def test_levels_are_not_searched_where_a_diffusion_replaces_them() -> None:
    config = SweepConfig(model="noisy", train={"hidden_size": 2, "diffusion": [[0.1], [0.2]]})
    left = set(search_space("noisy")) - {"additive", "multiplicative"}
    assert set(config.searched()) == left and left < set(search_space("noisy"))
    assert config.run_config({}).options["additive"] == 0


def test_noise_levels_are_searched_for_the_noisy_network() -> None:
    assert {"additive", "multiplicative", "step_size", "learning_rate"} <= search_space("noisy").keys()


def test_a_space_from_a_file() -> None:
    space = {"additive": {"low": 0.01, "high": 1, "log": True}, "recurrent_init": ["cayley", "henaff"]}
    assert read_space(space) == space
    assert read_space({"hidden_size": {"low": 16, "high": 64}})["hidden_size"]["log"] is False


def test_suggestions_lie_where_they_should() -> None:
    optuna = pytest.importorskip("optuna")
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=1))
    whole, factors, words, powers = [], [], [], []
    for _ in range(200):
        trial = study.ask()
        whole.append(suggest(trial, "whole", {"low": 2, "high": 5, "log": False}))
        factors.append(suggest(trial, "factors", {"low": 0.01, "high": 1.0, "log": True}))
        powers.append(suggest(trial, "powers", {"low": 1, "high": 1000, "log": True}))
        words.append(suggest(trial, "words", ["a", "b"]))
    assert set(whole) == {2, 3, 4, 5}
    assert all(isinstance(value, int) for value in whole)
    assert set(words) == {"a", "b"}
    assert min(factors) >= 0.01
    assert max(factors) <= 1.0
    below = sum(value < 0.1 for value in factors)  # half of them, if factors are as likely: 4 standard errors are 28
    assert 72 <= below <= 128
    assert 72 <= sum(value < 32 for value in powers) <= 128


FORM = r"must be a list of at least two different values, or an interval with low below high .* got "


@pytest.mark.parametrize(
    ("space", "kind", "message"),
    [
        ([1], TypeError, r"space must map settings to where they are searched, got \[1\]"),
        ({}, ValueError, "space must name at least one setting, got none"),
        ({"additiv": [1, 2]}, ValueError, "Did you mean 'additive'"),
        ({"seed": [1, 2]}, ValueError, "space must be one of"),
        ({"dataset": ["digits", "smnist"]}, ValueError, "space must be one of"),
        ({"additive": [0.1]}, ValueError, rf"space.additive {FORM}\[0.1\]"),
        ({"additive": [0.1, 0.1]}, ValueError, rf"space.additive {FORM}\[0.1, 0.1\]"),
        ({"additive": 0.1}, ValueError, rf"space.additive {FORM}0.1"),
        ({"additive": {"low": 1, "high": 0.1}}, ValueError, FORM),
        ({"additive": {"low": 0, "high": 0.1, "log": True}}, ValueError, FORM),
        ({"additive": {"low": 0.1}}, ValueError, FORM),
        ({"additive": {"low": 0.1, "high": 1, "lag": True}}, ValueError, FORM),
        ({"additive": {"low": "a", "high": "b"}}, ValueError, FORM),
        ({"additive": {"low": False, "high": True}}, ValueError, FORM),
        ({"additive": {"low": 0.1, "high": 1, "log": "yes"}}, ValueError, FORM),
    ],
)
def test_a_space_of_another_form_is_refused(space: Any, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        read_space(space)
