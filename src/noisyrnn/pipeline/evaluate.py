"""Measures the accuracy, or the error, of trained runs under perturbations."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any, Literal, get_args

import torch

from noisyrnn.checks import check_choice, check_flag, check_integer, check_number
from noisyrnn.data import Dataset, Split, is_own
from noisyrnn.data.stored import StoredSequences
from noisyrnn.files import json_ready, write_json
from noisyrnn.locks import locked
from noisyrnn.models import SequenceModel
from noisyrnn.pipeline.baselines import BaselineSettings, write_baselines
from noisyrnn.pipeline.context import RunContext
from noisyrnn.pipeline.dependencies import (
    check_same_data,
    dependencies,
    evaluation_results,
    known_result,
    run_config,
)
from noisyrnn.pipeline.devices import resolve_accelerator
from noisyrnn.pipeline.kept_columns import KeptColumns
from noisyrnn.pipeline.train import announce
from noisyrnn.progress import ProgressBar
from noisyrnn.robustness import (
    MAX_DRAWS,
    PERTURBATIONS,
    Perturbation,
    RobustnessResult,
    build_perturbation,
    check_clip,
    check_strengths,
    confusion_matrix,
    default_strengths,
    evaluate,
    examples,
    gradient_checks,
    strong_attacks,
    worst_cases,
)
from noisyrnn.robustness.default_strengths import FOR_MISSING
from noisyrnn.robustness.logits import Model
from noisyrnn.run_folder import RunFolder
from noisyrnn.threads import reproducible_threads
from noisyrnn.training.saving import load

_EXAMPLES = 4
Weights = Literal["kept", "last"]


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """Settings of an evaluation.

    Args:
        strengths: Strengths of each perturbation, at least 0, such as {white_noise: [0.1, 0.2]} (default: all
            perturbations, at strengths for this kind of data). They are in the units of the data if the data set states
            its range of values, as image data sets do, and otherwise in units of each channel's standard deviation in
            the training data. Tables name the unit.
        draws: Number of draws of each random perturbation, 1 to 35.
        attacks: "standard", or "strong": attack with PGD, APGD on two losses and the gradient-free Square, at every
            radius that strengths have for their norm, in place of the attacks there.
        attack_draws: Number of random starts of each attack, 1 to 35. A sequence counts as correct only if it is
            classified correctly after every start; steps and values count with their worst case. A gradient-free
            attack has one start.
        evaluation_seed: Seed of the draws, at least 0; models evaluated with the same seed get the same noise.
        clip: Clip perturbed values to the range of values that the data set states.
        test_limit: Evaluate only the first N test sequences (default: all).
        attack_sequences: Attack only the first N test sequences, at least 1.
        gradient_free_sequences: Attack only the first N of these with gradient-free attacks, which are slow, at least
            1. In the worst case over attacks the others count with the gradient attacks only.
        weights: Weights to measure: "kept", those of the epoch that training keeps, or "last", those of the last epoch.

    Raises:
        ValueError: If a perturbation is unknown or a value is out of range.
        TypeError: If strengths are not lists of numbers.
    """

    strengths: Mapping[str, Sequence[float]] | None = None
    attacks: Literal["standard", "strong"] = "standard"
    draws: int = 5
    attack_draws: int = 5
    evaluation_seed: int = 0
    clip: bool = False
    test_limit: int | None = None
    attack_sequences: int = 1000
    gradient_free_sequences: int = 100
    weights: Weights = "kept"

    def __post_init__(self) -> None:
        if self.strengths is not None:
            object.__setattr__(self, "strengths", self._checked_strengths(self.strengths))
        for name in ("draws", "attack_draws"):
            check_integer(name, getattr(self, name), minimum=1)
            check_number(name, getattr(self, name), maximum=MAX_DRAWS)
        check_flag("clip", self.clip)
        check_choice("weights", self.weights, get_args(Weights))
        check_integer("evaluation_seed", self.evaluation_seed, minimum=0)
        check_choice("attacks", self.attacks, ("standard", "strong"))
        check_integer("attack_sequences", self.attack_sequences, minimum=1)
        check_integer("gradient_free_sequences", self.gradient_free_sequences, minimum=1)
        if self.test_limit is not None:
            check_integer("test_limit", self.test_limit, minimum=1)

    @staticmethod
    def _checked_strengths(strengths: Mapping[str, Sequence[float]]) -> dict[str, list[float]]:
        if not isinstance(strengths, Mapping):
            raise TypeError(
                f"strengths must map perturbations to lists of numbers, got {strengths!r}. "
                "Write {white_noise: [0.1]}."
            )
        checked = {}
        for name, values in strengths.items():
            check_choice("perturbation", name, PERTURBATIONS)
            check_strengths("strengths", values)
            checked[name] = [float(value) for value in values]
            for value in checked[name]:
                build_perturbation(name, value, value_range=(0.0, 1.0))
        return checked

    def for_data(self, dataset: Dataset) -> "EvaluateConfig":
        """Fill in the default strengths for a data set.

        Raises:
            ValueError: If values are to be clipped to a range that the data set does not state.
        """
        check_clip(self.clip, dataset.value_range)
        strengths = self.strengths
        if strengths is None:
            strengths = default_strengths(dataset.value_range) | (FOR_MISSING if dataset.missing is not None else {})
        if self.attacks == "strong":
            strengths = strong_attacks(strengths, classification=bool(dataset.test.classes))
        return replace(self, strengths=strengths)

    def perturbations(self, dataset: Dataset) -> list[Perturbation]:
        """Return the perturbations of a data set's inputs, one for each strength."""
        return [
            build_perturbation(name, strength, value_range=dataset.value_range, scale=dataset.scale, clip=self.clip)
            for name, strengths in (self.strengths or {}).items()
            for strength in strengths
        ]


