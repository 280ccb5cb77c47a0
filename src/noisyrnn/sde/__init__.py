"""The stochastic differential equation and one step of it: no loop over a sequence, no loss."""

from noisyrnn.sde.brownian import BrownianPath, derive_seed
from noisyrnn.sde.diffusion import HiddenNoise
from noisyrnn.sde.drift import RecurrentDrift
from noisyrnn.sde.grid import TimeGrid
from noisyrnn.sde.integrators import SDE, EulerMaruyama, Integrator, Milstein, StochasticHeun
from noisyrnn.sde.recurrent_matrix import skew_damped

INTEGRATORS: dict[str, Integrator] = {
    "euler_maruyama": EulerMaruyama(),
    "milstein": Milstein(),
    "stochastic_heun": StochasticHeun(),
}

__all__ = [
    "INTEGRATORS",
    "SDE",
    "BrownianPath",
    "EulerMaruyama",
    "HiddenNoise",
    "Integrator",
    "Milstein",
    "RecurrentDrift",
    "StochasticHeun",
    "TimeGrid",
    "derive_seed",
    "skew_damped",
]
