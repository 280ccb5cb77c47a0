"""The stochastic differential equation: its drift, activations, matrices and diffusion, and integration schemes."""

from noisyrnn.sde.activation import ACTIVATIONS, Activation
from noisyrnn.sde.diffusion import FunctionDiffusion, MatrixDiffusion
from noisyrnn.sde.drift import RecurrentDrift
from noisyrnn.sde.recurrent_matrix import skew_damped
from noisyrnn.sde.schemes import SCHEMES, EulerMaruyama, Milstein, StochasticHeun

__all__ = [
    "ACTIVATIONS",
    "SCHEMES",
    "Activation",
    "EulerMaruyama",
    "FunctionDiffusion",
    "MatrixDiffusion",
    "Milstein",
    "RecurrentDrift",
    "StochasticHeun",
    "skew_damped",
]
