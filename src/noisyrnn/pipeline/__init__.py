"""The stages between a data set and a report: each reads a run folder and adds one file to it."""

from noisyrnn.pipeline.analyze import AnalyzeConfig, analyze_run
from noisyrnn.pipeline.compare import CompareConfig, compare
from noisyrnn.pipeline.evaluate import EvaluateConfig, evaluate_run
from noisyrnn.pipeline.seeds import train_seeds
from noisyrnn.pipeline.sweep import SweepConfig, sweep
from noisyrnn.pipeline.tracking import LOGGERS
from noisyrnn.pipeline.train import train_run

__all__ = [
    "LOGGERS",
    "AnalyzeConfig",
    "CompareConfig",
    "EvaluateConfig",
    "SweepConfig",
    "analyze_run",
    "compare",
    "evaluate_run",
    "sweep",
    "train_run",
    "train_seeds",
]
