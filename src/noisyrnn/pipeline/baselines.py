"""Measures the baselines of a user's own data on the test sequences of an evaluation, for the reports."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from noisyrnn.data.dataset import Dataset
from noisyrnn.data.split import Split
from noisyrnn.files import json_ready, read_json, write_json
from noisyrnn.locks import locked
from noisyrnn.pipeline.dependencies import BASELINE_RESULTS
from noisyrnn.progress import ProgressBar
from noisyrnn.robustness import Perturbation, baselines, evaluate, skipped_baselines
from noisyrnn.run_folder import RunFolder

ONE_DRAW = {"ROCKET": 1}
"""Baselines that are measured on one draw of each noise: a pass of ROCKET takes as long as a hundred of 1-NN."""


@dataclass(frozen=True, kw_only=True)
class BaselineSettings:
    """What decides the results of baselines, apart from the data.

    Args:
        noise: Perturbations without attacks.
        draws: Draws of each.
        evaluation_seed: Seed of the draws.
        test_limit: Number of test sequences; `None` for all.
    """

    noise: Sequence[Perturbation]
    draws: int
    evaluation_seed: int
    test_limit: int | None

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form."""
        plain = {name: getattr(self, name) for name in ("draws", "evaluation_seed", "test_limit")}
        return json_ready({**plain, "noise": [repr(perturbation) for perturbation in self.noise]})


def write_baselines(
    folder: RunFolder, dataset: Dataset, test: Split, settings: BaselineSettings, show_progress: bool | None = None
) -> None:
    """Measure the baselines of a data set on clean and noisy test sequences: `baselines.json`.

    Runs next to this one that were evaluated alike have the same baselines, which are copied. ROCKET is left out if
    aeon fails, and the file states why.

    Args:
        folder: The run whose report shows them.
        dataset: The data of the run; the baselines are fitted to its training and validation parts.
        test: The test sequences to measure.
        settings: As for the run's own evaluation.
        show_progress: As for `evaluate`.
    """
    parts = {name: getattr(dataset, name).fingerprint() for name in ("train", "validation", "test")}
    expected = {
        "settings": settings.to_dict(),
        "depends_on": {**parts, "results": BASELINE_RESULTS, "aeon": aeon_version()},
    }
    if _stored(folder.baselines, expected) is not None:
        return
    others = sorted(folder.path.parent.glob(f"*/{folder.baselines.name}"))
    content = next(filter(None, (_stored(file, expected) for file in others)), None)
    if content is None:
        content = {**expected, **_measure(dataset, test, settings, show_progress)}
    with locked(folder.path):
        write_json(folder.baselines, content)


def aeon_version() -> str | None:
    """Return the version of aeon, without which there is no ROCKET; `None` if it is not installed."""
    try:
        return version("aeon")
    except PackageNotFoundError:
        return None


def _stored(file: Path, expected: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the content of a file of baselines; `None` if there is none, or it has other settings or data."""
    if not file.is_file():
        return None
    try:
        content = read_json(file)
    except ValueError:  # damaged: measured again
        return None
    return content if all(content.get(name) == value for name, value in expected.items()) else None


def _measure(dataset: Dataset, test: Split, settings: BaselineSettings, show_progress: bool | None) -> dict[str, Any]:
    """Return the results of each baseline, and why some are left out, JSON-ready."""
    skipped = skipped_baselines(dataset)
    try:
        fitted = baselines(dataset)
    except Exception as error:  # of another package: the own results are worth more
        fitted = baselines(dataset, rocket=False)
        skipped["ROCKET"] = f"aeon failed ({type(error).__name__}: {error})"
    if "ROCKET" not in fitted:
        skipped.setdefault("ROCKET", "aeon is not installed")
    bar = ProgressBar("baselines", len(fitted) * (1 + len(settings.noise)), shown=show_progress)
    measured = []
    try:
        for name, model in fitted.items():
            columns, draws = [], ONE_DRAW.get(name, settings.draws)
            for perturbation in (None, *settings.noise):
                result = evaluate(
                    model, test, perturbation, draws=draws, seed=settings.evaluation_seed, show_progress=False
                )
                columns.append(result.to_dict())
                bar.advance()
            measured.append({"name": name, "columns": columns})
    finally:
        bar.close()
    return {"baselines": measured, "skipped": skipped}
