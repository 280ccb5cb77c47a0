import numpy as np
import pytest
import torch
from sklearn.base import BaseEstimator

from noisyrnn.estimators.inputs import check_sample_weight, read_sequences


def read(X, layout="channels_first"):
    return read_sequences(BaseEstimator(), X, layout=layout, first=True)


def test_a_table_has_one_channel():
    found = read([[1, 2, 3], [4, 5, 6]])
    assert torch.equal(found.inputs, torch.tensor([[[1.0], [2.0], [3.0]], [[4.0], [5.0], [6.0]]]).double())
    assert found.lengths is None and found.inputs.dtype == torch.float64


def test_channels_come_first_or_last():
    X = np.arange(24.0).reshape(2, 3, 4)
    first, last = read(X), read(X, "channels_last")
    assert first.inputs.shape == (2, 4, 3) and last.inputs.shape == (2, 3, 4)
    for n in range(2):
        for channel in range(3):
            for step in range(4):
                assert first.inputs[n, step, channel] == X[n, channel, step]
    assert torch.equal(last.inputs, torch.tensor(X))


@pytest.mark.parametrize("wrap", [list, tuple, lambda rows: np.array([*rows, None], dtype=object)[:-1]])
def test_unequal_lengths_are_padded_at_the_end(wrap):
    rows = [np.array([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]), np.array([[7.0], [8.0]])]
    found = read(wrap(rows))
    assert found.lengths.tolist() == [3, 1]
    assert found.inputs.tolist() == [[[1, 4], [2, 5], [3, 6]], [[7, 8], [0, 0], [0, 0]]]
    turned = read(wrap([row.T for row in rows]), "channels_last")
    assert torch.equal(turned.inputs, found.inputs)


def test_a_list_of_equal_sequences_is_an_array():
    X = np.arange(24.0).reshape(2, 3, 4)
    assert torch.equal(read(list(X)).inputs, read(X).inputs)


def test_lists_of_lists_of_several_lengths():
    found = read([[1, 2], [3]])
    assert found.inputs.tolist() == [[[1], [2]], [[3], [0]]] and found.lengths.tolist() == [2, 1]


@pytest.mark.parametrize(
    ("X", "layout", "error", "text"),
    [
        ([[1.0]], "nct", ValueError, "layout must be one of channels_first, channels_last, got 'nct'"),
        (np.zeros((1, 1, 1, 1)), "channels_first", ValueError, r"X must have 2 or 3 dimensions, got 4\."),
        (np.zeros((2, 1, 0)), "channels_first", ValueError, r"at least one sequence of one step, got \(2, 1, 0\)"),
        ([np.zeros((2, 3)), np.zeros((1, 2))], "channels_first", ValueError, "one number of channels, got 1 and 2"),
        ([[1.0], []], "channels_first", ValueError, "minimum of 1 is required"),
        ([np.ones((1, 2)), np.ones((1, 0))], "channels_first", ValueError, r"0 feature\(s\) \(shape=\(1, 0\)\)"),
        ([[1.0], [np.nan, 2.0]], "channels_first", ValueError, r"Input X\[1\] contains NaN"),
        (np.full((1, 1, 2), np.inf), "channels_first", ValueError, "Input X contains infinity"),
    ],
)
def test_what_is_refused(X, layout, error, text):
    with pytest.raises(error, match=text):
        read(X, layout)


TEXT = [["1_5", "2"], ["3", "4"]]


@pytest.mark.parametrize(
    ("X", "got"),
    [
        (TEXT, r"text \(<U3\)"),
        (np.array(TEXT)[:, None], r"text \(<U3\)"),
        (np.array(TEXT, dtype=object), "'1_5'"),
        ([[1.0, "1_5"], [2.0, 3.0]], "text"),
        (np.array(TEXT).astype("S3"), "bytes"),
        (np.array([[1, 2], [3, 4]], "M8[s]"), "dates"),
        (np.array([[1, 2], [3, 4]], "m8[s]"), "time differences"),
    ],
)
def test_text_and_times_are_not_converted(X, got):
    with pytest.raises(TypeError, match=rf"^X must hold numbers, got {got}.* Convert it to a number type first\.$"):
        read(X)
    with pytest.raises(TypeError, match=r"^X\[0\] must hold numbers"):
        read([list(np.asarray(X)[0]), *X[1:], [1.0]])


def test_masked_values_are_refused():
    with pytest.raises(ValueError, match=r"^X must hold no masked values, got 1\."):
        read(np.ma.masked_less([[1.0, -1.0], [2.0, 3.0]], 0))
    assert read(np.ma.masked_less([[1.0, 1.0], [2.0, 3.0]], 0)).inputs.shape == (2, 2, 1)


def test_integers_that_float64_rounds_are_refused():
    for X in (np.array([[1, 2**53 + 1]]), np.array([[1, 2**70 + 1]], dtype=object), [[1, 2**53 + 1]]):
        with pytest.raises(ValueError, match=r"^X must hold numbers that float64 represents exactly, got the integer"):
            read(X)


def test_a_tensor_that_requires_a_gradient_is_read():
    assert read(torch.ones(2, 3, requires_grad=True)).inputs.shape == (2, 3, 1)


@pytest.mark.parametrize("weights", [["1_5", "2"], np.array([1, 2], "M8[s]")])
def test_weights_are_numbers(weights):
    with pytest.raises(TypeError, match=r"^sample_weight must hold numbers"):
        check_sample_weight(weights, 2)
