"""Fitting a model to a data set, and the folder a run leaves behind."""

from noisyrnn.run_folder import RunFolder
from noisyrnn.training.config import TrainConfig
from noisyrnn.training.fit_result import FitResult
from noisyrnn.training.fit_seeds import fit_seeds
from noisyrnn.training.objective import Objective
from noisyrnn.training.pretrained import load_pretrained, pretrained_models
from noisyrnn.training.saving import load, save
from noisyrnn.training.trainer import fit

__all__ = [
    "FitResult",
    "Objective",
    "RunFolder",
    "TrainConfig",
    "fit",
    "fit_seeds",
    "load",
    "load_pretrained",
    "pretrained_models",
    "save",
]
