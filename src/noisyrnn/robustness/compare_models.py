"""Measures models of any kind on the same perturbed sequences, side by side, with paired tests."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from noisyrnn.checks import check_text
from noisyrnn.data.dataset import Dataset
from noisyrnn.data.scale import Scale
from noisyrnn.data.split import Split
from noisyrnn.display import escape, html_table, markdown_table
from noisyrnn.robustness.base import Perturbation, check_perturbation
from noisyrnn.robustness.callables import as_callable, has_gradients
from noisyrnn.robustness.evaluate import RobustnessResult, evaluate
from noisyrnn.robustness.metrics import METRICS
from noisyrnn.robustness.square import Square
from noisyrnn.robustness.statistics import SEQUENCES, PairedTest, adjust, p_text, paired_test

NOT_ATTACKED = "not attacked: no gradients"


@dataclass(frozen=True, kw_only=True)
class ModelComparison:
    """Results of several models on the same perturbed sequences.

    Its `repr` and, in a notebook, its HTML form are the table that `to_markdown` returns.

    Args:
        results: By model, in order, and in it by perturbation; `None` where a model without gradients was not attacked.
        tests: Of every other model against the first, by model and perturbation: paired t tests of the main metric
            over sequences, model minus first, corrected by Holm's method for the number of all tests. They are for
            these trained models, not for other trainings of them.
    """

    results: Mapping[str, Mapping[str, RobustnessResult | None]]
    tests: Mapping[tuple[str, str], PairedTest]

    def to_markdown(self) -> str:
        """Return the table in GitHub's Markdown, with its notes."""
        head, rows = self._table()
        table = markdown_table([*map(escape, head)], [[escape(row[0]), *row[1:]] for row in rows], left=1)
        return "\n\n".join([table, *self._notes()]) + "\n"

    def __repr__(self) -> str:
        """Return the table, aligned for reading."""
        head, rows = self._table()
        widths = [max(len(line[k]) for line in (head, *rows)) for k in range(len(head))]
        lines = [
            "  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)) for line in (head, *rows)
        ]
        return "\n".join([*(line.rstrip() for line in lines), *self._notes()])

    def _repr_html_(self) -> str:
        """Return the table for notebooks."""
        head, rows = self._table()
        return html_table("ModelComparison", rows, head=head, notes=self._notes())

    @property
    def metric(self) -> str:
        """Name of the main metric."""
        return next(result.metric for found in self.results.values() for result in found.values() if result)

    def _table(self) -> tuple[list[str], list[list[str]]]:
        """Headings and rows: one row for each perturbation, one column for each model."""
        keys = list(next(iter(self.results.values())))
        return ["inputs", *self.results], [[key, *(self._cell(name, key) for name in self.results)] for key in keys]

    def _cell(self, name: str, key: str) -> str:
        """The main metric with its interval, and the p value against the first model."""
        result = self.results[name][key]
        if result is None:
            return NOT_ATTACKED
        test = self.tests.get((name, key))
        return result.main.text(result.metric) + ("" if test is None else f"; {p_text(test)}")

    def _notes(self) -> list[str]:
        """What the values, the intervals and the p values are."""
        first, *others = self.results
        notes = [f"{METRICS[self.metric].heading} with its 95 % interval over {SEQUENCES}."]
        if others:
            count = sum(not test.reason for test in self.tests.values()) or len(self.tests)
            notes.append(
                f"p: paired test against {first} over the same sequences, corrected for {count} "
                f"comparison{'s' if count > 1 else ''} by Holm's method."
            )
        return notes


