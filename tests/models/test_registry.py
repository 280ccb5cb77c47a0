import pytest

from noisyrnn.models import MODELS, AntisymmetricRNN, build_layer, layer_options

every = pytest.mark.parametrize("name", sorted(MODELS))


def test_the_models_on_offer() -> None:
    assert set(MODELS) == {"noisy", "lipschitz", "antisymmetric", "rate", "cornn", "exprnn", "rnn", "gru", "lstm"}
    assert all(len(entry.description) > 10 for entry in MODELS.values())
    assert len({entry.build for entry in MODELS.values()}) == len(MODELS)


@every
def test_built_with_its_defaults(name: str) -> None:
    layer = build_layer(name, 3, 4, {})
    assert layer.options() == {"input_size": 3, "hidden_size": 4, "batch_first": True, **layer_options(name)}


@pytest.mark.parametrize(
    ("name", "published"),
    [
        ("antisymmetric", {"step_size": 0.01, "damping": 0.0001, "init_std": 0.1}),
        ("cornn", {"step_size": 0.042, "stiffness": 2.7, "friction": 4.7}),
    ],
)
def test_published_defaults(name: str, published: dict[str, float]) -> None:
    layer = MODELS[name].build(1, 4)
    assert {option: getattr(layer, option) for option in published} == published
    assert layer.hidden_noise.silent


def test_options_override_the_defaults() -> None:
    layer = build_layer("antisymmetric", 3, 4, {"step_size": 0.5, "additive": 0.25})
    assert isinstance(layer, AntisymmetricRNN)
    assert (layer.step_size, layer.additive, layer.damping) == (0.5, 0.25, 0.0001)


@every
def test_a_misspelt_option_is_refused(name: str) -> None:
    layer = MODELS[name].build.__name__
    rule = rf"^aditive must not be set for {layer}, got 0\.1\. It takes .*additive, .*noise_law.*\.$"
    with pytest.raises(ValueError, match=rule):
        build_layer(name, 1, 2, {"aditive": 0.1})
