"""Theory diagnostics, each returned as a `Measurement`."""

from noisyrnn.analysis.diagnostics import DIAGNOSTICS, AnalysisSettings
from noisyrnn.analysis.dynamics.fixed_points import FixedPoints, fixed_points
from noisyrnn.analysis.dynamics.jacobian import (
    gradient_norms,
    gradient_rate,
    input_jacobian,
    input_jacobian_norms,
    jacobian_norms,
    jacobian_spectra,
)
from noisyrnn.analysis.dynamics.lyapunov import largest_exponent, lyapunov_spectrum
from noisyrnn.analysis.dynamics.stability import (
    continuous_exponent_bounds,
    discrete_exponent_bounds,
    stabilization_scan,
    verdict,
)
from noisyrnn.analysis.loss.hessian import LossHessian
from noisyrnn.analysis.loss.landscape import eigen_directions, filter_normalized_directions, loss_landscape
from noisyrnn.analysis.loss.spectrum import hessian_eigenvalues, spectral_density
from noisyrnn.analysis.loss.trace import hessian_trace
from noisyrnn.analysis.margins.attack_radius import attack_radius
from noisyrnn.analysis.margins.lipschitz_bound import margin_certificate
from noisyrnn.analysis.margins.margin import input_margin_estimate, linearised_margin, output_margins
from noisyrnn.analysis.margins.smoothing import Smoothed, certified_accuracy, certify, smoothed_predictions
from noisyrnn.analysis.measurement import Measurement
from noisyrnn.analysis.noise_at_test_time import scores_with_noise
from noisyrnn.analysis.regularizer import (
    Regularizer,
    antithetic_regularizer,
    explicit_regularizer,
    penalized_loss,
    penalty,
    tangent_regularizer,
)
from noisyrnn.analysis.trajectory import Trajectory

__all__ = [
    "DIAGNOSTICS",
    "AnalysisSettings",
    "FixedPoints",
    "LossHessian",
    "Measurement",
    "Regularizer",
    "Smoothed",
    "Trajectory",
    "antithetic_regularizer",
    "attack_radius",
    "certified_accuracy",
    "certify",
    "continuous_exponent_bounds",
    "discrete_exponent_bounds",
    "eigen_directions",
    "explicit_regularizer",
    "filter_normalized_directions",
    "fixed_points",
    "gradient_norms",
    "gradient_rate",
    "hessian_eigenvalues",
    "hessian_trace",
    "input_jacobian",
    "input_jacobian_norms",
    "input_margin_estimate",
    "jacobian_norms",
    "jacobian_spectra",
    "largest_exponent",
    "linearised_margin",
    "loss_landscape",
    "lyapunov_spectrum",
    "margin_certificate",
    "output_margins",
    "penalized_loss",
    "penalty",
    "scores_with_noise",
    "smoothed_predictions",
    "spectral_density",
    "stabilization_scan",
    "tangent_regularizer",
    "verdict",
]
