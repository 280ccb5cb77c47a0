from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from noisyrnn.data import load_dataset
from noisyrnn.data.labels import text_labels
from noisyrnn.data.parts import (
    Cases,
    check_class_in_training,
    dataset_from_cases,
    draw_groups,
    pad_sequences,
    stratified_draw,
)

GOLDEN = [7, 11, 12, 19, 10, 4]  # as torch 2.13 drew it


def cases(labels: str, *, channels: int = 1) -> Cases:
    inputs = torch.arange(len(labels) * 3 * channels, dtype=torch.float32).reshape(len(labels), 3, channels)
    return Cases(inputs=inputs, labels=text_labels(labels))


@given(labels=st.lists(st.integers(0, 4), min_size=1, max_size=80), share=st.floats(0, 1), seed=st.integers(0, 99))
def test_a_draw_holds_every_index_once(labels: list[int], share: float, seed: int):
    drawn, rest = stratified_draw(torch.tensor(labels), round(share * len(labels)), seed=seed)
    assert sorted(drawn.tolist() + rest.tolist()) == list(range(len(labels)))
    for label in set(labels):
        members = labels.count(label)
        got = sum(labels[i] == label for i in drawn.tolist())
        if members == 1:
            assert got == 0
        else:
            assert 1 <= got <= members - 1


def test_a_draw_has_the_exact_size_and_proportions():
    labels = torch.tensor([0] * 50 + [1] * 30 + [2] * 21)
    drawn, rest = stratified_draw(labels, 20)
    assert labels[drawn].bincount().tolist() == [10, 6, 4]  # shares 9.90, 5.94, 4.16
    assert len(rest) == 81


def test_a_draw_is_mixed_where_the_file_is_sorted():
    labels = torch.tensor([0] * 500 + [1] * 500)
    for part in stratified_draw(labels, 400):
        share = labels[part[:100]].double().mean()
        assert 0.3 < share < 0.7  # four standard deviations of a fair draw


def test_a_draw_is_the_same_on_every_machine():
    drawn, _ = stratified_draw(torch.tensor([0, 1] * 10), 6)
    assert drawn.tolist() == GOLDEN
    assert stratified_draw(torch.tensor([0, 1] * 10), 6, seed=1)[0].tolist() != GOLDEN


def test_padding_is_zero_and_lengths_are_kept():
    inputs, lengths = pad_sequences([torch.ones(2, 1), torch.ones(3, 1)])
    assert inputs.squeeze(-1).tolist() == [[1, 1, 0], [1, 1, 1]]
    assert lengths is not None and lengths.tolist() == [2, 3]
    assert pad_sequences([torch.ones(2, 1)])[1] is None


def test_sixty_twenty_twenty():
    whole = cases("a" * 30 + "b" * 20)
    dataset = dataset_from_cases("own", whole, None, "Made.")
    parts = (dataset.train, dataset.validation, dataset.test)
    assert [part.labels.bincount().tolist() for part in parts] == [[18, 12], [6, 4], [6, 4]]
    firsts = sorted(float(value) for part in parts for value in part.inputs[:, 0, 0])
    assert firsts == [3.0 * i for i in range(50)]  # every sequence once
    assert all(bool((part.labels == (part.inputs[:, 0, 0] >= 90)).all()) for part in parts)  # with its own label
    assert dataset.standardize and dataset.class_names == ("a", "b")
    assert dataset.value_range is None  # the file states none


def test_a_given_test_part_is_read_only_when_asked_for():
    def missing() -> Cases:
        raise FileNotFoundError("not there")

    dataset = dataset_from_cases("own", cases("aabbbbbbbb"), missing, "Made.")
    assert [part.labels.bincount().tolist() for part in (dataset.train, dataset.validation)] == [[1, 6], [1, 2]]
    with pytest.raises(FileNotFoundError, match="not there"):
        _ = dataset.test


def test_declared_classes_count_even_where_none_is_in_training():
    whole = cases("aabb")
    declared = Cases(inputs=whole.inputs, labels=whole.labels, declared=text_labels("cba"))
    dataset = dataset_from_cases("own", declared, lambda: cases("c"), "Made.")
    assert dataset.class_names == ("a", "b", "c")
    assert dataset.test.labels.tolist() == [2]


def test_one_class_is_refused():
    with pytest.raises(ValueError, match=r"^y must hold at least two classes, got 1 \('a'\)\.$"):
        dataset_from_cases("own", cases("aaaa"), None, "")


