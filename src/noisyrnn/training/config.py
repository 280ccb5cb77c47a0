"""Everything that decides the outcome of a training run."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal, get_args

from noisyrnn.checks import check_choice, check_integer, check_number, check_text
from noisyrnn.data.user_files import check_reading
from noisyrnn.models import MODELS, RecurrentLayer, build_layer, layer_options
from noisyrnn.training.seeding import seeded

Precision = Literal["32-true", "64-true", "bf16-mixed"]
Penalty = Literal["explicit", "hutchinson"]


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Settings of one training run. An option of the model left at `None` takes the model's own default.

    Args:
        model: Which network; see `noisyrnn list`.
        dataset: Name of a data set, or path of your own .npz, .csv or .ts file.
        values_per_step: Consecutive values of an image taken as one step, at least 1.
        label_column: Column of the class in a .csv file: its name in the header, or its number, from 1, or from -1 at
            the end of each line; by default the column called class, label, target or y, else the first.
        layout: Of X in a .npz file: "channels-last", (n, steps, channels), which is the default; or "time-last",
            (n, channels, steps).
        label: Name of the run in tables; the model's name by default.
        seed: Decides the initial weights, the order of the data and the noise; in [0, 2⁶³).
        hidden_size: Hidden units, at least 1.
        epochs: Passes over the training data, at least 1.
        batch_size: Sequences of one step of the optimiser, over all processes, at least 1.
        learning_rate: Of Adam, above 0.
        decay_epochs: After each of these epochs the learning rate is multiplied by decay_factor.
        decay_factor: Above 0, at most 1.
        weight_decay: Of Adam, at least 0.
        clip_norm: Largest norm of the gradient, above 0; no limit by default.
        patience: Stop if validation accuracy has not improved for this many epochs; never by default.
        precision: "32-true", "64-true" or "bf16-mixed".
        penalty: Train without noise and add the noise's own regulariser to the loss: "explicit" (exact, for the noisy
            family) or "hutchinson" (one random tangent a step, for any model); by default train with the noise.
        step_size: Step of the discretisation.
        learn_step: Whether the step is trained, one value a unit.
        skew_symmetry: β of the recurrent matrices, in [0.5, 1].
        damping: γ of the recurrent matrices, at least 0.
        skew_symmetry_w: β of the matrix within the activation, where it differs from that of the linear one.
        damping_w: γ of the matrix within the activation, where it differs from that of the linear one.
        init_std: Scale of the initial recurrent matrices.
        additive: Level of the additive hidden noise.
        multiplicative: Level of the multiplicative hidden noise.
        noise_level: ε with noise units "per_time".
        noise_units: "per_step" or "per_time".
        noise_form: "independent" or "shared".
        noise_law: "gaussian" or "uniform".
        stiffness: γ of the coRNN.
        friction: ϵ of the coRNN.
        recurrent_init: "cayley" or "henaff", of the exponential RNN.
        recurrent_base: "identity" or "initial", of the exponential RNN.
        num_layers: Recurrent layers, one above another.
        bidirectional: Whether each layer also reads backwards.
        dropout: Probability with which an output between two layers is dropped in training, in [0, 1).

    Raises:
        ValueError: If a value is out of range, or the model has no such option.
        TypeError: If a value has the wrong type.
    """

    model: str = "noisy"
    dataset: str = "digits"
    values_per_step: int = 1
    label_column: str | int | None = None
    layout: str | None = None
    label: str | None = None
    seed: int = 1
    hidden_size: int = 128
    epochs: int = 100
    batch_size: int = 128
    learning_rate: float = 0.001
    decay_epochs: tuple[int, ...] = ()
    decay_factor: float = 0.1
    weight_decay: float = 0.0
    clip_norm: float | None = None
    patience: int | None = None
    precision: Precision = "32-true"
    penalty: Penalty | None = None
    step_size: float | None = None
    learn_step: bool | None = None
    skew_symmetry: float | None = None
    damping: float | None = None
    skew_symmetry_w: float | None = None
    damping_w: float | None = None
    init_std: float | None = None
    additive: float | None = None
    multiplicative: float | None = None
    noise_level: float | None = None
    noise_units: str | None = None
    noise_form: str | None = None
    noise_law: str | None = None
    stiffness: float | None = None
    friction: float | None = None
    recurrent_init: str | None = None
    recurrent_base: str | None = None
    num_layers: int | None = None
    bidirectional: bool | None = None
    dropout: float | None = None

    def __post_init__(self) -> None:
        check_choice("model", self.model, MODELS)
        check_text("dataset", self.dataset)
        check_integer("values_per_step", self.values_per_step, minimum=1)
        object.__setattr__(self, "label_column", check_reading(self.label_column, self.layout))
        if self.label is not None:
            check_text("label", self.label)
        check_integer("seed", self.seed, minimum=0)
        if self.seed >= 2**63:
            raise ValueError(f"seed must be less than 2**63, got {self.seed}.")
        check_integer("hidden_size", self.hidden_size, minimum=1)
        check_integer("epochs", self.epochs, minimum=1)
        check_integer("batch_size", self.batch_size, minimum=1)
        check_number("learning_rate", self.learning_rate, above=0.0)
        if isinstance(self.decay_epochs, str) or not isinstance(self.decay_epochs, Sequence):
            raise TypeError(f"decay_epochs must be a list of integers, got {self.decay_epochs!r}. Write (30, 60).")
        object.__setattr__(self, "decay_epochs", tuple(self.decay_epochs))
        for epoch in self.decay_epochs:
            check_integer("decay_epochs", epoch, minimum=1)
        check_number("decay_factor", self.decay_factor, above=0.0)
        check_number("decay_factor", self.decay_factor, maximum=1.0)
        check_number("weight_decay", self.weight_decay, minimum=0.0)
        if self.clip_norm is not None:
            check_number("clip_norm", self.clip_norm, above=0.0)
        if self.patience is not None:
            check_integer("patience", self.patience, minimum=1)
        check_choice("precision", self.precision, get_args(Precision))
        with seeded(0):  # a wrong option fails here, not after the data are read
            layer = build_layer(self.model, 1, 1, self.model_options())
            if self.penalty is not None:
                self._check_penalty(layer)

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
        if self.penalty == "explicit" and (recurrence is None or recurrence.kind != "drift"):
            raise ValueError(
                f"penalty must be 'hutchinson' for model {self.model!r}, got 'explicit', which needs the noisy family."
            )

    @property
    def shown_label(self) -> str:
        """The label, or the model's name."""
        return self.label or self.model

    def model_options(self) -> dict[str, Any]:
        """The options of the model that were set."""
        names = {name for model in MODELS for name in layer_options(model)}
        chosen = {f.name: getattr(self, f.name) for f in fields(self) if f.name in names}
        return {name: value for name, value in chosen.items() if value is not None}

    def learning_rate_at(self, epoch: int) -> float:
        """Learning rate of epoch number `epoch`, counted from 1."""
        return self.learning_rate * self.decay_factor ** sum(epoch > last for last in self.decay_epochs)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "TrainConfig":
        """Settings from a dictionary, as JSON or TOML hold them.

        Raises:
            ValueError: If a key is not a setting.
        """
        for name in values:
            check_choice("setting", name, [f.name for f in fields(cls)])
        return cls(**values)
