"""Fitting a model to a data set, and the folder a run leaves behind."""

from noisyrnn.run_folder import RunFolder
from noisyrnn.training.config import TrainConfig
from noisyrnn.training.fit import fit
from noisyrnn.training.run import FitResult
from noisyrnn.training.saving import load, save
from noisyrnn.training.together import fit_together

__all__ = ["FitResult", "RunFolder", "TrainConfig", "fit", "fit_together", "load", "save"]
