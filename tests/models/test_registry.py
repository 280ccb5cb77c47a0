import pytest

from noisyrnn.models import MODELS, AntisymmetricRNN

every = pytest.mark.parametrize("name", sorted(MODELS))


def test_the_models_on_offer() -> None:
    assert set(MODELS) == {"noisy", "lipschitz", "antisymmetric", "cornn", "exprnn", "rnn", "gru", "lstm"}
    assert all(len(entry.description) > 10 for entry in MODELS.values())
    assert len({entry.layer for entry in MODELS.values()}) == len(MODELS)


@every
def test_built_with_its_defaults(name: str) -> None:
    entry = MODELS[name]
    options = entry.build(3, 4, {}).options()
    assert options == {"input_size": 3, "hidden_size": 4, **entry.options()}


def test_options_override_the_defaults() -> None:
    layer = MODELS["antisymmetric"].build(3, 4, {"step_size": 0.5, "additive": 0.25})
    assert isinstance(layer, AntisymmetricRNN)
    assert (layer.step_size, layer.additive, layer.damping) == (0.5, 0.25, 0.0001)


@every
def test_a_misspelt_option_is_refused(name: str) -> None:
    entry = MODELS[name]
    sentence = rf"^aditive must not be set for {entry.layer.__name__}, got 0\.1\. It takes additive, .*noise_law.*\.$"
    with pytest.raises(ValueError, match=sentence):
        entry.build(1, 2, {"aditive": 0.1})
