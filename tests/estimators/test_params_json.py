import json

import numpy as np
import pytest

from noisyrnn.estimators.params_json import from_json, to_json


@pytest.mark.parametrize(
    "value",
    [None, True, 3, 0.1, "é", [1, [2.5]], (1, ("a",)), {0: 1.5, "b": (1,)}, {"array": 1}, {("a", 1): {1: 2}}],
)
def test_back_as_it_was(value):
    assert from_json(json.loads(json.dumps(to_json("x", value)))) == value


@pytest.mark.parametrize(
    "array",
    [
        np.arange(3),
        np.array(["a", "bc"]),
        np.array(["a", 1], object),
        np.array([None, np.int64(1)], object),
        np.array([True]),
        np.array([0.1, np.pi]),
    ],
)
def test_arrays_keep_their_type(array):
    found = from_json(json.loads(json.dumps(to_json("x", array))))
    assert found.dtype == array.dtype and np.array_equal(found, array)


def test_numbers_of_numpy_become_plain():
    assert type(to_json("x", np.float64(0.5))) is float and to_json("x", np.int32(2)) == 2


def test_an_object_is_refused():
    with pytest.raises(TypeError, match=r"loss must be numbers, strings, .* to be saved, got <object"):
        to_json("loss", object())
