"""The stages between a data set and a report: each reads a run folder and adds one file to it."""

from noisyrnn.pipeline.analyze import AnalyzeConfig, analyze_run
from noisyrnn.pipeline.compare import CompareConfig, compare
from noisyrnn.pipeline.context import RunContext
from noisyrnn.pipeline.continuation import continue_run, settings_of_run
from noisyrnn.pipeline.evaluate import EvaluateConfig, evaluate_run
from noisyrnn.pipeline.predict import predict_file
from noisyrnn.pipeline.pretrained import open_run_or_pretrained, unpack_pretrained
from noisyrnn.pipeline.reproduce import ReproduceConfig, reproduce
from noisyrnn.pipeline.seeds import train_seeds
from noisyrnn.pipeline.sweep import SweepConfig, sweep
from noisyrnn.pipeline.train import objective_of, train_run

__all__ = [
    "AnalyzeConfig",
    "CompareConfig",
    "EvaluateConfig",
    "ReproduceConfig",
    "RunContext",
    "SweepConfig",
    "analyze_run",
    "compare",
    "continue_run",
    "evaluate_run",
    "objective_of",
    "open_run_or_pretrained",
    "predict_file",
    "reproduce",
    "settings_of_run",
    "sweep",
    "train_run",
    "train_seeds",
    "unpack_pretrained",
]
