import copy

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence, pack_sequence

from noisyrnn.models import LipschitzRNN, SequenceClassifier
from noisyrnn.models.standardization import standardize

MEAN, STD = torch.tensor([1.0, -2.0]), torch.tensor([0.5, 4.0])


def head(mean: Tensor | None = MEAN, std: Tensor | None = STD) -> SequenceClassifier:
    torch.manual_seed(0)
    return SequenceClassifier(LipschitzRNN(2, 4), 3, mean=mean, std=std).eval()


def test_by_hand_and_packed() -> None:
    inputs = torch.arange(12.0).view(2, 3, 2)
    expected = torch.stack([(inputs[..., 0] - 1) / 0.5, (inputs[..., 1] + 2) / 4], dim=2)
    assert torch.equal(head().standardize(inputs), expected)
    packed = pack_sequence([inputs[0, :2], inputs[1]], enforce_sorted=False)
    found = head()._standardize(packed)
    assert isinstance(found, PackedSequence)
    assert torch.equal(found.data, (packed.data - MEAN) / STD)
    assert found[1:] == packed[1:]


def test_the_module_keeps_its_own_copy() -> None:
    mean = MEAN.clone()
    module = head(mean, None)
    mean.zero_()
    assert torch.equal(module.mean, MEAN.double()) and torch.equal(module.std, torch.ones(2, dtype=torch.float64))
    assert list(module.state_dict())[:2] == ["mean", "std"]


def test_values_far_from_zero_are_standardised_in_float64() -> None:
    near = np.random.default_rng(0).normal(size=(3, 5, 2))
    far = 1.7e9 + 30 * near
    model = head(torch.full((2,), 1.7e9, dtype=torch.float64), torch.full((2,), 30.0, dtype=torch.float64))
    plain = head(None, None)
    expected = plain(torch.tensor(near).float())
    assert torch.allclose(model(torch.tensor(far)), expected, atol=1e-6)
    for converted in (model.double().float(), model.half().float(), copy.deepcopy(model).to("meta")):
        assert converted.mean.dtype == converted.std.dtype == torch.float64
    assert model.mean.tolist() == [1.7e9] * 2
    assert model.double()(torch.tensor(far)).dtype == torch.float64


@pytest.mark.parametrize(
    ("mean", "std", "sentence"),
    [
        (torch.zeros(3), None, r"^mean must have shape \(2,\), got \(3,\)\.$"),
        (None, torch.ones(1, 2), r"^std must have shape \(2,\), got \(1, 2\)\.$"),
        (None, torch.tensor([1.0, -0.5]), r"^std must be positive, got -0\.5 as the smallest\.$"),
        (torch.tensor([1.0, torch.nan]), None, r"^mean must be finite, got 1 NaN or infinite"),
    ],
)
def test_bad_statistics(mean: Tensor, std: Tensor, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        head(mean, std)


def test_zeros_and_ones_change_nothing_and_cost_nothing() -> None:
    mean, std = torch.zeros(2, dtype=torch.float64), torch.ones(2, dtype=torch.float64)
    inputs = torch.tensor([[0.1, -0.0], [float("nan"), 1e-40]])
    assert standardize(inputs, mean, std, torch.float32) is inputs
    half = standardize(inputs, mean, std, torch.bfloat16)
    torch.testing.assert_close(half, inputs.to(torch.bfloat16), rtol=0, atol=0, equal_nan=True)


def test_a_statistic_that_is_set_later_counts_however_it_is_set() -> None:
    inputs = torch.ones(1, 2)
    for position, name in ((0, "mean"), (1, "std")):
        statistics = [torch.zeros(2, dtype=torch.float64), torch.ones(2, dtype=torch.float64)]
        assert standardize(inputs, *statistics, torch.float32) is inputs, name
        statistics[position].data[1] = 4.0  # torch counts no version for this
        expected = (inputs - statistics[0]) / statistics[1]
        assert torch.equal(standardize(inputs, *statistics, torch.float32).double(), expected), name


def test_statistics_of_several_models_at_once() -> None:
    means = torch.tensor([[0.0], [1.0]], dtype=torch.float64)
    std = torch.ones(1, dtype=torch.float64)
    inputs = torch.full((3, 1), 5.0)
    found = torch.func.vmap(lambda mean: standardize(inputs, mean, std, torch.float32))(means)
    assert torch.equal(found, torch.stack([inputs, inputs - 1]))
