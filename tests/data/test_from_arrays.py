from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset, TensorDataset

from noisyrnn.data import Split

X = np.arange(24.0).reshape(4, 3, 2)


def test_arrays_lists_and_tensors() -> None:
    split = Split.from_arrays(X, np.array([0, 2, 1, 2], dtype=np.uint8))
    assert split.classes == 3 and split.labels.tolist() == [0, 2, 1, 2] and split.lengths is None
    assert split.inputs.dtype == torch.float64 and split.inputs.tolist() == X.tolist()
    split = Split.from_arrays(torch.from_numpy(X[:, :, 0]).float(), [0, 1, 0, 1], lengths=[3, 2, 1, 3], classes=5)
    assert split.inputs.shape == (4, 3, 1) and split.inputs.dtype == torch.float32 and split.classes == 5
    assert split.lengths is not None and split.lengths.tolist() == [3, 2, 1, 3]
    split = Split.from_arrays([[1, 2, 3], np.array([4, 5])], [0, 1])
    assert split.inputs.squeeze(2).tolist() == [[1, 2, 3], [4, 5, 0]]
    assert split.lengths is not None and split.lengths.tolist() == [3, 2]


def test_a_split_does_not_change_with_the_array_it_came_from() -> None:
    array, labels = X.copy(), np.array([0, 1, 0, 1])
    split = Split.from_arrays(array, labels)
    array[:], labels[:] = -1, 0
    assert split.inputs.tolist() == X.tolist() and split.labels.tolist() == [0, 1, 0, 1]


def test_the_layout_of_arrays_lists_and_batches() -> None:
    turned, labels = np.ascontiguousarray(X.transpose(0, 2, 1)), [0, 1, 0, 1]
    for found in (
        Split.from_arrays(turned, labels, layout="time-last"),
        Split.from_arrays(list(turned), labels, layout="time-last"),
        Split.from_arrays(X, np.array(labels)[:, None], layout="channels-last"),  # as MATLAB writes a vector
        Split.from_loader([(x, label) for x, label in zip(turned, labels, strict=True)], layout="time-last"),
    ):
        assert found.inputs.tolist() == X.tolist() and found.labels.tolist() == labels
    batches = [(turned[:2], [0, 1], [3, 3]), (turned[2:, :, :2], [0, 1], [2, 2])]
    loader = DataLoader(batches, batch_size=None, collate_fn=lambda entry: tuple(map(torch.as_tensor, entry)))
    found = Split.from_loader(loader, layout="time-last")
    assert found.lengths is not None and found.lengths.tolist() == [3, 3, 2, 2]
    assert found.inputs[:2].tolist() == X[:2].tolist() and found.inputs[2:, :2].tolist() == X[2:, :2].tolist()
    assert Split.from_arrays(turned, labels, layout="channels-last").inputs.tolist() == turned.tolist()
    every = np.eye(3, dtype=int)[[0, 1, 2, 0]]
    assert Split.from_arrays(X, every, mask=np.ones((4, 3), dtype=bool)).every_step


def test_numbers_to_predict() -> None:
    assert Split.from_arrays(X, [0.5, 1, 2, 3]).labels.tolist() == [[0.5], [1], [2], [3]]
    assert Split.from_arrays(X, [1.0, 2, 3, 4], classes=0).labels.tolist() == [[1], [2], [3], [4]]
    assert Split.from_arrays(X, [1, 2, 3, 4], classes=0).labels.dtype == torch.float64
    assert Split.from_arrays(X, [1.0, 0, 1, 0], classes=2).labels.tolist() == [1, 0, 1, 0]
    every = Split.from_arrays(X, X + 0.5)
    assert every.every_step and every.labels.tolist() == (X + 0.5).tolist()


