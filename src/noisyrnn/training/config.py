"""Settings that determine the outcome of a training run."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Literal, get_args

from noisyrnn.checks import check_choice, check_integer, check_number, check_text
from noisyrnn.data.options import ReadingOptions
from noisyrnn.kernels import cpp
from noisyrnn.kernels.recurrence import DRIFTS
from noisyrnn.models import MODELS, RecurrentLayer, build_layer, layer_options
from noisyrnn.models.exprnn import Rotation
from noisyrnn.models.missing import check_missing_setting
from noisyrnn.models.options import merge_options
from noisyrnn.training.seeding import seeded

Precision = Literal["32-true", "64-true", "bf16-mixed"]
Penalty = Literal["explicit", "hutchinson"]
Optimizer = Literal["adam", "adamw", "rmsprop"]
Selection = Literal["clean", "perturbed", "last", "refit", "auto"]
WITHOUT_VALIDATION: tuple[Selection, ...] = ("last", "refit")
"""Values of `select` that choose no epoch on validation data."""
NoiseSchedule = Literal["constant", "annealed"]
InputNoise = Literal["white_noise", "multiplicative_noise", "salt_and_pepper", "missing_values", "missing_blocks"]
Adversary = Literal["fgsm", "pgd_linf", "pgd_l2"]


class FrozenMapping(Mapping[str, Any]):
    """An immutable, hashable mapping.

    Args:
        values: Its content, which is copied.
    """

    def __init__(self, values: Mapping[str, Any]) -> None:
        self._values = dict(values)

    def __getitem__(self, name: str) -> Any:
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __hash__(self) -> int:
        return hash(frozenset((name, repr(value)) for name, value in self._values.items()))

    def __repr__(self) -> str:
        return repr(self._values)


def _json_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return a model's options as JSON holds them: a matrix as a list of lists.

    Raises:
        TypeError: If an activation or a diffusion is a function, which no file can hold.
    """
    plain = {name: value.tolist() if hasattr(value, "tolist") else value for name, value in options.items()}
    for name, wanted in (("activation", "a name"), ("diffusion", "a matrix")):
        if not isinstance(plain.get(name), str | list | tuple | None):
            advice = " Build the model yourself and call fit." if callable(plain[name]) else ""
            raise TypeError(f"{name} must be {wanted} in the settings of a run, got {plain[name]!r}.{advice}")
    return plain


def _plain(value: Any) -> Any:
    """Return NumPy's kinds of `float` and `str` as these, which is what the reader of a checkpoint accepts."""
    return value.tolist() if isinstance(value, float | str) and hasattr(value, "tolist") else value