def load_noise_free(folder: RunFolder, device: str, weights: Weights = "kept") -> SequenceModel:
    """Return the model of a finished run on `device`, with its noise off and its weights fixed."""
    model = load(folder.weights_file(weights), SequenceModel).to(device)
    model.requires_grad_(False)  # attacks need the inputs' gradients only
    # Off, not "auto": a library that attacks the model may put it in training mode.
    model.layer.noise_mode = "off"
    return model


@reproducible_threads()
def evaluate_run(folder: RunFolder, config: EvaluateConfig, context: RunContext | None = None) -> RunFolder:
    """Measure the accuracy, or the errors, of a finished run on clean and perturbed test data: `robustness.json`.

    The results of the last epoch's weights are in `robustness-last.json`. A file with the same settings is left
    unchanged if the test data, the model's weights and `config.json` have not changed since. An interrupted evaluation
    continues with the next perturbation. One with other strengths and otherwise the same settings measures the new ones
    only, if each sequence has one class, and else all.

    Args:
        folder: A finished run.
        config: Perturbations and draws.
        context: Where data are, and the device; its `output` is not used.

    Raises:
        ValueError: If the run has not finished, its data have changed, or there is no such accelerator.
    """
    context = context or RunContext()
    folder.check_finished()
    device = resolve_accelerator(context.accelerator)
    dataset = context.read_data(run_config(folder))
    config = config.for_data(dataset)
    settings = json_ready(asdict(config))
    check_same_data(folder, dataset)
    depends_on = dependencies(folder, dataset, evaluation_results(dataset), config.weights)
    announce(dataset, context.show_progress)
    if is_own(run_config(folder).dataset) and not isinstance(dataset.train.inputs, StoredSequences):
        settings_of_baselines = BaselineSettings(
            noise=[perturbation for perturbation in config.perturbations(dataset) if not perturbation.is_attack],
            draws=config.draws,
            evaluation_seed=config.evaluation_seed,
            test_limit=config.test_limit,
        )
        test = first_sequences(dataset.test, config.test_limit)
        write_baselines(folder, dataset, test, settings_of_baselines, context.show_progress)
    file = folder.robustness_file(config.weights)
    if known_result(folder, file, settings, depends_on) is not None:
        return folder
    with locked(folder.path), KeptColumns(file, settings, depends_on) as kept:
        measured = _measure(folder, dataset, config, device, context.show_progress, kept)
        write_json(file, {"settings": settings, "depends_on": depends_on, **measured})
    return folder


def first_sequences(split: Split, count: int | None) -> Split:
    """Return the first sequences of a split; all of them for `None`."""
    return split if count is None else split.subset(torch.arange(len(split), device="cpu")[:count])


def measured_sequences(
    test: Split, config: EvaluateConfig, perturbations: Sequence[Perturbation | None]
) -> Iterator[tuple[Perturbation | None, Split, int]]:
    """Yield each perturbation with the test sequences that it is measured on, and its number of draws."""
    attacked = first_sequences(test, config.attack_sequences)
    searched = first_sequences(attacked, config.gradient_free_sequences)
    for perturbation in perturbations:
        if perturbation is not None and perturbation.gradient_free:
            yield perturbation, searched, 1
        elif perturbation is not None and perturbation.is_attack:
            yield perturbation, attacked, config.attack_draws
        else:
            yield perturbation, test, config.draws


