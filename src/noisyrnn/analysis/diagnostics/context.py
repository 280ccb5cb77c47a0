"""Settings of the diagnostics, and the context in which they are computed."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NotRequired, TypedDict, Unpack

import numpy as np
import torch
from torch import Tensor

from noisyrnn.analysis.diagnostic_results import Better, Quantity
from noisyrnn.analysis.measurement import Measurement
from noisyrnn.checks import check_integer, check_number
from noisyrnn.data.scale import Scale
from noisyrnn.data.split import Split
from noisyrnn.noise.hidden_noise import HiddenNoise


@dataclass(frozen=True, kw_only=True)
class AnalysisSettings:
    """Sizes and levels of the diagnostics: all settings that determine their results, apart from the run.

    Args:
        analysis_seed: Seed of the choice of sequences and of all draws, at least 0; use the same for models that you
            compare.
        test_sequences: Number of test sequences for margins, Jacobians, regulariser and Lyapunov exponents, at least 2.
        curvature_sequences: Number of training sequences whose mean loss is used for curvature and landscape, at least
            1.
        additive: Level of the additive hidden noise for regulariser and Lyapunov exponents, the same for all models, at
            least 0.
        multiplicative: Level of the multiplicative hidden noise for regulariser and Lyapunov exponents, the same for
            all models, at least 0.
        smoothing_noise: Standard deviation of the noise of randomised smoothing, above 0 (default: 0.1). It is in the
            units of the data if the data set states its range of values, as image data sets do, and the default is
            then multiplied by the width of the range; otherwise in units of each channel's standard deviation s in the
            training data.
        smoothing_draws: Number of draws for each certified radius, at least 1.
        confidence: Confidence of each certified radius, in (0, 1).
        max_attack_radius: Largest ℓ2 radius of the attacks that bound margins from above, above 0. It is in the units
            of the data if the data set states its range of values (default: 5 times its width), otherwise in units of
            s√n for sequences of n values (default: 0.5).
        probes: Number of random vectors for the Hessian's trace, at least 4.
        density_probes: Number of random vectors for the Hessian's spectral density, at least 2.
        landscape_points: Number of points of a landscape along each direction, odd, at least 3.
        landscape_extent: Largest multiple of a direction, above 0. A direction is a unit eigenvector, or a random
            direction with the norm of the weights.

    Raises:
        ValueError: If a value is out of range.
    """

    analysis_seed: int = 0
    test_sequences: int = 100
    curvature_sequences: int = 256
    additive: float = 0.05
    multiplicative: float = 0.02
    smoothing_noise: float | None = None
    smoothing_draws: int = 1000
    confidence: float = 0.999
    max_attack_radius: float | None = None
    probes: int = 30
    density_probes: int = 4
    landscape_points: int = 21
    landscape_extent: float = 0.3

    def __post_init__(self) -> None:
        minima = {"analysis_seed": 0, "test_sequences": 2, "curvature_sequences": 1, "smoothing_draws": 1}
        minima |= {"probes": 4, "density_probes": 2, "landscape_points": 3}
        for name, minimum in minima.items():
            check_integer(name, getattr(self, name), minimum=minimum)
        for name in ("smoothing_noise", "confidence", "max_attack_radius", "landscape_extent"):
            if getattr(self, name) is not None:
                check_number(name, getattr(self, name), above=0.0)
        if self.confidence >= 1:
            raise ValueError(f"confidence must be less than 1, got {self.confidence:g}.")
        if self.landscape_points % 2 == 0:
            raise ValueError(f"landscape_points must be odd, got {self.landscape_points}.")
        if self.noise.silent:
            raise ValueError("additive or multiplicative must be above 0, got 0 for both.")

    def for_data(self, value_range: tuple[float, float] | None) -> "AnalysisSettings":
        """Fill in the defaults for data with this range of values (`None`: no stated range)."""
        noise, radius = self.smoothing_noise, self.max_attack_radius
        width = 1.0 if value_range is None else value_range[1] - value_range[0]
        return replace(
            self,
            smoothing_noise=0.1 * width if noise is None else noise,
            max_attack_radius=(0.5 if value_range is None else 5.0) * width if radius is None else radius,
        )

    @property
    def noise(self) -> HiddenNoise:
        """The reference noise."""
        return HiddenNoise(additive=self.additive, multiplicative=self.multiplicative)


@dataclass(frozen=True, kw_only=True, eq=False)
class DiagnosticContext:
    """A trained model, with the data and settings of its diagnostics.

    Args:
        model: Model in evaluation mode; a `SequenceClassifier` where sequences have one class each.
        train: Training sequences, the same for every model.
        test: Test sequences, the same for every model.
        settings: Sizes and levels.
        check_time: Function to call between computations; it raises an error when the time is used up.
        scale: Scale of the channels, if the data state no range of values: distances between inputs are then in
            units of it, otherwise in the units of the data.
    """

    model: Any
    train: Split
    test: Split
    settings: AnalysisSettings
    check_time: Callable[[], None]
    scale: Scale | None = None

    @property
    def one_class_each(self) -> bool:
        """Whether each sequence has one class, rather than values or targets at every step."""
        return self.test.one_class_each

    @property
    def dynamics(self) -> tuple[Any, Tensor]:
        """What the quantities of the hidden state are computed from: a classifier or a layer, and its test inputs."""
        if self.one_class_each:
            return self.model, self.test.inputs[:]
        return self.model.layer, self.model.standardize(self.test.inputs[:])

    @property
    def test_data(self) -> str:
        """Description of the test sequences."""
        return f"{len(self.test)} test sequences drawn with seed {self.settings.analysis_seed}"

    @property
    def train_data(self) -> str:
        """Description of the training sequences."""
        return f"{len(self.train)} training sequences drawn with seed {self.settings.analysis_seed}"


class Presentation(TypedDict):
    """How a quantity is shown.

    Args:
        better: Whether higher or lower values are better; `None` for neither.
        note: What was measured, and on which sequences.
        unit: Unit of the value (default: none).
    """

    better: Better | None
    note: str
    unit: NotRequired[str]


def mean_quantity(name: str, title: str, each: Measurement, **shown: Unpack[Presentation]) -> Quantity:
    """Return the mean over sequences of a quantity `(sequences,)`, of the same kind, with its interval over sequences.

    Entries that are not finite (a norm below rounding errors, a gradient of zero) are left out, and the note counts the
    others.
    """
    values = each.value.detach().double()
    finite = values[values.isfinite()]
    mean = Measurement(value=finite, kind=each.kind).over_sequences()
    return Quantity(
        name=name,
        title=title,
        measurement=Measurement(value=mean.value, kind=each.kind, confidence=each.confidence),
        interval=None if mean.standard_error is None else _ends(*mean.interval()),
        better=shown["better"],
        unit=shown.get("unit", ""),
        note=f"{shown['note']}; mean over {len(finite)} sequences with its interval over them",
    )


def median_quantity(name: str, title: str, each: Measurement, **shown: Unpack[Presentation]) -> Quantity:
    """Like `mean_quantity`, but with the median, which a few infinite values do not change."""
    from scipy.stats import quantile_test  # slow to import

    values = each.value.detach().double().cpu()
    ends = quantile_test(values.numpy(), p=0.5).confidence_interval()
    return Quantity(
        name=name,
        title=title,
        measurement=Measurement(
            value=torch.tensor(np.median(values.numpy()), dtype=torch.float64, device="cpu"),
            kind=each.kind,
            confidence=each.confidence,
        ),
        interval=_ends(ends.low, ends.high),
        better=shown["better"],
        unit=shown.get("unit", ""),
        note=f"{shown['note']}; median over {len(values)} sequences with its interval over them",
    )


def _ends(low: Tensor | float, high: Tensor | float) -> tuple[float, float]:
    """Convert an interval to two numbers."""
    return float(low), float(high)
