"""A data set describes itself and knows the statistics of its training part; the test part is read once."""

import pytest
import torch

from noisyrnn.data import Dataset, Split


def split(**changes: object) -> Split:
    arguments = {"inputs": torch.rand(3, 4, 2), "labels": torch.tensor([0, 1, 1]), "classes": 2} | changes
    return Split(**arguments)  # type: ignore[arg-type]


def test_statistics_are_exact_far_from_zero_and_one_where_nothing_varies():
    values = torch.tensor([0.0, 1.0, 2.0, 5.0], dtype=torch.float64)
    inputs = torch.stack((1.7e9 + values, torch.full_like(values, 0.1)), dim=1).expand(3, 4, 2)
    mean, std = dataset(split(inputs=inputs)).statistics()
    assert (mean.tolist(), std.tolist()) == ([1.7e9 + 2, 0.1], [pytest.approx(3.5**0.5, rel=1e-15), 1.0])


def test_a_line_says_what_was_read():
    data = dataset(split(inputs=torch.linspace(-1, 2, 24).view(3, 4, 2), lengths=torch.tensor([4, 2, 3])))
    line, *rows = data.summary().splitlines()
    expected = (
        "tiny: 6 sequences (3 / 3 / test file not read yet), 2 to 4 steps × 2 channels, 2 classes (largest 66.7 %), "
    )
    assert line == f"{expected}values -1…1.60870, missing 0".replace("1.60870", f"{3 * 21 / 23 - 1:.6g}")
    assert [row.split() for row in rows] == [
        ["class", "training", "validation"],
        ["a", "1", "1"],
        ["b", "2", "2"],
        ["channel", "min", "mean", "max"],
        ["1", "-1", "0.2174", "1.609"],
        ["2", "-0.8696", "0.3478", "1.739"],
    ]
    _ = data.test
    assert data.summary().startswith("tiny: 9 sequences (3 / 3 / 3), ")


def dataset(train: Split) -> Dataset:
    reads = []

    def read_test() -> Split:
        reads.append(1)
        assert len(reads) == 1, "the test part is read once"
        return train

    return Dataset(
        name="tiny",
        train=train,
        validation=train,
        read_test=read_test,
        class_names=("a", "b"),
        value_range=(0.0, 1.0),
        standardize=True,
    )


def test_statistics_leave_padding_out():
    inputs = torch.tensor([[[1.0, 5.0], [3.0, 5.0]], [[8.0, 5.0], [0.0, 0.0]]])
    train = Split(inputs=inputs, labels=torch.tensor([0, 1]), lengths=torch.tensor([2, 1]), classes=2)
    mean, std = dataset(train).statistics()
    assert mean.tolist() == [4.0, 5.0]
    assert std.tolist() == pytest.approx([(26 / 3) ** 0.5, 1.0])  # of 1, 3, 8; a channel that never varies gets 1


def test_the_test_part_is_read_once():
    tiny = dataset(split())
    assert tiny.test is tiny.test
    assert (tiny.classes, tiny.input_size, tiny.steps) == (2, 2, 4)


def test_statistics_count_a_sequence_by_its_weight() -> None:
    generator = torch.Generator().manual_seed(0)
    inputs = 5 + 3 * torch.randn(4, 6, 2, generator=generator)
    lengths, weights = torch.tensor([6, 2, 4, 5]), torch.tensor([3.0, 1.0, 0.0, 2.0])
    inputs[2] = 1e30  # of no weight
    inputs[torch.arange(6) >= lengths[:, None]] = 0
    repeats = weights.long()

    def statistics(split: Split) -> list[torch.Tensor]:
        empty = Split(inputs=inputs[:1], labels=torch.tensor([0]), classes=2)
        dataset = Dataset(
            name="a", train=split, validation=empty, read_test=lambda: empty, class_names=("0", "1"),
            value_range=(0.0, 1.0), standardize=True,
        )  # fmt: skip
        return list(dataset.statistics())

    labels = torch.tensor([0, 1, 0, 1])
    weighted = Split(inputs=inputs, labels=labels, lengths=lengths, weights=weights / weights.mean(), classes=2)
    repeated = [part.repeat_interleave(repeats, dim=0) for part in (inputs, labels, lengths)]
    expected = statistics(Split(inputs=repeated[0], labels=repeated[1], lengths=repeated[2], classes=2))
    for one, other in zip(statistics(weighted), expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=0)


def data_set(**changes: object) -> Dataset:
    def read_test() -> Split:
        raise AssertionError("the test part was read")

    known: dict[str, object] = {
        "name": "waves",
        "train": split(lengths=torch.tensor([4, 2, 3])),
        "validation": split(),
        "read_test": read_test,
        "class_names": ("<a>", "b\nc"),
        "value_range": None,
        "standardize": True,
    }
    return Dataset(**known | changes)  # type: ignore[arg-type]


def test_what_a_shell_shows_of_data_is_what_they_are_and_not_their_values():
    assert repr(data_set()) == (
        "Dataset('waves': 3 training, 3 validation sequences, test part not read yet;\n"
        "  steps: 2 to 4; channels: 2; classes: 2 (<a>, b c))"
    )
    many = data_set(class_names=tuple("abcdefgh"), test_size=5)
    assert "3 validation, 5 test sequences" in repr(many)
    assert repr(many).endswith("classes: 8 (a, b, c, d, e, f, …))")
    assert repr(split()) == "Split(sequences: 3; steps: 4; channels: 2; labels: 2 classes; type: float32)"
    values = split(labels=torch.rand(3, 4, 1), classes=0, weights=torch.ones(3), mask=torch.eye(4)[:3].bool())
    assert "labels: 1 values at 3 steps" in repr(values)
    assert "weights: given" in repr(values)


def test_what_a_notebook_shows_of_data_is_escaped():
    shown = data_set(name="a&b", source="<s>")._repr_html_()
    assert "<caption>a&amp;b</caption>" in shown
    assert "&lt;a&gt;" in shown
    assert "<p>&lt;s&gt;</p>" in shown
    assert "<th>test sequences</th><td>not read yet</td>" in shown
    assert "<th>sequences</th><td>3</td>" in split()._repr_html_()