@dataclass(frozen=True, kw_only=True)
class TrainConfig(ReadingOptions):
    """Settings of one training run.

    Configuration files, `config.json` and the command line write an option of the model next to the other settings
    (`additive: 0.1`, `--additive 0.1`); `from_dict` and `to_dict` convert between that form and this class. The options
    of `ReadingOptions`, which say how a user's own file is read, are settings too.

    Args:
        model: Model to train; `noisyrnn list` shows all.
        dataset: Name of a data set, or path of your own file (.csv, .tsv, .txt, .npz, .npy, .arff, .ts, .parquet or
            .xlsx) or folder of recordings.
        values_per_step: Number of consecutive values of an image that form one step, at least 1.
        label: Name of the run in tables (default: the model's name).
        seed: Seed of the initial weights, the order of the data and the noise, in [0, 2⁶³).
        hidden_size: Number of hidden units, at least 1.
        epochs: Number of passes over the training data, at least 1.
        min_steps: Train for more epochs where this takes fewer optimizer steps than these, at least 1 (default: never).
        batch_size: Sequences per optimizer step, over all processes, at least 1.
        optimizer: "adam", "adamw" (its weight decay does not pass through the gradient) or "rmsprop".
        learning_rate: Learning rate of the optimizer, above 0.
        orthogonal_rate: Factor of the learning rate for the orthogonal matrix of the exponential RNN, above 0; its
            authors use 0.1.
        decay_epochs: Multiply the learning rate by decay_factor after each of these epochs (default: never).
        decay_after: Multiply the learning rate by decay_factor after this share of the epochs, above 0, at most 1, in
            place of decay_epochs (default: never).
        decay_factor: Factor of the learning rate at each decay, above 0, at most 1.
        weight_decay: Weight decay of the optimizer, at least 0.
        clip_norm: Clip the gradient to this norm, above 0 (default: no clipping).
        patience: Stop if validation accuracy, or the loss of a regression, has not improved for this many epochs
            (default: never).
        select: Epoch whose weights are kept: "clean", the best on the validation data; "perturbed", the best by the
            mean over these and their copies under white noise at the default strengths of the data; "last"; "refit",
            the last after training on the validation data too, so that none are left to choose by; or "auto", which is
            "refit" where there are fewer than 30 validation sequences and no patience, and "clean" elsewhere.
        ema: Decay of an exponential moving average of the weights, above 0 and below 1. The average is validated and
            saved (default: the weights themselves are).
        input_noise: Strength of the noise that training adds to its inputs, at least 0, in the units of `evaluate`; or
            a pair of strengths, between which each sequence has its own.
        input_noise_kind: "white_noise", "multiplicative_noise", "salt_and_pepper", "missing_values" or
            "missing_blocks"; the strength of the last three is a probability.
        noise_schedule: "constant", or "annealed" for hidden and input noise in proportion to the learning rate.
        adversarial: Attack on the inputs of each training step: "fgsm", "pgd_linf" or "pgd_l2" (default: none).
        adversarial_radius: Radius of that attack, above 0, in the units of `evaluate`.
        adversarial_steps: Gradient steps of a PGD attack, at least 1.
        precision: Floating-point precision: "32-true", "64-true" or "bf16-mixed".
        penalty: Train without noise and add the regulariser of the noise to the loss: "explicit" (exact, for the
            models noisy, lipschitz, antisymmetric, rate and rnn only) or "hutchinson" (estimated with one random
            tangent per training step) (default: train with noise). It needs one class for each sequence, a model of
            one cell (one layer, one direction), Gaussian noise and another scheme than "stochastic-heun"; and `fit`
            needs an `objective` for it, as `noisyrnn.pipeline.objective_of` makes one.
        options: Options of the model by name, such as `{"additive": 0.1}`; the model's class describes them. Options
            left out take the model's defaults, so the config always holds all of them.

    Raises:
        ValueError: If a value is out of range, or the model has no such option.
        TypeError: If a value has the wrong type.
    """

    model: str = "noisy"
    dataset: str = "digits"
    values_per_step: int = 1
    label: str | None = None
    seed: int = 1
    hidden_size: int = 128
    epochs: int = 100
    min_steps: int | None = None
    batch_size: int = 128
    optimizer: Optimizer = "adam"
    learning_rate: float = 0.001
    orthogonal_rate: float = 1.0
    decay_epochs: tuple[int, ...] = ()
    decay_after: float | None = None
    decay_factor: float = 0.1
    weight_decay: float = 0.0
    clip_norm: float | None = None
    patience: int | None = None
    select: Selection = "clean"
    ema: float | None = None
    input_noise: float | tuple[float, float] = 0.0
    input_noise_kind: InputNoise = "white_noise"
    noise_schedule: NoiseSchedule = "constant"
    adversarial: Adversary | None = None
    adversarial_radius: float = 0.05
    adversarial_steps: int = 7
    precision: Precision = "32-true"
    penalty: Penalty | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for entry in fields(self):
            object.__setattr__(self, entry.name, _plain(getattr(self, entry.name)))
        super().__post_init__()
        check_choice("model", self.model, MODELS)
        check_text("dataset", self.dataset)
        check_integer("values_per_step", self.values_per_step, minimum=1)
        if self.label is not None:
            check_text("label", self.label)
        check_integer("seed", self.seed, minimum=0)
        if self.seed >= 2**63:
            raise ValueError(f"seed must be less than 2**63, got {self.seed}.")
        check_integer("hidden_size", self.hidden_size, minimum=1)
        for name in ("epochs", "batch_size"):
            check_integer(name, getattr(self, name), minimum=1)
        if self.min_steps is not None:
            check_integer("min_steps", self.min_steps, minimum=1)
        check_choice("optimizer", self.optimizer, get_args(Optimizer))
        check_number("learning_rate", self.learning_rate, above=0.0)
        check_number("orthogonal_rate", self.orthogonal_rate, above=0.0)
        if isinstance(self.decay_epochs, str) or not isinstance(self.decay_epochs, Sequence):
            raise TypeError(f"decay_epochs must be a list of integers, got {self.decay_epochs!r}. Write (30, 60).")
        object.__setattr__(self, "decay_epochs", tuple(self.decay_epochs))
        for epoch in self.decay_epochs:
            check_integer("decay_epochs", epoch, minimum=1)
        if self.decay_after is not None:
            check_number("decay_after", self.decay_after, above=0.0)
            check_number("decay_after", self.decay_after, maximum=1.0)
            if self.decay_epochs:
                raise ValueError(f"decay_after must be None with decay_epochs, got {self.decay_after:g}.")
        check_number("decay_factor", self.decay_factor, above=0.0)
        check_number("decay_factor", self.decay_factor, maximum=1.0)
        check_number("weight_decay", self.weight_decay, minimum=0.0)
        if self.clip_norm is not None:
            check_number("clip_norm", self.clip_norm, above=0.0)
        if self.patience is not None:
            check_integer("patience", self.patience, minimum=1)
        self._check_training()
        check_choice("precision", self.precision, get_args(Precision))
        if not isinstance(self.options, Mapping):
            raise TypeError(f"options must map names to values, got {self.options!r}. Write {{'additive': 0.1}}.")
        defaults = layer_options(self.model)
        for name in self.options:
            check_choice(f"option of model {self.model!r}", name, defaults)
        object.__setattr__(self, "options", FrozenMapping(merge_options(defaults, _json_options(self.options))))
        with seeded(0):  # a wrong value fails here, not after the data are read
            units = 1 if self.options["diffusion"] is None else self.hidden_size
            layer = build_layer(self.model, 1, units, self.options)
            check_missing_setting(
                self.missing, every_step=False, supports_dt=layer.supports_dt, name=f"model {self.model!r}"
            )
            if self.orthogonal_rate != 1 and not any(isinstance(module, Rotation) for module in layer.modules()):
                raise ValueError(
                    f"orthogonal_rate must be 1 for model {self.model!r}, which has no orthogonal matrix, got "
                    f"{self.orthogonal_rate:g}."
                )
            if self.penalty is not None:
                self._check_penalty(layer)

    def _check_training(self) -> None:
        """Raise unless the settings of the inputs, the averages and the epoch that is kept are fine."""
        check_choice("select", self.select, get_args(Selection))
        if self.select in WITHOUT_VALIDATION and self.patience is not None:
            raise ValueError(f"patience must be None where select is {self.select!r}, got {self.patience}.")
        if self.ema is not None:
            check_number("ema", self.ema, above=0.0)
            if self.ema >= 1:
                raise ValueError(f"ema must be less than 1, got {self.ema:g}.")
        if not isinstance(self.input_noise, Sequence) or isinstance(self.input_noise, str):
            check_number("input_noise", self.input_noise, minimum=0.0)
        else:
            if len(self.input_noise) != 2:
                raise ValueError(f"input_noise must be one number or two, got {list(self.input_noise)}.")
            object.__setattr__(self, "input_noise", tuple(_plain(one) for one in self.input_noise))
            low, high = self.input_noise
            check_number("input_noise", low, minimum=0.0)
            check_number("input_noise", high, minimum=low)
        check_choice("input_noise_kind", self.input_noise_kind, get_args(InputNoise))
        if self.input_noise_kind in ("salt_and_pepper", "missing_values", "missing_blocks"):
            check_number("input_noise", self.input_noise_range[1], maximum=1.0)
        check_choice("noise_schedule", self.noise_schedule, get_args(NoiseSchedule))
        if self.adversarial is not None:
            check_choice("adversarial", self.adversarial, get_args(Adversary))
        check_number("adversarial_radius", self.adversarial_radius, above=0.0)
        check_integer("adversarial_steps", self.adversarial_steps, minimum=1)

    @property
    def reading(self) -> ReadingOptions:
        """How the user's own file is read."""
        return ReadingOptions.of(self)

    @property
    def input_noise_range(self) -> tuple[float, float]:
        """Smallest and largest strength of the noise on the inputs."""
        noise = self.input_noise
        return noise if isinstance(noise, tuple) else (float(noise), float(noise))

    def _check_penalty(self, layer: RecurrentLayer) -> None:
        """Raise unless `layer` has a noise whose regulariser there is."""
        check_choice("penalty", self.penalty, get_args(Penalty))
        if len(layer.cells) > 1:
            raise ValueError(f"penalty must be None for a model of {len(layer.cells)} cells, got {self.penalty!r}.")
        noise, recurrence = layer.hidden_noise, layer.cell.recurrence()
        if noise.silent:
            raise ValueError(f"penalty must be None for a model without noise, got {self.penalty!r}. Set additive.")
        if noise.law == "uniform":
            raise ValueError(f"penalty must be None with noise_law 'uniform', got {self.penalty!r}.")
        if layer.scheme == "stochastic-heun":
            raise ValueError(f"penalty must be None with scheme 'stochastic-heun', got {self.penalty!r}.")
        if self.penalty == "explicit" and (recurrence is None or recurrence.kind not in DRIFTS):
            raise ValueError(
                f"penalty must be 'hutchinson' for model {self.model!r}, got 'explicit', which is for noisy, "
                "lipschitz, antisymmetric, rate and rnn only."
            )

    @property
    def shown_label(self) -> str:
        """The label, or the model's name."""
        return self.label or self.model

    @classmethod
    def setting_names(cls) -> list[str]:
        """Names that `from_dict` takes: those of this class, and the options of all models."""
        names = [entry.name for entry in fields(cls) if entry.name != "options"]
        return list(dict.fromkeys([*names, *(name for model in MODELS for name in layer_options(model))]))

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "TrainConfig":
        """Settings from a dictionary that holds the model's options next to the others, as files do.

        Raises:
            ValueError: If a key is not a setting, or the model has no such option.
        """
        for name in values:
            check_choice("setting", name, cls.setting_names())
        own = {entry.name for entry in fields(cls)}
        options = {name: value for name, value in values.items() if name not in own}
        return cls(**{name: value for name, value in values.items() if name in own}, options=options)

    def to_dict(self) -> dict[str, Any]:
        """Every setting, with the model's options next to the others, as JSON holds them."""
        values = {entry.name: getattr(self, entry.name) for entry in fields(self) if entry.name != "options"}
        plain = {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}
        return {**plain, **self.options}

    def identity(self) -> dict[str, Any]:
        """The label, and the settings that differ from their defaults: what decides the name of a run folder.

        A setting that a later version adds, with a default, changes no identity.
        """
        defaults = TrainConfig(model=self.model).to_dict() | {"model": TrainConfig.model}
        different = {name: value for name, value in self.to_dict().items() if value != defaults[name]}
        return {**different, "label": self.shown_label}


def check_precision(precision: str, device: str) -> None:
    """Raise `ValueError` unless a device of this type ("cpu" or "cuda") computes in a precision."""
    reason = cpp.no_bf16() if precision == "bf16-mixed" and device == "cpu" else None
    if reason is not None:
        raise ValueError(f"precision must be '32-true' on this processor, got 'bf16-mixed': {reason}.")