def test_a_class_too_small_to_split_is_refused():
    message = r"^y must hold at least 3 sequences of each class to be split 60/20/20, got 2 of class 'b'\."
    with pytest.raises(ValueError, match=message):
        dataset_from_cases("own", cases("aaaaabb"), None, "")
    assert len(dataset_from_cases("own", cases("aaabbb"), None, "").train) == 2
    message = r"^y must hold 2 sequences of some class, one of them for validation, got 2 of 2 classes\."
    with pytest.raises(ValueError, match=message):
        dataset_from_cases("own", cases("ab"), lambda: cases("ab"), "")


def test_a_test_part_that_does_not_fit_is_refused():
    with pytest.raises(ValueError, match=r"^X_test must have 1 channels, as X has, got 2\.$"):
        _ = dataset_from_cases("own", cases("aabb"), lambda: cases("ab", channels=2), "").test
    with pytest.raises(ValueError, match=r"^y_test must hold only the classes a, b .* got 'c' at index 0\.$"):
        _ = dataset_from_cases("own", cases("aabb"), lambda: cases("c"), "").test


def test_constant_values_are_refused():
    constant = Cases(inputs=torch.full((6, 2, 1), 3.0), labels=text_labels("aaabbb"))
    with pytest.raises(ValueError, match=r"^X must hold at least two different values, got only 3\.$"):
        dataset_from_cases("own", constant, None, "")


def test_groups_stay_together_and_each_class_is_in_each_part() -> None:
    groups = [f"p{i // 4}" for i in range(80)]
    strata = torch.tensor([int(name[1:]) % 2 for name in groups])
    parts = draw_groups(groups, strata, with_test=True)
    names = [{groups[i] for i in part.tolist()} for part in parts if part is not None]
    assert [len(part) for part in names] == [4, 4, 12] and len(set().union(*names)) == 20
    assert all(strata[part].unique().tolist() == [0, 1] for part in parts if part is not None)
    assert all(sorted(part.tolist()) != part.tolist() for part in parts if part is not None)  # shuffled
    none, validation, train = draw_groups(groups, strata, with_test=False)
    assert none is None and len(validation) == 16 and len(train) == 64
    with pytest.raises(
        ValueError, match=r"^group_column must name at least 3 groups of each class, .* got 1\. Add groups"
    ):
        draw_groups(["a", "b", "c", "d"], torch.tensor([0, 0, 0, 1]), with_test=True)
    mixed = draw_groups(["a", "a", "b", "b", "c", "c"], torch.tensor([0, 1] * 3), with_test=True)
    assert [len(part) for part in mixed if part is not None] == [2, 2, 2]
    with pytest.raises(ValueError, match=r"^group_column must leave every class in the training part, .* class 'b'"):
        check_class_in_training(torch.tensor([0, 0]), text_labels("ab"))


def test_the_nominal_step_is_the_median_of_the_training_part():
    gaps = [1.0 + i for i in range(10)]
    whole = cases("ab" * 5)
    whole = replace(whole, times=tuple(np.array([0.0, gap, 2 * gap]) for gap in gaps))
    dataset = dataset_from_cases("own", whole, None, "Made.")
    assert dataset.nominal_step is not None
    trained = [gaps[int(first) // 3] for first in dataset.train.inputs[:, 0, 0]]
    assert dataset.nominal_step == np.median(trained) != np.median(gaps)
    for part in (dataset.train, dataset.validation, dataset.test):
        own = torch.tensor([gaps[int(first) // 3] for first in part.inputs[:, 0, 0]], dtype=torch.float64)
        assert part.dt is not None
        assert torch.equal(part.dt[:, 0] * dataset.nominal_step, own)


def test_a_test_part_with_times_in_another_unit_is_named(tmp_path):
    for part, unit in (("TRAIN", 1), ("TEST", 1000)):
        lines = [f"{k},{unit * t},{k + t / 7},{k % 2}" for k in range(12) for t in range(3)]
        (tmp_path / f"u_{part}.csv").write_text("\n".join(["id,time,v,class", *lines]) + "\n")
    dataset = load_dataset(str(tmp_path / "u_TRAIN.csv"), id="id", time="time")
    with pytest.warns(UserWarning, match=r"^The test data of .*: the median distance of its times is 1000, and that"):
        _ = dataset.test
