"""Fitting a model to a data set, and the folder a run leaves behind."""

from noisyrnn.run_folder import RunFolder
from noisyrnn.training.config import TrainConfig
from noisyrnn.training.fit import FitResult, fit
from noisyrnn.training.saving import load, save

__all__ = ["FitResult", "RunFolder", "TrainConfig", "fit", "load", "save"]