def compare_models(
    models: Mapping[str, Any],
    data: Dataset | Split,
    perturbations: Sequence[Perturbation | None] | None = None,
    *,
    draws: int = 5,
    seed: int = 0,
    show_progress: bool | None = None,
) -> ModelComparison:
    """Measure models on the same clean and perturbed sequences, and test every model against the first.

    Args:
        models: By name: modules in eval mode or other callables, from inputs `(batch, steps, channels)` to logits or
            values; or fitted estimators with `predict_proba` or `predict` and scikit-learn's conventions. An estimator
            whose `n_features_in_` is steps × channels gets `(n, steps * channels)`, any other
            `(n, steps, channels)`, or `(n, channels, steps)` if its parameters have the `layout` "channels_first"; of
            one of this library its `sequence_model` is measured. Its classes must be the class indices of the data, or
            their names.
        data: A data set, of which the test part is used, or labelled sequences.
        perturbations: Perturbations and attacks; clean inputs are always measured. By default white noise, salt and
            pepper, FGSM and PGD at one strength each, a tenth (0.05 for FGSM, PGD and the share of values) of the
            range of values that the data state, or else of each channel's standard deviation: that of the training
            part, or of the given sequences.
        draws: Draws of noise, and starts of an attack.
        seed: Of the draws. Those of noise are the same for all models, the starts of attacks as in `evaluate`.
        show_progress: As for `evaluate`.

    Returns:
        Results and tests. Models without gradients are attacked by `Square` only.

    Raises:
        TypeError: If a model is neither callable nor an estimator, or an argument has a wrong type.
        ValueError: If there are no models, or the classes of an estimator are not those of the data.

    Example:
        >>> import torch
        >>> split = Split(inputs=torch.tensor([[[1.0]], [[-1.0]]] * 4), labels=torch.tensor([1, 0] * 4), classes=2)
        >>> def good(inputs):
        ...     return torch.cat([-inputs[:, 0], inputs[:, 0]], dim=1)
        >>> compare_models({"good": good, "bad": lambda inputs: -good(inputs)}, split, [])
        inputs  good                   bad
        clean   100.0 [66.6, 100.0] %  0.0 [0.0, 33.4] %; no spread
        Accuracy with its 95 % interval over test sequences, for these trained models.
        p: paired test against good over the same sequences, corrected for 1 comparison by Holm's method.
    """
    if not isinstance(models, Mapping):
        raise TypeError(f"models must map names to models, got {type(models).__name__}. Write {{'mine': model}}.")
    for name in models:
        check_text("name of a model", name)
    if not models:
        raise ValueError("models must hold at least one model, got none.")
    if not isinstance(perturbations, Sequence | None):
        raise TypeError(f"perturbations must be a list, got {perturbations!r}. Write [{perturbations!r}].")
    for index, perturbation in enumerate(perturbations or ()):
        if perturbation is not None:
            check_perturbation(f"perturbations[{index}]", perturbation)
    if not isinstance(data, Dataset | Split):
        raise TypeError(f"data must be a Dataset or a Split, got {type(data).__name__}.")
    split = data.test if isinstance(data, Dataset) else data
    names = data.class_names if isinstance(data, Dataset) else ()
    perturbations = _default_perturbations(data) if perturbations is None else perturbations
    keyed = _by_title([None, *(each for each in perturbations if each is not None)])
    callables = {name: as_callable(name, model, split, names) for name, model in models.items()}
    results: dict[str, dict[str, RobustnessResult | None]] = {}
    for name, model in callables.items():
        gradients = has_gradients(model, split)
        found: dict[str, RobustnessResult | None] = {}
        for key, perturbation in keyed.items():
            attack = perturbation is not None and perturbation.is_attack
            if attack and not gradients and not isinstance(perturbation, Square):
                found[key] = None
            else:
                found[key] = evaluate(model, split, perturbation, draws=draws, seed=seed, show_progress=show_progress)
        results[name] = found
    first, *others = results
    tests = {
        (name, key): replace(paired_test(other.main.sequences, base.main.sequences, unit="sequence"), covers=SEQUENCES)
        for name in others
        for key, other in results[name].items()
        if other is not None and (base := results[first][key]) is not None
    }
    return ModelComparison(results=results, tests=adjust(tests))


def _by_title(perturbations: Sequence[Perturbation | None]) -> dict[str, Perturbation | None]:
    """Perturbations by their titles in the table, as `RobustnessResult.title`; by `repr` where two have one title."""
    keyed: dict[str, Perturbation | None] = {}
    for perturbation in perturbations:
        title = "clean"
        if perturbation is not None:
            title = f"{perturbation.name} {perturbation.strength:g} {perturbation.unit}".strip()
        keyed[repr(perturbation) if title in keyed else title] = perturbation
    return keyed


def _default_perturbations(data: Dataset | Split) -> list[Perturbation]:
    """One strength of each of four perturbations, in the units of the data."""
    from noisyrnn.robustness import build_perturbation  # the registry, which the package builds of its modules

    value_range = data.value_range if isinstance(data, Dataset) else None
    width = 1.0 if value_range is None else value_range[1] - value_range[0]
    scale = None
    if value_range is None:
        scale = data.scale if isinstance(data, Dataset) else Scale.of(data)
    strengths = {"white_noise": 0.1 * width, "salt_and_pepper": 0.05, "fgsm": 0.05 * width, "pgd_linf": 0.05 * width}
    return [
        build_perturbation(name, strength, value_range=value_range, scale=scale) for name, strength in strengths.items()
    ]
