"""Settings: what they accept, what they say, and the named ones."""

import json
import math
import pickle
from dataclasses import fields
from typing import Any

import numpy as np
import pytest
import torch

from noisyrnn.models import MODELS, build_layer, layer_options
from noisyrnn.sde import Activation
from noisyrnn.training import TrainConfig
from noisyrnn.training.schedules import learning_rate_at
from noisyrnn.training.settings import merge_settings, published_experiments, read_experiment, recommended


@pytest.mark.parametrize(
    ("settings", "error", "sentence"),
    [
        (
            {"model": "lipshitz"},
            ValueError,
            r"model must be one of antisymmetric, .* got 'lipshitz'\. Did you mean 'lipschitz'\?",
        ),
        ({"values_per_step": 0}, ValueError, r"values_per_step must be at least 1, got 0"),
        ({"seed": -1}, ValueError, r"seed must be at least 0, got -1"),
        ({"seed": 2**63}, ValueError, r"seed must be less than 2\*\*63, got 9223372036854775808"),
        ({"hidden_size": 0}, ValueError, r"hidden_size must be at least 1, got 0"),
        ({"epochs": 2.5}, TypeError, r"epochs must be an integer, got 2\.5"),
        ({"batch_size": 0}, ValueError, r"batch_size must be at least 1, got 0"),
        ({"learning_rate": 0.0}, ValueError, r"learning_rate must be greater than 0, got 0"),
        ({"learning_rate": math.nan}, ValueError, r"learning_rate must be finite and greater than 0, got nan"),
        ({"decay_epochs": (0,)}, ValueError, r"decay_epochs must be at least 1, got 0"),
        ({"decay_factor": 0.0}, ValueError, r"decay_factor must be greater than 0, got 0"),
        ({"decay_factor": 1.5}, ValueError, r"decay_factor must be at most 1, got 1\.5"),
        ({"weight_decay": -0.1}, ValueError, r"weight_decay must be at least 0, got -0\.1"),
        ({"clip_norm": 0.0}, ValueError, r"clip_norm must be greater than 0, got 0"),
        ({"patience": 0}, ValueError, r"patience must be at least 1, got 0"),
        ({"optimizer": "sgd"}, ValueError, r"optimizer must be one of adam, adamw, rmsprop, got 'sgd'"),
        ({"orthogonal_rate": 0.0}, ValueError, r"orthogonal_rate must be greater than 0, got 0"),
        (
            {"orthogonal_rate": 0.1},
            ValueError,
            r"orthogonal_rate must be 1 for model 'noisy', which has no orthogonal matrix, got 0\.1",
        ),
        ({"select": "best"}, ValueError, r"select must be one of auto, clean, last, perturbed, refit, got 'best'"),
        ({"select": "refit", "patience": 3}, ValueError, r"patience must be None where select is 'refit', got 3"),
        ({"min_steps": 0}, ValueError, r"min_steps must be at least 1, got 0"),
        ({"decay_after": 0.0}, ValueError, r"decay_after must be greater than 0, got 0"),
        ({"decay_after": 1.5}, ValueError, r"decay_after must be at most 1, got 1\.5"),
        (
            {"decay_after": 0.5, "decay_epochs": (3,)},
            ValueError,
            r"decay_after must be None with decay_epochs, got 0\.5",
        ),
        ({"select": "last", "patience": 3}, ValueError, r"patience must be None where select is 'last', got 3"),
        ({"ema": 0.0}, ValueError, r"ema must be greater than 0, got 0"),
        ({"ema": 1.0}, ValueError, r"ema must be less than 1, got 1"),
        ({"input_noise": -0.1}, ValueError, r"input_noise must be at least 0, got -0\.1"),
        ({"input_noise": "0.1"}, TypeError, r"input_noise must be a number, got '0\.1'"),
        ({"input_noise": (0.3, 0.1)}, ValueError, r"input_noise must be at least 0\.3, got 0\.1"),
        ({"input_noise": (0.1,)}, ValueError, r"input_noise must be one number or two, got \[0\.1\]"),
        (
            {"input_noise": 1.5, "input_noise_kind": "salt_and_pepper"},
            ValueError,
            r"input_noise must be at most 1, got 1\.5",
        ),
        (
            {"input_noise_kind": "fgsm"},
            ValueError,
            r"input_noise_kind must be one of missing_blocks, .* got 'fgsm'",
        ),
        ({"noise_schedule": "cosine"}, ValueError, r"noise_schedule must be one of annealed, constant, got 'cosine'"),
        ({"adversarial": "pgd"}, ValueError, r"adversarial must be one of fgsm, pgd_l2, pgd_linf, got 'pgd'"),
        ({"adversarial_radius": 0.0}, ValueError, r"adversarial_radius must be greater than 0, got 0"),
        ({"adversarial_steps": 0}, ValueError, r"adversarial_steps must be at least 1, got 0"),
        ({"precision": "8-bit"}, ValueError, r"precision must be one of 32-true, 64-true, bf16-mixed, got '8-bit'"),
        ({"penalty": "exact"}, ValueError, r"penalty must be one of explicit, hutchinson, got 'exact'"),
        (
            {"penalty": "explicit", "options": {"num_layers": 2}},
            ValueError,
            r"penalty must be None for a model of 2 cells",
        ),
        (
            {"penalty": "hutchinson", "options": {"additive": 0.0, "multiplicative": 0.0}},
            ValueError,
            r"penalty must be None for a model without noise, got 'hutchinson'\. Set additive",
        ),
        (
            {"penalty": "hutchinson", "options": {"noise_law": "uniform"}},
            ValueError,
            r"penalty must be None with noise_law 'uniform', got 'hutchinson'",
        ),
        (
            {"model": "gru", "options": {"additive": 0.1}, "penalty": "explicit"},
            ValueError,
            r"penalty must be 'hutchinson' for model 'gru', got 'explicit', which is for noisy, ",
        ),
        (
            {"penalty": "explicit", "options": {"scheme": "stochastic-heun"}},
            ValueError,
            r"penalty must be None with scheme 'stochastic-heun', got 'explicit'",
        ),
        (
            {"options": {"diffusion": lambda h, x, t: h}},
            TypeError,
            r"diffusion must be a matrix in the settings of a run, got <function .*and call fit",
        ),
        (
            {"options": {"activation": Activation(math.sin, lipschitz=1.0)}},
            TypeError,
            r"activation must be a name in the settings of a run, got Activation",
        ),
        ({"hidden_size": 3, "options": {"diffusion": [[0.1], [0.2]]}}, ValueError, r"diffusion must have 3 rows"),
        ({"options": {"learn_diffusion": True}}, ValueError, r"learn_diffusion must be False unless diffusion is a"),
        ({"model": "gru", "options": {"scheme": "milstein"}}, ValueError, r"scheme must be 'euler-maruyama' for"),
        ({"model": "rate", "options": {"alpha": 2.0}}, ValueError, r"alpha must be at most 1, got 2"),
        ({"options": {"num_layers": 0}}, ValueError, r"num_layers must be at least 1, got 0"),
        ({"options": {"num_layers": 2, "dropout": 1.0}}, ValueError, r"dropout must be less than 1, got 1"),
        ({"options": {"skew_symmetry": 0.3}}, ValueError, r"skew_symmetry must lie in \[0\.5, 1\], got 0\.3"),
        ({"options": ("additive", 0.1)}, TypeError, r"options must map names to values, got \('additive', 0\.1\)"),
        (
            {"options": {"additve": 0.1}},
            ValueError,
            r"option of model 'noisy' must be one of .*additive, .*, got 'additve'\. Did you mean 'additive'\?",
        ),
        ({"model": "gru", "options": {"damping": 0.1}}, ValueError, "option of model 'gru' must be one of additive"),
        (
            {"options": {"batch_first": False}},
            ValueError,
            "option of model 'noisy' must be one of .* got 'batch_first'",
        ),
    ],
)
def test_bad_settings(settings: dict[str, Any], error: type[Exception], sentence: str) -> None:
    with pytest.raises(error, match=sentence):
        TrainConfig(**settings)


