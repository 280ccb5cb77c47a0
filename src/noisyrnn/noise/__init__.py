"""Hidden-state noise: its laws and levels, and the Brownian paths that its values come from."""

from noisyrnn.noise.brownian import BrownianPath, derive_seed
from noisyrnn.noise.hidden_noise import HiddenNoise

__all__ = ["BrownianPath", "HiddenNoise", "derive_seed"]
