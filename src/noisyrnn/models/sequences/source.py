"""Whether hidden noise acts, and where it comes from."""

import os
from dataclasses import replace

import torch

from noisyrnn.checks import check_choice, check_integer
from noisyrnn.sde.brownian import BrownianPath, derive_seed
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
        self._passes = 0

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
        """A path that no earlier pass has seen."""
        return self._seed_path() if torch.compiler.is_compiling() else self._fresh_path()

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def _seed_path(self) -> BrownianPath:
        """A fresh path with a tensor as its seed, for a compiled graph: a number would compile it for every pass."""
        path = self._fresh_path()
        return replace(path, seed=path.seed_tensor())

    def _fresh_path(self) -> BrownianPath:
        """A fresh path; ranks of a distributed run differ too."""
        distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
        rank = torch.distributed.get_rank() if distributed else 0
        self._passes += 1
        return BrownianPath(seed=derive_seed(self._entropy, rank, self._passes))