@pytest.mark.parametrize(
    ("x", "y", "options", "error", "message"),
    [
        (
            X,
            [1, 2, 1, 2],
            {},
            ValueError,
            r"^y must hold class indices from 0, got 1 as the smallest\. Give classes, or",
        ),
        (X, [1.0, 0.0, 1.0, 1.0], {}, ValueError, r"^classes must be given where y holds whole numbers of a floating"),
        (X, ["a", "b", "a", "b"], {}, TypeError, r"^y must hold class indices or numbers, got <U1\. .* return_inverse"),
        (
            X,
            X[:, :, 0] + 0.5,
            {},
            ValueError,
            r"^y must have shape \(n, steps, 1\) for numbers at each step, got \(4, 3\)",
        ),
        (X[0, 0], [0, 1], {}, ValueError, r"^X must have shape \(n, steps, channels\) or \(n, steps\), got \(2,\)\.$"),
        (
            [[1, 2], [[1, 2]]],
            [0, 1],
            {},
            ValueError,
            r"^X must hold sequences .* same channels .* got \(2, 1\), \(1, 2\)",
        ),
        ([[1, 2], []], [0, 1], {}, ValueError, r"^X must hold sequences .* at least one step"),
        ([[1, 2], [1]], [0, 1], {"lengths": [2, 1]}, ValueError, r"^lengths must be None where X is a list"),
        (
            X.transpose(0, 2, 1),
            [0, 1, 0, 1],
            {},
            ValueError,
            r"^X must have shape .* got \(4, 2, 3\), fewer steps than channels\. .* layout='time-last', else layout=",
        ),
        (
            list(X.transpose(0, 2, 1)),
            [0, 1, 0, 1],
            {},
            ValueError,
            r"fewer steps than channels\. .* layout='time-last'",
        ),
        (X, [0, 1, 0, 1], {"layout": "first"}, ValueError, r"^layout must be one of channels-last, time-last, got"),
        (X, np.eye(3, dtype=int)[[0, 1, 2, 0]], {}, ValueError, r"with a single 1 in each row, .* y\.argmax\(1\); or"),
        (np.array([["1"]]), [0], {}, TypeError, r"^X must hold numbers, got text"),
        (X, [0, 1, 0], {}, ValueError, r"^labels must have shape \(4,\)"),
        (
            [X[0], X[1, :2]],
            [np.full((3, 1), 0.5), np.full((2, 1), 0.5)],
            {},
            ValueError,
            r"^y must have one shape for all sequences, got \(3, 1\) and \(2, 1\)\. Pad labels at every step to the",
        ),
    ],
)
def test_what_can_be_read_in_two_ways_is_refused(
    x: Any, y: Any, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        Split.from_arrays(x, y, **options)


class Ragged(Dataset[tuple[torch.Tensor, int]]):
    def __len__(self) -> int:
        return 3

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return torch.full((index + 1, 2), float(index)), index % 2


def test_data_sets_and_loaders_of_torch() -> None:
    tensors = TensorDataset(torch.from_numpy(X), torch.tensor([0, 1, 1, 0]))
    for data in (tensors, DataLoader(tensors, batch_size=3)):
        split = Split.from_loader(data)
        assert split.inputs.tolist() == X.tolist() and split.labels.tolist() == [0, 1, 1, 0] and split.classes == 2
    split = Split.from_loader(Ragged(), classes=4)
    assert split.lengths is not None and split.lengths.tolist() == [1, 2, 3] and split.classes == 4

    def collate(items: list[tuple[torch.Tensor, int]]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        lengths = torch.tensor([len(x) for x, _ in items])
        padded = torch.nn.utils.rnn.pad_sequence([x for x, _ in items], batch_first=True)
        return padded, torch.tensor([label for _, label in items]), lengths

    split = Split.from_loader(DataLoader(Ragged(), batch_size=2, collate_fn=collate))
    assert split.lengths is not None and split.lengths.tolist() == [1, 2, 3]
    assert split.inputs[:, :, 0].tolist() == [[0, 0, 0], [1, 1, 0], [2, 2, 2]]
    with pytest.raises(ValueError, match=r"^data must give batches \(X, y, lengths\) where .* \[2, 3\] steps"):
        Split.from_loader(DataLoader(Ragged(), batch_size=2, collate_fn=lambda items: collate(items)[:2]))
    ragged = [(x, x[:, :1] + 0.5) for x, _ in (Ragged()[k] for k in range(3))]
    with pytest.raises(ValueError, match=r"^y must have one shape for all sequences, got \(1, 1\) and \(2, 1\)\."):
        Split.from_loader(ragged)
    with pytest.raises(TypeError, match=r"^data must give items \(sequence, label\), got Tensor"):
        Split.from_loader(torch.zeros(3, 2))
    with pytest.raises(TypeError, match=r"^data must be a torch Dataset or DataLoader, got int\.$"):
        Split.from_loader(3)
    with pytest.raises(ValueError, match=r"^data must hold at least one sequence, got none\.$"):
        Split.from_loader([])
