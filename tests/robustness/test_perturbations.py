"""The contract every entry of PERTURBATIONS keeps, and the messages they share."""

import pytest
import torch

from noisyrnn.robustness import FGSM, PERTURBATIONS, PGD, SaltAndPepper, WhiteNoise, build_perturbation
from noisyrnn.robustness.logits import check_model, predict

RANGE = (0.0, 1.0)
LABELS = torch.tensor([0, 1, 2, 0, 1, 2])
LENGTHS = torch.tensor([5, 4, 3, 2, 1, 5])


def generator(seed=1):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(params=PERTURBATIONS)
def name(request):
    return request.param


def test_names_and_symbols(name):
    entry, perturbation = PERTURBATIONS[name], build_perturbation(name, 0.25, value_range=(-2.0, 3.0))
    assert (perturbation.name, perturbation.strength, perturbation.clip) == (name, 0.25, None)
    assert perturbation.symbol == entry.symbol
    assert entry.description and "\n" not in entry.description
    assert perturbation.is_attack == name.startswith(("fgsm", "pgd", "apgd", "square"))
    assert perturbation.random == (name != "fgsm")
    assert perturbation.gradient_free == (name in ("square_linf", "square_l2"))


def test_repr_rebuilds(name):
    perturbation = build_perturbation(name, 0.25, value_range=(-2.0, 3.0), clip=True)
    assert eval(repr(perturbation), {type(perturbation).__name__: type(perturbation)}) == perturbation


def test_value_range_is_used():
    assert build_perturbation("salt_and_pepper", 0.1, value_range=(-2, 3)) == SaltAndPepper(0.1, low=-2, high=3)
    assert build_perturbation("fgsm", 0.1, value_range=(-2, 3), clip=True) == FGSM(0.1, clip=(-2, 3))
    assert build_perturbation("pgd_l2", 0.1, value_range=(-2, 3)) == PGD(0.1, norm="l2")


def test_strength_zero_is_exact_even_outside_the_clip(name, recurrent, make_inputs):
    inputs = 3 * make_inputs()
    result = build_perturbation(name, 0, value_range=RANGE, clip=True)(recurrent, inputs, LABELS, generator=generator())
    assert torch.equal(result, inputs) and result is not inputs


def test_changes_valid_steps_only_and_never_its_argument(name, recurrent, make_inputs):
    inputs = 3 * make_inputs() - 1  # outside the clip, so that clipping the padding would show
    before = inputs.clone()
    perturb = build_perturbation(name, 0.6, value_range=RANGE, clip=True)
    result = perturb(recurrent, inputs, LABELS, generator=generator(), lengths=LENGTHS)
    padded = torch.arange(5) >= LENGTHS[:, None]
    assert torch.equal(inputs, before)
    assert torch.equal(result[padded], inputs[padded])
    assert not torch.equal(result[~padded], inputs[~padded])
    assert result[~padded].min() >= 0 and result[~padded].max() <= 1
    assert result.shape == inputs.shape and result.dtype == inputs.dtype and not result.requires_grad


def test_same_generator_same_result(name, recurrent, make_inputs):
    perturb = build_perturbation(name, 0.3, value_range=RANGE)
    one, two, other = (perturb(recurrent, make_inputs(), LABELS, generator=generator(seed)) for seed in (1, 1, 2))
    assert torch.equal(one, two)
    if not perturb.is_attack:  # an attack from two starts may end in the same corner
        assert not torch.equal(one, other)


def test_leaves_global_state_parameters_and_mode_alone(name, recurrent, make_inputs):
    recurrent.gru.train()
    state = torch.random.get_rng_state()
    with torch.no_grad():
        build_perturbation(name, 0.3, value_range=RANGE)(recurrent, make_inputs(), LABELS, generator=generator())
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(parameter.grad is None for parameter in recurrent.parameters())
    assert recurrent.gru.training and not recurrent.training and not recurrent.readout.training


def test_lengths_do_not_shift_the_draws(make_inputs):
    inputs = make_inputs()
    full = WhiteNoise(0.3)(None, inputs, LABELS, generator=generator())
    cut = WhiteNoise(0.3)(None, inputs, LABELS, generator=generator(), lengths=LENGTHS)
    valid = torch.arange(5) < LENGTHS[:, None]
    assert torch.equal(cut[valid], full[valid])


def test_negative_strength(name):
    with pytest.raises(ValueError, match="strength"):
        build_perturbation(name, -0.1, value_range=RANGE)


def test_strength_that_is_no_number(name):
    with pytest.raises(TypeError, match="strength"):
        build_perturbation(name, "0.1", value_range=RANGE)


def test_unknown_name_gives_the_nearest():
    with pytest.raises(ValueError, match="perturbation"):
        build_perturbation("white_nose", 0.1, value_range=RANGE)


def test_bad_ranges():
    with pytest.raises(ValueError, match=r"^clip must have its low end below its high end, got \(1, 0\)\.$"):
        WhiteNoise(0.1, clip=(1, 0))
    with pytest.raises(TypeError, match=r"^value_range must be a pair \(low, high\), got 1\.$"):
        build_perturbation("fgsm", 0.1, value_range=1)


def test_bad_inputs(name, recurrent, make_inputs):
    perturb = build_perturbation(name, 0.1, value_range=RANGE)
    with pytest.raises(ValueError, match="inputs"):
        perturb(recurrent, make_inputs()[..., 0], LABELS, generator=generator())
    with pytest.raises(ValueError, match=r"^lengths must"):
        perturb(recurrent, make_inputs(), LABELS, generator=generator(), lengths=LENGTHS + 1)


def test_model_messages(recurrent, make_inputs):
    with pytest.raises(TypeError, match=r"^model must be callable, got 3\.$"):
        check_model(3)
    with pytest.raises(
        ValueError, match=r"^model must be in eval mode, got training mode\. Call model\.eval\(\) first\.$"
    ):
        check_model(recurrent.train())
    inputs = make_inputs()
    with pytest.raises(TypeError, match=r"^model must return a tensor of logits, got tuple\.$"):
        predict(lambda x: (x, x), inputs, LABELS, None)
    with pytest.raises(ValueError, match=r"^model must return logits of shape \(6, classes\), got \(6, 5, 2\)\.$"):
        predict(lambda x: x, inputs, LABELS, None)
    with pytest.raises(ValueError, match=r"^labels must"):
        predict(lambda x: x[:, 0], inputs, LABELS, None)
    broken = inputs.clone()
    broken[:2] = float("nan")
    with pytest.raises(RuntimeError, match=r"^logits became non-finite for 2 of 6 sequences\. Their inputs"):
        predict(lambda x: x[:, 0], broken, LABELS % 2, None)
