"""Noise for tests of kernels, written as the numbers that a kernel sees."""

from noisyrnn.kernels.call import NoiseSource
from noisyrnn.noise import BrownianPath, HiddenNoise

Terms = tuple[HiddenNoise | None, BrownianPath | None]


def terms(source: int = 0, additive: float = 0.0, level: float = 0.0, **place: int) -> Terms:
    """A noise and a path: negative levels stand for the antithetic path; `place` has the path's fields."""
    if additive == 0 and level == 0:
        return None, None
    noise = HiddenNoise(
        additive=abs(additive),
        multiplicative=abs(level),
        form="shared" if source == NoiseSource.FIRST_MOTION else "independent",
        law="uniform" if source == NoiseSource.UNIFORM else "gaussian",
    )
    return noise, BrownianPath(seed=0, sign=-1 if additive < 0 or level < 0 else 1, **place)
