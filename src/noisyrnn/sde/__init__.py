"""The stochastic differential equation: its drift, its matrices, and integration schemes."""

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
    "EulerMaruyama",
    "Integrator",
    "Milstein",
    "RecurrentDrift",
    "StochasticHeun",
    "TimeGrid",
    "skew_damped",
]
