"""Rows of a comparison that a Python file builds: models of other libraries next to ours."""

import hashlib
import importlib.util
import inspect
import re
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import nn

from noisyrnn import __version__
from noisyrnn.data.base import Dataset
from noisyrnn.files import json_ready, write_json
from noisyrnn.locks import locked
from noisyrnn.pipeline.context import RunContext
from noisyrnn.pipeline.dependencies import EVALUATION_RESULTS, known_result
from noisyrnn.pipeline.evaluate import EvaluateConfig, first_sequences, measured_sequences
from noisyrnn.pipeline.train import describe, environment
from noisyrnn.progress import ProgressBar
from noisyrnn.robustness import RobustnessResult, evaluate, worst_cases
from noisyrnn.robustness.compare_models import as_callable, has_gradients
from noisyrnn.run_folder import RunFolder, folder_name
from noisyrnn.threads import reproducible_threads
from noisyrnn.training.seeding import seeded

_NAME = re.compile(r"(?P<file>.+\.py):(?P<function>[A-Za-z_]\w*)")


def is_foreign(name: str) -> bool:
    """Whether a row is a function of a Python file, such as `mine.py:build`.

    Example:
        >>> is_foreign("models/mine.py:build"), is_foreign("noisy:additive=0.1")
        (True, False)
    """
    return _NAME.fullmatch(name) is not None


@dataclass(frozen=True, kw_only=True)
class ForeignRow:
    """A row that a Python file builds.

    Args:
        name: File and function, such as `mine.py:build`. The function takes a `Dataset`, and the seed if it has an
            argument `seed`, and returns a trained model: what `compare_models` takes.
        label: Name in tables.

    Raises:
        ValueError: If there is no such file.
    """

    name: str
    label: str

    def __post_init__(self) -> None:
        if not self.file.is_file():
            raise ValueError(f"model {self.name!r} must name a Python file, got none at {self.file}. Correct the path.")

    @property
    def file(self) -> Path:
        """The Python file."""
        match = _NAME.fullmatch(self.name)
        assert match is not None
        return Path(match["file"]).expanduser().resolve()

    @property
    def digest(self) -> str:
        """SHA-256 of the file."""
        return hashlib.sha256(self.file.read_bytes()).hexdigest()

    def function(self) -> Callable[..., Any]:
        """Import the file and return the function.

        Raises:
            ValueError: If the file has no such function.
        """
        match = _NAME.fullmatch(self.name)
        assert match is not None
        module_name = f"noisyrnn_foreign_{self.digest[:16]}"
        if module_name not in sys.modules:
            spec = importlib.util.spec_from_file_location(module_name, self.file)
            assert spec is not None and spec.loader is not None
            module = importlib.util.module_from_spec(spec)
            sys.modules[module_name] = module
            try:
                spec.loader.exec_module(module)
            except BaseException:
                del sys.modules[module_name]
                raise
        function: Any = getattr(sys.modules[module_name], match["function"], None)
        if not callable(function):
            raise ValueError(f"model {self.name!r} must name a function of {self.file}, got none of that name.")
        built: Callable[..., Any] = function
        return built


@reproducible_threads()
def evaluate_foreign(
    row: ForeignRow, seed: int, dataset: Dataset, config: EvaluateConfig, context: RunContext
) -> RunFolder:
    """Build a model with a user's function, and measure it as `evaluate_run` measures ours.

    Its folder has no weights and no metrics of the training. The result is used again if the file, the data and the
    settings are unchanged. Models without gradients are attacked by gradient-free attacks only.

    Args:
        row: The function.
        seed: Seed of torch's generator while the function runs, which also gets it if it has an argument `seed`.
        dataset: Passed to the function.
        config: Perturbations and draws.
        context: Where to write; models are measured on the CPU.
    """
    identity = {"name": row.name, "sha256": row.digest, "seed": seed, "label": row.label, "dataset": dataset.name}
    name = folder_name(f"{Path(dataset.name).stem}-{row.label}", identity, suffix=f"seed{seed}")
    folder = RunFolder(context.output / name)
    config = config.for_data(dataset)
    settings = json_ready(asdict(config))
    content = {
        "config": {"label": row.label, "seed": seed, "model": row.name, "dataset": dataset.name, "file": row.digest},
        "dataset": json_ready(describe(dataset)),
    }
    with locked(folder.path):
        same = (
            folder.config.is_file() and folder.finished and _same(folder.read_config()["dataset"], content["dataset"])
        )
        if same:
            depends_on = {"test": dataset.test.fingerprint(), **folder.dependencies(), "results": EVALUATION_RESULTS}
            if known_result(folder, folder.robustness, settings, depends_on) is not None:
                return folder
        write_json(folder.config, {"version": __version__, **content, "environment": environment()})
        folder.summary.unlink(missing_ok=True)
        begin = time.monotonic()
        function = row.function()
        options = {"seed": seed} if "seed" in inspect.signature(function).parameters else {}
        with seeded(seed):
            model = function(dataset, **options)
        parameters = None
        if isinstance(model, nn.Module):
            model.eval()
            parameters = sum(p.numel() for p in model.parameters() if p.requires_grad)
        seconds = round(time.monotonic() - begin, 3)
        columns = _measure(row, model, dataset, config, context)
        write_json(folder.summary, {"status": "finished", "error": None, "parameters": parameters, "seconds": seconds})
        depends_on = {"test": dataset.test.fingerprint(), **folder.dependencies(), "results": EVALUATION_RESULTS}
        write_json(
            folder.robustness,
            {"settings": settings, "depends_on": depends_on, "columns": columns, "gradient_checks": [], "examples": []},
        )
    return folder


def _same(stored: Mapping[str, Any], dataset: Mapping[str, Any]) -> bool:
    """Whether two descriptions are of the same data; earlier versions did not write the names of the channels."""
    names = ("channel_names",) if "channel_names" not in stored else ()
    return dict(stored) == {name: value for name, value in dataset.items() if name not in names}


def _measure(
    row: ForeignRow, model: Any, dataset: Dataset, config: EvaluateConfig, context: RunContext
) -> list[dict[str, Any]]:
    """Return the results under every perturbation that the model can be tested with, JSON-ready."""
    test = first_sequences(dataset.test, config.test_limit)
    outputs = as_callable(row.label, model, test, dataset.class_names)
    gradients = has_gradients(outputs, test)
    perturbations = [None, *config.perturbations(dataset)]
    bar = ProgressBar(f"evaluate {row.label}", len(perturbations), shown=context.show_progress)
    results: list[RobustnessResult] = []
    try:
        for perturbation, sequences, draws in measured_sequences(test, config, perturbations):
            if gradients or perturbation is None or not perturbation.is_attack or perturbation.gradient_free:
                results.append(
                    evaluate(
                        outputs, sequences, perturbation, draws=draws, seed=config.evaluation_seed, show_progress=False
                    )
                )
            bar.advance()
    finally:
        bar.close()
    return [result.to_dict() for result in (*results, *(worst_cases(results) if gradients else ()))]
