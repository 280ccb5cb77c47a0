"""Products of options: pairs and corners by default, all of them under `slow`."""

import itertools
from collections.abc import Sequence
from typing import Any

import pytest


def sampled(*axes: Sequence[Any]) -> list[Any]:
    """All combinations of one value per axis, as parameters of a test.

    Only some of them are run by default: the two corners (all first values, all last ones), and enough others for every
    pair of values of two axes to occur. The others are marked `slow`.
    """
    cases = list(itertools.product(*axes))
    chosen = [cases[0], cases[-1]]
    missing = set().union(*map(_pairs, cases)).difference(*map(_pairs, chosen))
    while missing:
        chosen.append(max(cases, key=lambda case: len(missing & _pairs(case))))
        missing -= _pairs(chosen[-1])
    return [case if case in chosen else pytest.param(*case, marks=pytest.mark.slow) for case in cases]


def _pairs(case: tuple[Any, ...]) -> set[tuple[tuple[int, Any], ...]]:
    return set(itertools.combinations(enumerate(case), 2))