@pytest.mark.parametrize("model", sorted(MODELS))
def test_stacks_can_be_trained(model: str) -> None:
    config = TrainConfig(model=model, options={"num_layers": 2, "bidirectional": True, "dropout": 0.25})
    layer = build_layer(model, 1, 2, config.options)
    assert (layer.num_layers, layer.bidirectional, layer.dropout) == (2, True, 0.25)
    assert list(layer.cells) == ["l0", "l0_reverse", "l1", "l1_reverse"]


def test_an_unknown_setting_is_named() -> None:
    with pytest.raises(
        ValueError, match=r"setting must be one of .* got 'learning_rat'\. Did you mean 'learning_rate'\?"
    ):
        TrainConfig.from_dict({"learning_rat": 0.1})


def test_published_settings_are_those_of_the_papers() -> None:
    """Settings and figures as printed: ordered MNIST, hidden 128, Adam, batch 128, 100 epochs, decay after 91."""
    expected = {
        "lipschitz": {"learning_rate": 0.003, "step_size": 0.03, "skew_symmetry": 0.75, "damping": 0.001},
        "antisymmetric": {"learning_rate": 0.002, "step_size": 0.01, "damping": 0.0001},
        "noisy-low": {"learning_rate": 0.001, "step_size": 0.01, "additive": 0.02, "multiplicative": 0.02},
        "noisy-high": {"learning_rate": 0.001, "step_size": 0.01, "additive": 0.05, "multiplicative": 0.02},
    }
    for name, settings in expected.items():
        config = TrainConfig.from_dict(dict(read_experiment(f"smnist-{name}").train))
        assert {key: config.to_dict()[key] for key in settings} == settings
        assert (config.hidden_size, config.batch_size, config.epochs, config.decay_epochs) == (128, 128, 100, (91,))
        assert config.options["init_std"] == 0.1
    permuted = {name: row.train for name, row in published_experiments().items() if name.startswith("psmnist")}
    assert permuted["psmnist-lipschitz"]["learning_rate"] == 0.0035
    for name in ("lipschitz", "antisymmetric", "noisy-low", "noisy-high"):  # trained on pixels from 0 to 255
        row = permuted[f"psmnist-{name}"]
        assert (row["dataset"], row["decay_epochs"]) == ("psmnist255", [91])
    config = TrainConfig(decay_epochs=(91,))
    rates = [learning_rate_at(config, epoch) for epoch in (91, 92, 100)]
    assert rates == pytest.approx([1e-3, 1e-4, 1e-4])  # nine epochs at the lower rate
    cornn = TrainConfig.from_dict(dict(read_experiment("smnist-cornn").train))
    assert (cornn.hidden_size, cornn.batch_size, cornn.learning_rate) == (256, 120, 0.0021)
    assert [cornn.options[name] for name in ("step_size", "stiffness", "friction")] == [0.042, 2.7, 4.7]
    assert (cornn.decay_epochs, cornn.epochs) == ((100,), 120)
    cornn = TrainConfig.from_dict(dict(read_experiment("psmnist-cornn").train))
    assert (cornn.hidden_size, cornn.batch_size, cornn.learning_rate) == (256, 120, 0.0054)
    assert [cornn.options[name] for name in ("step_size", "stiffness", "friction")] == [0.076, 0.4, 8.0]
    assert (cornn.decay_epochs, cornn.epochs) == ((100,), 120)
    assert read_experiment("smnist-noisy-high").published["white_noise 0.3"] == 73.5
    assert read_experiment("smnist-cornn").published["salt_and_pepper 0.1"] == 58.9


