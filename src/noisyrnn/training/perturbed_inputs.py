"""What training does to its inputs: noise of a fixed or random strength, and attacks."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from noisyrnn.data.dataset import Dataset
from noisyrnn.data.split import Split
from noisyrnn.noise.brownian import derive_seed
from noisyrnn.robustness import PGD, Noise, PathDraws, Perturbation, build_perturbation, default_strengths
from noisyrnn.robustness.logits import with_dt
from noisyrnn.training.config import TrainConfig

SELECTION_NOISE = "white_noise"
"""The noise on the validation data by which an epoch is chosen."""


class PerturbedInputs:
    """Perturbs the inputs of training steps: noise first, then an attack on what it leaves.

    Both depend only on the seed, the step and the row in the batch, and so are the same after a resumption.

    Args:
        config: Kinds and strengths, and the seed.
        dataset: Its range of values, or the scale of its channels, is the unit of the strengths.
    """

    def __init__(self, config: TrainConfig, dataset: Dataset) -> None:
        self.config = config
        low, high = config.input_noise_range
        self._noise: Noise | None = None
        self._attack: Perturbation | None = None
        if high > 0:
            self._noise = _noise(config.input_noise_kind, high, dataset)
        self._strengths = (low, high)
        if config.adversarial is not None:
            attack = _built(config.adversarial, config.adversarial_radius, dataset)
            self._attack = replace(attack, steps=config.adversarial_steps) if isinstance(attack, PGD) else attack

    def __call__(
        self,
        model: nn.Module,
        inputs: Tensor,
        labels: Tensor,
        lengths: Tensor | None,
        dt: Tensor | None = None,
        *,
        place: tuple[int, int],
        noise_factor: float = 1.0,
        freeze: bool = False,
    ) -> Tensor:
        """Return the inputs of a step, perturbed.

        Args:
            model: What is attacked, with its noise off.
            inputs: `(batch, steps, input_size)`.
            labels: As a `Split` holds them.
            lengths: Valid steps of each sequence, or `None`.
            dt: Lengths of the steps, or `None`.
            place: Steps of the optimizer done before, and number of the first sequence within the whole batch.
            noise_factor: Factor of the strength of the noise.
            freeze: Whether the weights may stop requiring gradients meanwhile, which saves a third of the work.
        """
        seed, (step, first_row) = self.config.seed, place
        if self._noise is not None:
            draws = PathDraws(derive_seed(seed, "input noise", step), first_row)
            low, high = (noise_factor * strength for strength in self._strengths)
            shares = draws.uniform(inputs[:, :1, :1])[:, 0, 0]  # drawn always, so that a range has the noise of a level
            strengths = low + (high - low) * shares
            inputs = self._noise.with_strengths(inputs, strengths, generator=draws, lengths=lengths, model=model)
        if self._attack is not None:
            draws = PathDraws(derive_seed(seed, "attack", step), first_row)
            with _attacked(model, freeze):
                timed = with_dt(model, dt)
                inputs = self._attack.apply(timed, inputs, labels, generator=draws, lengths=lengths)
        return inputs


def selection_inputs(split: Split, dataset: Dataset) -> list[Split]:
    """Return a split under white noise at the data set's default strengths: what "perturbed" chooses an epoch by.

    The noise is the same for all models, seeds and epochs.
    """
    found, split = [], split.in_memory()
    assert isinstance(split.inputs, Tensor)
    for number, strength in enumerate(default_strengths(dataset.value_range)[SELECTION_NOISE]):
        noise = _noise(SELECTION_NOISE, strength, dataset)
        draws = PathDraws(derive_seed("selection", number))
        strengths = split.inputs.new_full((len(split),), strength)
        inputs = noise.with_strengths(split.inputs, strengths, generator=draws, lengths=split.lengths)
        found.append(replace(split, inputs=inputs))
    return found


def _built(name: str, strength: float, dataset: Dataset) -> Perturbation:
    """Return a perturbation in the data set's units."""
    return build_perturbation(name, strength, value_range=dataset.value_range, scale=dataset.scale)


def _noise(name: str, strength: float, dataset: Dataset) -> Noise:
    """As `_built`, of a kind that knows no model."""
    noise = _built(name, strength, dataset)
    assert isinstance(noise, Noise)
    return noise


@contextmanager
def _attacked(model: nn.Module, freeze: bool) -> Iterator[None]:
    """Have the model in evaluation mode without noise, its weights fixed where they may be."""
    training = model.training
    noisy: list[Any] = [module for module in model.modules() if getattr(module, "noise_mode", None) == "on"]
    for module in noisy:
        module.noise_mode = "off"
    fixed = [parameter for parameter in model.parameters() if parameter.requires_grad and freeze]
    model.eval()
    for parameter in fixed:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for module in noisy:
            module.noise_mode = "on"
        for parameter in fixed:
            parameter.requires_grad_(True)
        model.train(training)
