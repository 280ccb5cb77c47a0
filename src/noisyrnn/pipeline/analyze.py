"""Computes the theory diagnostics of trained runs."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from time import monotonic
from typing import Any

import torch

from noisyrnn.analysis.diagnostics import DIAGNOSTICS, AnalysisSettings, DiagnosticContext
from noisyrnn.checks import check_choice, check_number
from noisyrnn.data.split import Split, check_regular
from noisyrnn.files import json_ready, write_json
from noisyrnn.locks import locked
from noisyrnn.models import SequenceModel
from noisyrnn.noise.brownian import derive_seed
from noisyrnn.pipeline.context import RunContext
from noisyrnn.pipeline.dependencies import (
    ANALYSIS_RESULTS,
    check_same_data,
    dependencies,
    known_result,
    run_config,
)
from noisyrnn.pipeline.devices import resolve_accelerator
from noisyrnn.progress import ProgressBar
from noisyrnn.run_folder import RunFolder, failure_message
from noisyrnn.threads import reproducible_threads
from noisyrnn.training.saving import load


class BudgetSpentError(Exception):
    """Raised when the time for an analysis is used up."""


@dataclass(frozen=True, kw_only=True)
class AnalyzeConfig:
    """Diagnostics to compute, and the time limit.

    Args:
        diagnostics: Names of diagnostics (default: all); `noisyrnn list` shows them.
        budget: Time limit in minutes for all runs together, above 0. Diagnostics that do not fit are skipped, with a
            reason.
        settings: Sizes and levels of the diagnostics.

    Raises:
        ValueError: If a diagnostic is unknown or a value is out of range.
    """

    diagnostics: Sequence[str] = ()
    budget: float = 30.0
    settings: AnalysisSettings = field(default_factory=AnalysisSettings)

    def __post_init__(self) -> None:
        object.__setattr__(self, "diagnostics", tuple(dict.fromkeys(self.diagnostics)) or tuple(DIAGNOSTICS))
        for name in self.diagnostics:
            check_choice("diagnostic", name, DIAGNOSTICS)
        check_number("budget", self.budget, above=0.0)


@reproducible_threads()
def analyze_run(
    folder: RunFolder, config: AnalyzeConfig, context: RunContext | None = None, *, seconds: float | None = None
) -> RunFolder:
    """Compute the diagnostics of a finished run, one after another, and write `analysis.json` after each.

    Results in a file with the same settings are kept if the test data, the model's weights and `config.json` have not
    changed since, so that a second call continues where the first was stopped or ran out of time. A diagnostic that
    the model does not allow, or that fails, is noted with its reason and stops no other.

    Args:
        folder: A finished run.
        config: Settings; its budget bounds the time, however many runs share it.
        context: Where data are, and the device; its `output` is not used.
        seconds: Time for this run; the whole budget by default.

    Raises:
        ValueError: If the run has not finished, its data have changed, or there is no such accelerator.
    """
    context = context or RunContext()
    folder.check_finished()
    device = resolve_accelerator(context.accelerator)
    end = monotonic() + (60 * config.budget if seconds is None else seconds)
    dataset = context.read_data(run_config(folder))
    check_regular("dataset", dataset.train)
    settings = config.settings.for_data(dataset.value_range)
    check_same_data(folder, dataset)
    results = _stored_results(folder, json_ready(asdict(settings)), dependencies(folder, dataset, ANALYSIS_RESULTS))
    todo = [
        name
        for name in config.diagnostics
        if results["diagnostics"].get(name, {}).get("status") not in ("done", "impossible")
    ]
    if not todo:
        return folder
    model = load(folder.model, SequenceModel).to(device)
    costs = {name: DIAGNOSTICS[name].cost for name in todo}
    bar = ProgressBar(f"analyze {folder.path.name}", sum(costs.values()), shown=context.show_progress)

    def check_time() -> None:
        if monotonic() > end:
            raise BudgetSpentError

    subject = DiagnosticContext(
        model=model,
        train=_draw(dataset.train, settings.curvature_sequences, settings.analysis_seed, device),
        test=_draw(dataset.test, settings.test_sequences, settings.analysis_seed, device),
        settings=settings,
        check_time=check_time,
        scale=dataset.scale,
    )
    try:
        with locked(folder.path):
            for name in todo:
                _add_diagnostic(name, subject, results, config.budget)
                write_json(folder.analysis, results)
                bar.advance(costs[name])
    finally:
        bar.close()
    return folder


def _stored_results(folder: RunFolder, settings: dict[str, Any], depends_on: dict[str, Any]) -> dict[str, Any]:
    """Return stored results with the same settings and inputs, or empty ones."""
    before = known_result(folder, folder.analysis, settings, depends_on)
    if before is not None:
        del before["format"]
        return before
    return {
        "settings": settings,
        "depends_on": depends_on,
        "diagnostics": {},
        "data": {},
        "quantities": [],
        "curves": {},
        "landscapes": {},
        "verdict": None,
    }


def _add_diagnostic(name: str, subject: DiagnosticContext, results: dict[str, Any], budget: float) -> None:
    """Add the results of a diagnostic to `results`, or the reason why there are none."""
    start = monotonic()
    try:
        subject.check_time()
        new = DIAGNOSTICS[name].build(subject).to_dict(name)
    except BudgetSpentError:
        results["diagnostics"][name] = {
            "status": "skipped",
            "reason": f"The budget of {budget:g} minutes was used up. Analyze again to continue.",
        }
        return
    except (TypeError, ValueError) as error:
        results["diagnostics"][name] = {"status": "impossible", "reason": str(error)}
        return
    except (RuntimeError, MemoryError) as error:
        results["diagnostics"][name] = {"status": "failed", "reason": failure_message(error)}
        return
    results["data"][name] = new["data"]
    results["quantities"] += new["quantities"]
    results["curves"].update(new["curves"])
    results["landscapes"].update(new["landscapes"])
    results["verdict"] = new["verdict"] or results["verdict"]
    results["diagnostics"][name] = {"status": "done", "seconds": round(monotonic() - start, 2)}


def _draw(split: Split, count: int, seed: int, device: torch.device | str) -> Split:
    """Draw sequences of a split without replacement: the same ones for every model."""
    generator = torch.Generator().manual_seed(derive_seed(seed, "sequences") % 2**63)
    rows = torch.randperm(len(split), generator=generator, device="cpu")[:count]
    return replace(split, weights=None).subset(rows).in_memory().map(lambda tensor: tensor.to(device))
