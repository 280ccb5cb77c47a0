"""Whether hidden noise acts, and where it comes from."""

import os
from typing import Any

import torch
from torch import Tensor

from noisyrnn.checks import check_choice, check_integer
from noisyrnn.sde.brownian import BrownianPath
from noisyrnn.sde.diffusion import HiddenNoise

SWITCHES = ("auto", "off", "on")


class NoiseSource:
    """The noise switch of one module, and its paths for passes that are given none.

    Args:
        seed: Where the paths start; `None` takes it from the operating system, so that two modules, or two processes,
            never share noise by accident.

    Raises:
        ValueError: If the seed is negative.
    """

    def __init__(self, seed: int | None) -> None:
        if seed is not None:
            check_integer("noise_seed", seed, minimum=0)
        self._switch = "auto"
        self._entropy = int.from_bytes(os.urandom(8), "little") if seed is None else seed
        self._passes = torch.zeros((), dtype=torch.int64, device="cpu")  # in place, also in a compiled graph

    @property
    def switch(self) -> str:
        """When the noise acts: "auto" (in training mode), "on" or "off"."""
        return self._switch

    @switch.setter
    def switch(self, switch: str) -> None:
        check_choice("noise", switch, SWITCHES)
        self._switch = switch

    def acts(self, noise: HiddenNoise, training: bool) -> bool:
        """Whether a pass has noise."""
        return not noise.silent and (self._switch == "on" or (self._switch == "auto" and training))

    def path(self) -> BrownianPath:
        """A path that no earlier pass has seen; ranks of a distributed run differ too.

        In a compiled graph its seed is a tensor: a number would compile the graph for every pass anew.
        """
        self._passes += 1
        passes = self._passes if torch.compiler.is_compiling() else int(self._passes)
        distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
        rank = torch.distributed.get_rank() if distributed else 0
        return BrownianPath(seed=_scrambled(self._entropy + rank * _RANK, passes))


_STEP, _RANK = 0x9E3779B97F4A7C15, 0xD1B54A32D192ED03  # odd: multiples of them come back after 2**64 only
_FACTORS = ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB))


def _scrambled(start: int, count: int | Tensor) -> Any:
    """Number `count` of the SplitMix64 sequence from `start`: 64 bits, of a tensor as int64.

    Reference:
        Steele, Lea and Flood, Fast splittable pseudorandom number generators, OOPSLA 2014.
    """
    if isinstance(count, int):
        word = (start + count * _STEP) % 2**64
        for shift, factor in _FACTORS:
            word = (word ^ word >> shift) * factor % 2**64
        return word ^ word >> 31
    words = count * _signed(_STEP) + _signed(start)
    for shift, factor in _FACTORS:
        words = (words ^ _shifted(words, shift)) * _signed(factor)
    return words ^ _shifted(words, 31)


def _shifted(words: Tensor, bits: int) -> Tensor:
    """To the right, with zeros from the left."""
    return words >> bits & (1 << 64 - bits) - 1


def _signed(word: int) -> int:
    """The int64 with the bits of an unsigned number."""
    return (word + 2**63) % 2**64 - 2**63