def test_options_of_one_matrix_travel_through_files() -> None:
    config = TrainConfig(model="lipschitz", options={"damping": 0.2, "damping_w": 0.05, "skew_symmetry_w": 0.9})
    again = TrainConfig.from_dict(json.loads(json.dumps(config.to_dict())))
    assert again == config
    layer = build_layer("lipschitz", 1, 4, again.options)
    assert (layer.damping, layer.damping_w, layer.skew_symmetry, layer.skew_symmetry_w) == (0.2, 0.05, 0.75, 0.9)


def test_options_are_complete_and_cannot_change() -> None:
    config = TrainConfig(options={"additive": 0.05})
    assert config == TrainConfig()  # the default, given or not
    assert config.options == layer_options("noisy")
    assert hash(config) == hash(TrainConfig())
    assert pickle.loads(pickle.dumps(config)) == config
    with pytest.raises(TypeError, match="item assignment"):
        config.options["additive"] = 1.0  # type: ignore[index]
    given = {"additive": 0.1}
    config = TrainConfig(options=given)
    given["additive"] = 0.2
    assert config.options["additive"] == 0.1


def test_no_option_is_called_like_a_setting() -> None:
    names = TrainConfig.setting_names()
    assert len(names) == len(fields(TrainConfig)) - 1 + len({name for model in MODELS for name in layer_options(model)})


