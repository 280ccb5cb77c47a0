import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_sequence

from noisyrnn.models import GRU
from noisyrnn.models.heads.standardisation import hold_statistics, standardised

MEAN, STD = torch.tensor([1.0, -2.0]), torch.tensor([0.5, 4.0])


def test_by_hand_and_packed() -> None:
    inputs = torch.arange(12.0).view(2, 3, 2)
    expected = torch.stack([(inputs[..., 0] - 1) / 0.5, (inputs[..., 1] + 2) / 4], dim=2)
    assert torch.equal(standardised(inputs, MEAN, STD), expected)
    packed = pack_sequence([inputs[0, :2], inputs[1]], enforce_sorted=False)
    found = standardised(packed, MEAN, STD)
    assert torch.equal(found.data, (packed.data - MEAN) / STD)
    assert found[1:] == packed[1:]


def test_the_module_keeps_its_own_copy() -> None:
    module, mean = nn.Module(), MEAN.clone()
    hold_statistics(module, GRU(2, 3), mean, None)
    mean.zero_()
    assert torch.equal(module.mean, MEAN) and torch.equal(module.std, torch.ones(2))
    assert list(module.state_dict()) == ["mean", "std"]


@pytest.mark.parametrize(
    ("mean", "std", "sentence"),
    [
        (torch.zeros(3), None, r"^mean must have shape \(2,\), got \(3,\)\.$"),
        (None, torch.ones(1, 2), r"^std must have shape \(2,\), got \(1, 2\)\.$"),
        (None, torch.tensor([1.0, -0.5]), r"^std must be positive, got -0\.5 as the smallest\.$"),
    ],
)
def test_bad_statistics(mean: torch.Tensor, std: torch.Tensor, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        hold_statistics(nn.Module(), GRU(2, 3), mean, std)
