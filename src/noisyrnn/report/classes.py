"""Recall of each class, balanced accuracy and confusion matrices on clean test sequences."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from noisyrnn.report.figures import colour
from noisyrnn.report.results import Group, SeedResult
from noisyrnn.report.table import PERCENT, Quantity, Table, Value, build_table

MOST_CLASSES = 30
"""Confusion matrices with more classes are left out of the page."""


def recall_table(groups: Sequence[Group]) -> Table:
    """Return the balanced accuracy, the mean of the recalls, and the recall of each class; no rows if not counted."""
    names = _class_names(groups)
    values: dict[Quantity, dict[str, dict[int, Value]]] = {}
    for group in groups:
        for result in group.evaluated:
            if result.confusion is None:
                continue
            recalls = _recalls(result)
            entries = {"balanced accuracy": float(np.nanmean(recalls))}
            entries |= {f"recall of {name}": float(recall) for name, recall in zip(names, recalls, strict=True)}
            for title, value in entries.items():
                quantity = Quantity(
                    name=title, group="recall", kind="estimate", unit=PERCENT, title=title, better="higher"
                )
                values.setdefault(quantity, {}).setdefault(group.label, {})[result.seed] = Value(value=value)
    return build_table(values, [group.label for group in groups], ranked=False)


def _class_names(groups: Sequence[Group]) -> list[str]:
    """Return the names of the classes, in their order."""
    for group in groups:
        for result in group.evaluated:
            if result.confusion is not None:
                names = list(map(str, result.dataset.get("class_names") or ()))
                return names if len(names) == len(result.confusion) else [str(i) for i in range(len(result.confusion))]
    return []


def _recalls(result: SeedResult) -> np.ndarray:
    """Return the share of the sequences of each class that is called by its name; `nan` for a class without any."""
    counts = np.array(result.confusion, dtype=float)
    with np.errstate(invalid="ignore"):
        recalls: np.ndarray = np.diag(counts) / counts.sum(axis=1)
    return recalls


def confusion_views(groups: Sequence[Group]) -> list[dict[str, Any]]:
    """Return the confusion matrix of each label for the template: counts over all seeds, and shares of their rows."""
    names, views = _class_names(groups), []
    if not names or len(names) > MOST_CLASSES:
        return []
    for position, group in enumerate(groups):
        counted = [np.array(result.confusion) for result in group.evaluated if result.confusion is not None]
        if not counted:
            continue
        counts = np.sum(counted, axis=0)
        totals = np.maximum(counts.sum(axis=1, keepdims=True), 1)
        rows = [
            {
                "name": name,
                "cells": [
                    {"count": int(count), "share": round(float(share), 3), "right": i == j}
                    for j, (count, share) in enumerate(zip(counts[i], counts[i] / totals[i], strict=True))
                ],
            }
            for i, name in enumerate(names)
        ]
        views.append({"label": group.label, "colour": colour(position), "names": names, "rows": rows})
    return views
