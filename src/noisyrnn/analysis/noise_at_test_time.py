"""Accuracy or error of a model against the level of its own hidden noise at test time."""

from collections.abc import Mapping, Sequence
from functools import partial

import torch
from torch import Tensor

from noisyrnn.checks import check_integer, check_number
from noisyrnn.data.split import Split, check_regular, check_split
from noisyrnn.models import Head
from noisyrnn.models.layer import shared_view
from noisyrnn.noise.brownian import BrownianPath, derive_seed
from noisyrnn.robustness.base import Perturbation, check_perturbation
from noisyrnn.robustness.evaluate import BLOCK, Score, draw_generator, rows_on
from noisyrnn.robustness.logits import check_model, predict
from noisyrnn.robustness.metrics import Scorer


@torch.no_grad()
def scores_with_noise(
    model: Head,
    split: Split,
    *,
    levels: Sequence[float],
    perturbation: Perturbation | None = None,
    draws: int = 10,
    seed: int = 0,
    device: torch.device | str | None = None,
) -> list[Mapping[str, Score]]:
    """Measure a model whose hidden noise stays on at test time, at several multiples of its training level.

    All levels use the same random numbers, so their differences vary less than their values. Noise outside the
    activation is best switched off at test time; noise inside may be best left at its training level.

    Args:
        model: In eval mode, already on `device`; its layer's `noise_mode` and `noise_scale` have no effect and are left
            unchanged.
        split: Sequences and their labels.
        levels: Factors of all levels of the layer's own noise, at least 0.
        perturbation: Noise or a fault of the inputs as well, drawn as `evaluate` draws it for this seed; no attack.
        draws: Draws of the noise, at least 1; a level of 0 with inputs that are not random takes one.
        seed: Seed of the noise, at least 0.
        device: Device to move the sequences to; `None` leaves them.

    Returns:
        For each level the scores by name of the metric (see `METRICS`): means over draws, intervals over sequences.

    Raises:
        ValueError: If the layer has no noise, the model is in training mode, a number is out of range, or the
            perturbation is an attack.

    Reference:
        Eckstein and Srinivasan, arXiv:2601.04539.
    """
    check_model(model)
    check_split("split", split)
    check_regular("split", split)
    check_integer("draws", draws, minimum=1)
    check_integer("seed", seed, minimum=0)
    if len(levels) == 0:
        raise ValueError("levels must hold at least one number, got none. Write [0.0, 1.0, 2.0].")
    for index, level in enumerate(levels):
        check_number(f"levels[{index}]", level, minimum=0.0)
    if perturbation is not None:
        check_perturbation("perturbation", perturbation)
        if perturbation.is_attack:
            raise ValueError(f"perturbation must not be an attack, got {perturbation!r}. Attack without hidden noise.")
    random = perturbation is not None and perturbation.random and perturbation.strength > 0
    if model.layer.hidden_noise.silent:
        raise ValueError("model must be trained with hidden noise for its level at test time, got none. Set additive.")
    layer, view = shared_view(model.layer), shared_view(model)
    layer.noise_mode = "on"
    view.__dict__["_modules"] = {**model._modules, "layer": layer}
    scorer = Scorer(split)
    results: list[Mapping[str, Score]] = []
    for level in levels:
        layer.noise_scale = float(level)
        values = [
            _values(view, split, scorer, perturbation, seed, draw, device)
            for draw in range(draws if level > 0 or random else 1)
        ]
        each = zip(scorer.metrics, torch.stack(values, dim=1), strict=True)
        results.append({name: Score.of(name, value, scorer.guess[name]) for name, value in each})
    return results


def _values(
    model: Head,
    split: Split,
    scorer: Scorer,
    perturbation: Perturbation | None,
    seed: int,
    draw: int,
    device: torch.device | str | None,
) -> Tensor:
    """Return the value of each metric for each sequence in one draw of the noise, `(metrics, sequences)`."""
    found = []
    for block, rows in enumerate(torch.arange(len(split), device="cpu").split(BLOCK)):
        inputs, labels, lengths, _ = rows_on(device, split, rows)
        path = BrownianPath(seed=derive_seed(seed, "test-time noise", draw), first_row=int(rows[0]))
        noisy = partial(model, path=path)
        if perturbation is not None:
            generator = draw_generator(seed, draw, block)
            inputs = perturbation(noisy, inputs, labels, generator=generator, lengths=lengths)
        answers = predict(noisy, inputs, labels, lengths)
        found.append(scorer(answers, labels))
    return torch.cat(found, dim=1)
