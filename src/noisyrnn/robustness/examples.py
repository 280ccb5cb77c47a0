"""A few perturbed sequences with a model's answers, for the report."""

from collections.abc import Sequence
from typing import Any

import torch

from noisyrnn.checks import check_device
from noisyrnn.data.split import Split, check_split
from noisyrnn.missing import hold_last_or_next
from noisyrnn.robustness.base import Perturbation, check_perturbation
from noisyrnn.robustness.evaluate import draw_generator
from noisyrnn.robustness.logits import Model, adapt, check_model, check_rows, predict, take_rows


def examples(
    model: Model,
    split: Split,
    perturbations: Sequence[Perturbation],
    *,
    indices: Sequence[int],
    seed: int = 0,
    device: torch.device | str | None = None,
) -> list[dict[str, Any]]:
    """Return perturbed sequences with the model's answers: the clean ones first, then each perturbation in order.

    Random perturbations use one draw, a function of `seed` and of the place in `indices`, the same for every model.

    Args:
        model: Callable from inputs to logits, already on `device`; a module must be in eval mode.
        split: The sequences.
        perturbations: Perturbations to apply, each by itself.
        indices: Indices of the sequences to use, in `[0, len(split))`.
        seed: `>= 0`.
        device: Device to move the sequences to; `None` leaves them.

    Returns:
        JSON-ready records: perturbation (or `"clean"`), strength (`None` for clean) and its unit, index, label,
        prediction, confidence (the probability of the prediction) and inputs, valid steps × channels, to four digits;
        in place of a missing value the last one of its channel.

    Raises:
        ValueError: If an index is out of range, there is none, the sequences do not have one class each, or the model
            is in training mode.
    """
    check_model(model)
    check_split("split", split)
    check_rows(model, len(split))
    if not split.classes or split.every_step:
        raise ValueError(f"split must have one class for each sequence, got labels {tuple(split.labels.shape)}.")
    check_device("device", device)
    for place, value in enumerate(perturbations):
        check_perturbation(f"perturbations[{place}]", value)
    if len(indices) == 0:
        raise ValueError("indices must hold at least one index, got 0.")
    for index in indices:
        if not 0 <= index < len(split):
            raise ValueError(f"indices must lie in [0, {len(split) - 1}], got {index}.")
    chosen = torch.tensor(list(indices), dtype=torch.int64, device="cpu")
    subset = split.subset(chosen)
    inputs, labels = subset.inputs[:].to(device), subset.labels.to(device)
    lengths, dt = (None if each is None else each.to(device) for each in (subset.lengths, subset.dt))
    model = adapt(take_rows(model, chosen), dt=dt, missing=split.missing is not None)
    records: list[dict[str, Any]] = []
    for perturbation in (None, *perturbations):
        changed = inputs
        if perturbation is not None:
            generator = draw_generator(seed, 0, 0)
            changed = perturbation(model, inputs, labels, generator=generator, lengths=lengths)
        with torch.no_grad():
            probabilities = predict(model, changed, labels, lengths).double().softmax(dim=1)
        confidences, predictions = probabilities.max(dim=1)
        for row, index in enumerate(indices):
            steps = inputs.shape[1] if lengths is None else int(lengths[row])
            values = hold_last_or_next(changed[row, None, :steps].double())[0].tolist()
            records.append(
                {
                    "perturbation": "clean" if perturbation is None else perturbation.name,
                    "strength": None if perturbation is None else float(perturbation.strength),
                    "unit": "" if perturbation is None else perturbation.unit,
                    "index": int(index),
                    "label": int(labels[row]),
                    "prediction": int(predictions[row]),
                    "confidence": float(confidences[row]),
                    "inputs": [[round(value, 4) for value in step] for step in values],
                }
            )
    return records