def gradient_notes(folder: RunFolder, weights: Weights = "kept") -> list[str]:
    """Return a sentence for each attack on an evaluated run that indicates masked gradients."""
    config = folder.read_config()["config"]
    checks = folder.read_result(folder.robustness_file(weights)).content.get("gradient_checks", [])
    return [f"{config['label']}, seed {config['seed']}: {check['note']}" for check in checks if check["masked"]]


def is_current(folder: RunFolder, config: EvaluateConfig, dataset: Dataset) -> bool:
    """Return whether the stored accuracies of a run, if any, belong to these settings and test data."""
    file = folder.robustness_file(config.weights)
    if not file.is_file() or not folder.weights_file(config.weights).is_file():
        return True
    settings = json_ready(asdict(config.for_data(dataset)))
    try:
        stored = folder.read_result(file, dependencies(folder, dataset, evaluation_results(dataset), config.weights))
    except ValueError:  # the report shows the message
        return True
    return not stored.measured or (stored.is_measured_with(settings) and not stored.stale)


def _measure(
    folder: RunFolder,
    dataset: Dataset,
    config: EvaluateConfig,
    device: str,
    show_progress: bool | None,
    kept: KeptColumns,
) -> dict[str, Any]:
    """Return what `measure` returns for the model of a run."""
    model, title = load_noise_free(folder, device, config.weights), f"evaluate {folder.path.name}"
    bar = partial(ProgressBar, title, shown=show_progress)
    return measure(model, dataset, config, config.perturbations(dataset), bar, device=device, kept=kept)


def measure(
    model: Model,
    dataset: Dataset,
    config: EvaluateConfig,
    perturbations: Sequence[Perturbation],
    bar_of: Callable[..., ProgressBar],
    *,
    device: str | None = None,
    worst: bool = True,
    kept: KeptColumns | None = None,
) -> dict[str, Any]:
    """Measure a model under perturbations, JSON-ready: metrics, the worst cases over the attacks, confusion, examples.

    Args:
        model: Callable from inputs to logits or values, on `device`.
        dataset: Its test part is measured.
        config: Draws, limits and seed.
        perturbations: Clean inputs are measured too.
        bar_of: Makes a progress bar for a number of steps, of which `done` have been done.
        device: Device of the model.
        worst: Whether the worst cases over the attacks are computed.
        kept: Results of this model that are known, and where new ones are added.
    """
    test = first_sequences(dataset.test, config.test_limit)
    known = [None if kept is None else kept.find(perturbation) for perturbation in (None, *perturbations)]
    bar = bar_of(len(known), done=sum(result is not None for result in known))
    results: list[RobustnessResult] = []
    try:
        columns = measured_sequences(test, config, [None, *perturbations])
        for result, (perturbation, sequences, draws) in zip(known, columns, strict=True):
            if result is None:
                result = evaluate(
                    model,
                    sequences,
                    perturbation,
                    draws=draws,
                    seed=config.evaluation_seed,
                    device=device,
                    show_progress=False,
                    reference=test,
                )
                if kept is not None:
                    kept.add(result)
                bar.advance()
            results.append(result)
    finally:
        bar.close()
    by_strength = sorted(perturbations, key=lambda p: p.strength)
    strongest = {p.name: p for p in by_strength if not p.gradient_free}  # they would take as long as the results
    shown: list[dict[str, Any]] = []
    confusion: list[list[int]] | None = None
    if test.one_class_each:
        confusion = confusion_matrix(model, test, device=device)
        shown = examples(
            model,
            test,
            list(strongest.values()),
            indices=_example_indices(len(test)),
            seed=config.evaluation_seed,
            device=device,
        )
    checks = [check.to_dict() for check in gradient_checks(results)]
    written = [result.to_dict() for result in (*results, *(worst_cases(results) if worst else ()))]
    return {"columns": written, "gradient_checks": checks, "confusion": confusion, "examples": shown}


def _example_indices(count: int) -> list[int]:
    """Return the indices of a few sequences spread over the test set."""
    wanted = min(_EXAMPLES, count)
    return [count * k // wanted for k in range(wanted)]