def test_identity_is_what_differs_from_the_defaults() -> None:
    assert TrainConfig().identity() == {"label": "noisy"}
    config = TrainConfig(model="gru", seed=4, options={"additive": 0.1, "dropout": 0.0}, decay_epochs=(3,))
    assert config.identity() == {"model": "gru", "label": "gru", "seed": 4, "additive": 0.1, "decay_epochs": [3]}


def test_the_layer_defaults_are_the_published_ones() -> None:
    options = layer_options("noisy")
    published = read_experiment("smnist-noisy-high").train
    for name in ("step_size", "learn_step", "skew_symmetry", "damping", "init_std", "additive", "multiplicative"):
        assert options[name] == published[name]


@pytest.mark.parametrize("name", sorted(published_experiments()))
def test_every_published_experiment_is_valid(name: str) -> None:
    config = TrainConfig.from_dict(dict(read_experiment(name).train))
    assert name == f"{config.dataset.removesuffix('255')}-{config.label}"


@pytest.mark.parametrize("dataset", ["digits", "ecg5000", "smnist", "my own.csv", "../tuned/digits"])
@pytest.mark.parametrize("model", sorted(MODELS))
def test_every_recommendation_is_valid(dataset: str, model: str) -> None:
    config = TrainConfig.from_dict({**recommended(dataset, model), "model": model})
    assert config.clip_norm is not None


def test_a_matrix_is_kept_as_a_file_holds_it() -> None:
    matrix = [[0.1, 0.25], [0.0, -0.5]]
    configs = [
        TrainConfig(hidden_size=2, options={"diffusion": given})
        for given in (matrix, torch.tensor(matrix, dtype=torch.float64), np.array(matrix))
    ]
    for config in configs:
        assert config.to_dict() == configs[0].to_dict() and config.identity() == configs[0].identity()
        assert TrainConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
        assert config.options["diffusion"] == matrix
        assert (config.options["additive"], config.options["multiplicative"]) == (0.0, 0.0)


@pytest.mark.parametrize(
    ("given", "left_out"),
    [({}, ()), ({"epochs": 5}, ("min_steps",)), ({"decay_epochs": [3]}, ("decay_after",)), ({"hidden_size": 8}, ())],
)
def test_what_the_user_gives_is_not_changed_by_a_recommended_setting(
    given: dict[str, Any], left_out: tuple[str, ...]
) -> None:
    base = recommended("own.csv", "noisy")
    merged = merge_settings(base, given)
    assert {"min_steps", "decay_after", "select"} <= base.keys()
    assert base.keys() - merged.keys() == set(left_out)
    assert merged == {name: value for name, value in base.items() if name not in left_out} | given
    assert merge_settings(base, {"epochs": 5, "min_steps": 40})["min_steps"] == 40
