"""Perturbed inputs with the prediction of each model."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from noisyrnn.report.columns import Column
from noisyrnn.report.figures import colour, heatmap, trace
from noisyrnn.report.results import Example, Group, SeedResult


def gallery(groups: Sequence[Group], columns: Sequence[Column], *, count: int) -> list[dict[str, Any]]:
    """Return the pictures of the first `count` test sequences under every perturbation, and each label's predictions.

    The predictions of a label are those of its evaluated run with the lowest seed. If all labels have the same input,
    as under noise, its picture is shown once, above the predictions; an attack is computed for each model, so each has
    its own picture.
    """
    runs = [(i, group.evaluated[0]) for i, group in enumerate(groups) if group.evaluated]
    runs = [(i, run) for i, run in runs if run.examples]
    indices = list(dict.fromkeys(example.index for _, run in runs for example in run.examples))[:count]
    return [_entry(runs, index, columns) for index in indices]


def _entry(runs: Sequence[tuple[int, SeedResult]], index: int, columns: Sequence[Column]) -> dict[str, Any]:
    by_run = [
        (i, run, {example.column: example for example in run.examples if example.index == index}) for i, run in runs
    ]
    available = {column for _, _, examples in by_run for column in examples}
    columns = [column for column in columns if column in available]
    first = next(example for _, _, examples in by_run for example in examples.values())
    dataset = by_run[0][1].dataset
    label = _class_name(dataset.get("class_names"), first.label)
    shared = {column: len({ex[column].inputs for _, _, ex in by_run if column in ex}) == 1 for column in columns}
    head = []
    for column in columns:
        one = next(examples[column] for _, _, examples in by_run if column in examples)
        head.append({"title": column.title, "picture": _picture(one, dataset, label) if shared[column] else None})
    rows = [
        {
            "label": run.label,
            "seed": run.seed,
            "colour": colour(i),
            "answers": [_answer(examples.get(column), run.dataset, label, shared[column]) for column in columns],
        }
        for i, run, examples in by_run
    ]
    return {"index": index, "label": label, "head": head, "rows": rows}


def _answer(example: Example | None, dataset: Any, label: str, shared: bool) -> dict[str, Any] | None:
    if example is None:
        return None
    return {
        "prediction": _class_name(dataset.get("class_names"), example.prediction),
        "right": example.prediction == example.label,
        "confidence": f"{100 * example.confidence:.0f} %",
        "picture": None if shared else _picture(example, dataset, label),
    }


def _picture(example: Example, dataset: Any, label: str) -> dict[str, Any]:
    inputs = np.asarray(example.inputs, dtype=float)
    low, high = dataset.get("value_range") or _observed(dataset) or (float(inputs.min()), float(inputs.max()))
    shape = dataset.get("image_shape")
    alt = f"Test sequence {example.index}, class {label}, {example.column.title}"
    if shape and inputs.size == shape[0] * shape[1]:
        return {"image": heatmap(inputs.reshape(shape), value_range=(low, high)), "alt": alt}
    return {"lines": trace(inputs, value_range=(low, high)), "alt": alt}


def _observed(dataset: Any) -> tuple[float, float] | None:
    """Return the extremes of the training data over all channels, if they were recorded."""
    scale = dataset.get("scale")
    return (min(scale["low"]), max(scale["high"])) if scale else None


def _class_name(names: Sequence[str] | None, index: int) -> str:
    return str(names[index]) if names and 0 <= index < len(names) else str(index)
