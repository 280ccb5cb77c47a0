"""Perturbed inputs as the models saw them, with what each one said."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from noisyrnn.report.columns import Column
from noisyrnn.report.figures import colour, heatmap, trace
from noisyrnn.report.results import Example, Group, SeedResult


def gallery(groups: Sequence[Group], columns: Sequence[Column], *, count: int) -> list[dict[str, Any]]:
    """For each of the first `count` test sequences: its picture under every perturbation and each label's answer.

    Each label answers through its evaluated run of the lowest seed. Where all labels saw the same input, as under
    noise, it is pictured once, above their answers; an attack is made against one model, so each has its own picture.
    """
    speakers = [(i, group.evaluated[0]) for i, group in enumerate(groups) if group.evaluated]
    speakers = [(i, run) for i, run in speakers if run.examples]
    indices = list(dict.fromkeys(example.index for _, run in speakers for example in run.examples))[:count]
    return [_entry(speakers, index, columns) for index in indices]


def _entry(speakers: Sequence[tuple[int, SeedResult]], index: int, columns: Sequence[Column]) -> dict[str, Any]:
    shown = [
        (i, run, {example.column: example for example in run.examples if example.index == index}) for i, run in speakers
    ]
    found = {column for _, _, examples in shown for column in examples}
    columns = [column for column in columns if column in found]
    first = next(example for _, _, examples in shown for example in examples.values())
    dataset = shown[0][1].dataset
    label = _class_name(dataset.get("class_names"), first.label)
    shared = {column: len({ex[column].inputs for _, _, ex in shown if column in ex}) == 1 for column in columns}
    head = []
    for column in columns:
        one = next(examples[column] for _, _, examples in shown if column in examples)
        head.append({"title": column.title, "picture": _picture(one, dataset, label) if shared[column] else None})
    rows = [
        {
            "label": run.label,
            "seed": run.seed,
            "colour": colour(i),
            "answers": [_answer(examples.get(column), run.dataset, label, shared[column]) for column in columns],
        }
        for i, run, examples in shown
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
    """Extremes of the training data over all channels, where they were recorded."""
    scale = dataset.get("scale")
    return (min(scale["low"]), max(scale["high"])) if scale else None


def _class_name(names: Sequence[str] | None, index: int) -> str:
    return str(names[index]) if names and 0 <= index < len(names) else str(index)
