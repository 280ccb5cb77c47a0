import warnings

import numpy as np
import pytest

from noisyrnn.data.labels import (
    array_labels,
    check_classes,
    decimal_labels,
    encode,
    sorted_classes,
    text_labels,
    warn_of_equal_numbers,
)


def names(labels: object) -> list[str]:
    return [label.text for label in sorted_classes(labels)]  # type: ignore[arg-type]


def test_numbers_are_sorted_as_numbers_and_text_as_text():
    assert names(text_labels(["10", "9", "-1", "9", "2.5"])) == ["-1", "2.5", "9", "10"]
    assert names(text_labels(["10", "9", "b"])) == ["10", "9", "b"]
    assert names(text_labels(["10", "9", "1_1"])) == ["10", "1_1", "9"]
    assert names(array_labels([2**63, -1, 2**53 + 1, 2**53])) == ["-1", str(2**53), str(2**53 + 1), str(2**63)]
    assert names(text_labels(["nan", "inf"])) == ["inf", "nan"]


def test_the_archives_numbers_are_equal_by_decimal_value():
    labels = decimal_labels(["1", "1.0", "1.0000000e+00", "+1", "2", "1_0", "x"])
    assert names(labels) == ["1", "1_0", "2", "x"]
    assert encode(labels, labels[:1] + labels[4:]).tolist() == [0, 0, 0, 0, 1, 2, 3]
    assert len(set(decimal_labels([str(2**53), str(2**53 + 1), "0.1", "0.10000000000000001", "1e-400", "0"]))) == 6


def test_text_is_equal_by_its_text():
    labels = text_labels(["1", "1.0", "1_0", " 1", "\u0661", "01"])
    assert len(set(labels)) == 6
    with pytest.warns(UserWarning, match=r"^Classes '1' and '1\.0' and ' 1' and '01' are equal as numbers"):
        warn_of_equal_numbers(labels)


def test_numbers_are_equal_by_their_value():
    assert array_labels(np.array([3], np.uint8)) == array_labels([3.0]) == array_labels(np.array([3], object))
    assert array_labels([3]) != array_labels(["3"])
    assert array_labels([1]) == array_labels([True])
    assert array_labels([2**53 + 1]) != array_labels([2.0**53])


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0.5], r"^y must hold class labels, integers or strings, got the number 0\.5\.$"),
        ([np.nan], r"^y must hold class labels, integers or strings, got the number nan\.$"),
        ([1j], r"^y must hold integers or strings, got complex128\.$"),
        (np.array([None, "a"], object), r"^y must hold integers or strings, got None\.$"),
    ],
)
def test_what_is_no_label_is_refused(labels: object, message: str):
    with pytest.raises(TypeError, match=message):
        array_labels(labels)


def test_an_unknown_label_is_refused():
    classes = text_labels("ab")
    assert encode(text_labels("bab"), classes).tolist() == [1, 0, 1]
    message = r"^y must hold only the classes a, b of the training part, got 'c' at index 1\.$"
    with pytest.raises(ValueError, match=message):
        encode(text_labels("ac"), classes)


@pytest.mark.parametrize("mark", ["nan", "NaN", "", "?", "inf", "<NA>"])
def test_a_missing_number_among_classes_that_are_numbers_is_refused(mark: str):
    with pytest.raises(ValueError, match=r"^y must hold a class for each sequence, got '.*' among classes th"):
        check_classes(text_labels(["1", mark, "2.0"]))
    if mark == "inf":
        check_classes(text_labels(["DE", mark]))  # among words it may be one
        return
    with pytest.raises(
        ValueError, match=r"^y must hold a class for each sequence, got '.*'\. Leave these sequences out"
    ):
        check_classes(text_labels(["DE", mark]))
    check_classes(text_labels(["DE", mark]), declared=True)


@pytest.mark.parametrize(
    "names", [["Sound", "sound"], ["worn out", "worn\u00a0out"], ["worn", "worn\u200b"], ["e\u0301", "\u00e9"]]
)
def test_classes_that_look_alike_are_named(names: list[str]):
    with pytest.warns(UserWarning, match=r"^Classes '.*' and '.*' differ only in case, in spaces or in char"):
        check_classes(text_labels([*names, "other"]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_classes(text_labels([names[0], "other", "1", "2"]))


def test_none_is_a_class_among_numbers():
    check_classes(text_labels(["none", "1", "2"]))


@pytest.mark.parametrize("labels", [[1, "1"], ["a", 1], [True, "a"], (2.0, "b"), np.array([1, "a"], dtype=object)])
def test_numbers_and_text_are_not_mixed(labels: object):
    with pytest.raises(TypeError, match=r"^y must hold integers only or strings only, got .* Write all as text: "):
        array_labels(labels)


def test_bytes_are_refused_with_what_to_do():
    with pytest.raises(TypeError, match=r"got \|S1\. Decode it: y\.astype\(str\)\.$"):
        array_labels(np.array([b"a", b"b"]))
