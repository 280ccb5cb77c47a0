"""Base class of the estimators: settings, training and validation parts, training, saving."""

import copy
import secrets
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from sklearn.base import BaseEstimator, is_classifier
from sklearn.exceptions import NotFittedError
from torch import Tensor

from noisyrnn.checks import check_choice, check_integer, check_number
from noisyrnn.data.dataset import Dataset
from noisyrnn.data.scale import Scale
from noisyrnn.data.split import Split
from noisyrnn.estimators.inputs import Sequences, check_sample_weight, read_sequences
from noisyrnn.estimators.params_json import from_json, to_json
from noisyrnn.estimators.robustness import RobustnessReport, robustness_report
from noisyrnn.models import MODELS, Head, SequenceModel, build_layer, layer_options
from noisyrnn.models.missing import layer_channels
from noisyrnn.models.options import merge_options
from noisyrnn.noise.brownian import derive_seed
from noisyrnn.pipeline.devices import make_fabric, resolve_accelerator
from noisyrnn.training.budget import Budget
from noisyrnn.training.config import Adversary, InputNoise, NoiseSchedule, Optimizer, Selection, TrainConfig
from noisyrnn.training.saving import load, read_header, save
from noisyrnn.training.seeding import seeded
from noisyrnn.training.settings import recommended
from noisyrnn.training.trainer import fit

_BLOCK = 1000
_DECAY_FACTOR = 0.1
_KERNEL = "reference"  # the fused ones are for float32
_MODEL_SETTINGS = "num_layers bidirectional step_size additive multiplicative".split()
_TRAIN_SETTINGS = (
    "hidden_size batch_size optimizer learning_rate orthogonal_rate weight_decay clip_norm patience select ema "
    "input_noise input_noise_kind noise_schedule adversarial adversarial_radius adversarial_steps"
).split()


class SequenceEstimator(BaseEstimator):  # type: ignore[misc]
    """A recurrent network with scikit-learn's interface; `NoisyRNNClassifier` describes the arguments.

    Training is in float32. The fitted model predicts in float64, so that rounding does not make the prediction for a
    sequence depend on the other sequences of the same call.
    """

    _head: ClassVar[type[Head]]
    model_: SequenceModel
    channels_: int
    scale_: dict[str, tuple[float, ...]]
    seed_: int
    partial_fits_: int

    def __init__(
        self,
        model: str = "noisy",
        *,
        hidden_size: int = 64,
        num_layers: int = 1,
        bidirectional: bool = False,
        step_size: float | None = None,
        additive: float | None = None,
        multiplicative: float | None = None,
        options: Mapping[str, Any] | None = None,
        epochs: int | None = None,
        batch_size: int = 16,
        optimizer: Optimizer = "adam",
        learning_rate: float = 0.005,
        orthogonal_rate: float = 1.0,
        decay_after: float = 0.75,
        weight_decay: float = 0.0,
        clip_norm: float | None = 1.0,
        validation_fraction: float = 0.1,
        patience: int | None = None,
        select: Selection = "auto",
        ema: float | None = None,
        input_noise: float | tuple[float, float] = 0.0,
        input_noise_kind: InputNoise = "white_noise",
        noise_schedule: NoiseSchedule = "constant",
        adversarial: Adversary | None = None,
        adversarial_radius: float = 0.05,
        adversarial_steps: int = 7,
        standardize: bool = True,
        layout: str = "channels_first",
        missing: str | None = None,
        warm_start: bool = False,
        device: str = "cpu",
        random_state: int | np.random.RandomState | np.random.Generator | None = None,
        verbose: int = 0,
    ) -> None:
        self.model = model
        self.hidden_size = hidden_size
        self.num_layers = num_layers
        self.bidirectional = bidirectional
        self.step_size = step_size
        self.additive = additive
        self.multiplicative = multiplicative
        self.options = options
        self.epochs = epochs
        self.batch_size = batch_size
        self.optimizer = optimizer
        self.learning_rate = learning_rate
        self.orthogonal_rate = orthogonal_rate
        self.decay_after = decay_after
        self.weight_decay = weight_decay
        self.clip_norm = clip_norm
        self.validation_fraction = validation_fraction
        self.patience = patience
        self.select = select
        self.ema = ema
        self.input_noise = input_noise
        self.input_noise_kind = input_noise_kind
        self.noise_schedule = noise_schedule
        self.adversarial = adversarial
        self.adversarial_radius = adversarial_radius
        self.adversarial_steps = adversarial_steps
        self.standardize = standardize
        self.layout = layout
        self.missing = missing
        self.warm_start = warm_start
        self.device = device
        self.random_state = random_state
        self.verbose = verbose

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Train on labelled sequences; with `warm_start` from the weights of the last fit.

        Args:
            X: `(n, time)`, `(n, channels, time)`, or a list of `(time,)` or `(channels, time)`; `layout` can change the
                order of the axes.
            y: `(n,)`, or for a regression also `(n, targets)`.
            sample_weight: `(n,)`, at least 0; a sequence of weight 0 is left out. Weights count in training, in
                validation, in the standardisation of `X` and in that of a regression's `y`. Equal weights by default.

        Raises:
            ValueError: If shapes disagree, a value is not finite or a setting is out of range.
            RuntimeError: If the training diverges.
        """
        first = not (self.warm_start and hasattr(self, "model_"))
        fraction = self._plain("validation_fraction")
        check_number("validation_fraction", fraction, minimum=0.0)
        if fraction >= 1:
            raise ValueError(f"validation_fraction must be less than 1, got {fraction:g}.")
        seed = self._new_seed()
        config = self._config(seed, **self._epochs())
        with self._unchanged_by_failure():
            self._train(self._split(X, y, sample_weight, first=first, learn=first), config, fraction, first)
            self.seed_, self.partial_fits_ = seed, 0
        return self

    def robustness_report(
        self,
        X: Any,
        y: Any,
        *,
        perturbations: Mapping[str, Sequence[float]] | None = None,
        draws: int = 5,
        seed: int = 0,
    ) -> RobustnessReport:
        """Measure the accuracy, or the mean squared error of a regression, on perturbed sequences, with intervals.

        Printing the result shows a table. Strengths are in units of each channel's standard deviation over the training
        part, with `standardize=False` too; `noisyrnn.robustness.UNITS` explains this for each perturbation. The last
        rows are the worst cases over the attacks.

        Args:
            X: Sequences in a form that `fit` accepts.
            y: True classes or values.
            perturbations: Strengths by key of `noisyrnn.robustness.PERTURBATIONS`; by default white noise, salt and
                pepper, FGSM and PGD.
            draws: Number of draws of random noise, and of random starts of an attack, 1 to 35.
            seed: Seed of the draws; use the same for all models that you compare.

        Raises:
            NotFittedError: If it is not fitted.
            ValueError: If an argument is out of range.
        """
        self._check_fitted()
        sequences = self._read(X, first=False)
        split = Split(
            inputs=sequences.inputs,
            labels=self._true(self._targets(y, len(sequences))),
            lengths=sequences.lengths,
            missing=self.missing,
            classes=len(self._class_names()),
        )
        scale = Scale.from_dict(self.scale_)
        return robustness_report(self.model_, split, scale=scale, perturbations=perturbations, draws=draws, seed=seed)

    @property
    def sequence_model(self) -> SequenceModel:
        """The fitted model in eval mode, from inputs `(n, steps, channels)` to logits of `classes_`, or to values.

        It is what attacks and `noisyrnn.compare_models` use, and has gradients.

        Raises:
            NotFittedError: If the estimator is not fitted.
        """
        self._check_fitted()
        return self.model_

    def save(self, path: str | Path) -> None:
        """Write the fitted estimator as one safetensors file, which `noisyrnn.load` can also read, as a model.

        Raises:
            NotFittedError: If the estimator is not fitted.
            TypeError: If a parameter is an object, such as a generator as `random_state`.
        """
        self._check_fitted()
        fitted = {name: value for name, value in vars(self).items() if name.endswith("_") and name != "model_"}
        notes = {
            "estimator": type(self).__name__,
            "params": {name: to_json(name, value) for name, value in self.get_params(deep=False).items()},
            "fitted": {name: to_json(name, value) for name, value in fitted.items()},
        }
        save(self.model_, path, class_names=self._class_names() or None, notes=notes)

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Load a fitted estimator that `save` wrote.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If the file is damaged, or does not contain this estimator.
        """
        notes = read_header(path).notes
        if notes.get("estimator") != cls.__name__:
            found = notes.get("estimator", "no estimator")
            raise ValueError(f"path must be a file written by {cls.__name__}.save, got {path} with {found}.")
        estimator = cls(**from_json({"dict": list(notes["params"].items())}))
        for name, value in notes["fitted"].items():
            setattr(estimator, name, from_json(value))
        estimator.model_ = load(path, cls._head)
        estimator.model_.layer.kernel = _KERNEL
        return estimator

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.three_d_array = True
        tags.input_tags.allow_nan = self.missing is not None
        return tags

    @abstractmethod
    def _checked(self, y: Any) -> np.ndarray:
        """Convert `y` to an array of the right type and shape."""

    @abstractmethod
    def _learn(self, y: np.ndarray, weights: np.ndarray | None = None) -> None:
        """Store the attributes that the first fit derives from `y` and its weights."""

    @abstractmethod
    def _labels(self, y: np.ndarray) -> Tensor:
        """Convert `y` to the labels of a `Split`."""

    @abstractmethod
    def _true(self, y: np.ndarray) -> Tensor:
        """Return the labels of a report, in the units of `y`."""

    @abstractmethod
    def _class_names(self) -> tuple[str, ...]:
        """Names of the classes; none for a regression."""

    @abstractmethod
    def _row_weights(self, y: np.ndarray) -> np.ndarray | None:
        """Return weights `(n,)` derived from the labels; `None` if there are none."""

    @abstractmethod
    def _draw(self, split: Split, size: int, seed: int) -> tuple[Tensor, Tensor]:
        """Return the indices of a validation part of about `size` sequences, and all others."""

    @abstractmethod
    def _finished(self, model: SequenceModel) -> SequenceModel:
        """Convert a trained model, in float64, to the model for prediction."""

    @abstractmethod
    def _unfinished(self, model: SequenceModel) -> SequenceModel:
        """Convert the model for prediction, in float64, back to the trained model."""

    def _plain(self, name: str) -> Any:
        """Return a parameter; NumPy numbers, which grid searches pass, become Python numbers."""
        value = getattr(self, name)
        if isinstance(value, list | tuple):
            return tuple(each.item() if isinstance(each, np.generic) else each for each in value)
        return value.item() if isinstance(value, np.generic) else value

    def _epochs(self) -> dict[str, int]:
        """Return the settings that determine the number of epochs of `fit`."""
        if self.epochs is not None:
            return {"epochs": self._plain("epochs")}
        general = recommended("", self.model)
        return {name: general[name] for name in ("epochs", "min_steps")}

    def _config(self, seed: int, epochs: int, min_steps: int | None = None) -> TrainConfig:
        """Return the settings of a training.

        Raises:
            ValueError: If one of them is out of range.
        """
        check_choice("model", self.model, MODELS)
        check_integer("epochs", epochs, minimum=1)
        known = layer_options(self.model)
        for name in self.options or {}:
            check_choice(f"option of model {self.model!r}", name, known.keys() - self.get_params(deep=False).keys())
        general = {name: value for name, value in recommended("", self.model).items() if name in known}
        named = {name: self._plain(name) for name in _MODEL_SETTINGS if self._plain(name) is not None}
        return TrainConfig(
            **{name: self._plain(name) for name in _TRAIN_SETTINGS},
            model=self.model,
            options=merge_options(general, {**(self.options or {}), **named}),
            missing=self.missing,
            label=type(self).__name__,
            seed=seed,
            epochs=epochs,
            min_steps=min_steps,
            decay_after=self._plain("decay_after"),
            decay_factor=_DECAY_FACTOR,
        )

    def _new_seed(self) -> int:
        """Return the seed of a fit, from `random_state`, or from the operating system if it is `None`."""
        state = self.random_state
        if state is None:
            return secrets.randbits(31)
        if isinstance(state, np.random.RandomState):
            return int(state.randint(2**31 - 1))
        if isinstance(state, np.random.Generator):
            return int(state.integers(2**31 - 1))
        seed = self._plain("random_state")
        check_integer("random_state", seed, minimum=0)
        return int(seed)

    def _read(self, X: Any, *, first: bool) -> Sequences:
        """Return the sequences of `X`, with as many channels as in the first fit."""
        sequences = read_sequences(self, X, layout=self.layout, first=first, missing=self.missing is not None)
        channels = sequences.inputs.shape[2]
        if first:
            self.channels_ = channels
        elif channels != self.channels_:
            raise ValueError(
                f"X must have {self.channels_} channels, as in fit, got {channels}. The layout is {self.layout!r}."
            )
        return sequences

    def _split(self, X: Any, y: Any, sample_weight: Any, *, first: bool, learn: bool) -> Split:
        """Return the labelled sequences of positive weight; with `learn`, store the attributes derived from `y`."""
        sequences = self._read(X, first=first)
        y = self._targets(y, len(sequences))
        weights = None if sample_weight is None else check_sample_weight(sample_weight, len(y))
        if weights is not None:  # sequences of weight 0 are ignored
            kept = weights > 0
            sequences, y, weights = (
                sequences.subset(torch.tensor(kept, dtype=torch.bool, device="cpu")),
                y[kept],
                weights[kept],
            )
        if learn:
            self._learn(y, weights)
        own = self._row_weights(y)
        if own is not None:
            weights = own if weights is None else own * weights
            kept = weights > 0
            if not kept.any():
                raise ValueError(f"class_weight must be above 0 for a class of y, got {self.class_weight!r}.")
            sequences, y, weights = (
                sequences.subset(torch.tensor(kept, dtype=torch.bool, device="cpu")),
                y[kept],
                weights[kept],
            )
        return Split(
            inputs=sequences.inputs,
            labels=self._labels(y),
            lengths=sequences.lengths,
            weights=None
            if weights is None
            else torch.tensor(weights / weights.mean(), dtype=torch.float32, device="cpu"),
            missing=self.missing,
            classes=len(self._class_names()),
        )

    def _targets(self, y: Any, count: int) -> np.ndarray:
        """Return `y`, which must have `count` rows."""
        if y is None:
            raise ValueError(f"{type(self).__name__} requires y to be passed, but the target y is None.")
        shape = tuple(getattr(y, "shape", ()))
        if len(shape) > 2 or (is_classifier(self) and len(shape) == 2 and shape[1] > 1):
            rule = "(n,)" if is_classifier(self) else "(n,) or (n, targets)"
            raise ValueError(
                f"y must have shape {rule}, got {shape}. For targets at every step train a SequenceToSequence with "
                "noisyrnn.fit, or give a file to `noisyrnn train`."
            )
        y = self._checked(y)
        if len(y) != count:
            raise ValueError(f"y must hold {count} values, one for each sequence of X, got {len(y)}.")
        return y

    def _train(self, split: Split, config: TrainConfig, fraction: float, first: bool) -> None:
        """Train a new model or the existing one, and store it."""
        resolve_accelerator(self.device, argument="device")
        if not first:
            self._check_same_model(config)
        dataset = self._dataset(*self._parts(split, fraction, config.seed))
        config = Budget.of(config, dataset).config
        if config.select == "refit":
            dataset = self._dataset(split, split)
        if not first:  # the cached value: strengths keep the units of the first fit, as in `robustness_report`
            vars(dataset)["scale"] = Scale.from_dict(self.scale_)
        model = self._new_model(config, dataset) if first else self._unfinished(copy.deepcopy(self.model_))
        model.layer.kernel = "auto"
        fabric = make_fabric(config.precision, self.device)
        result = fit(model.float(), dataset, config, fabric=fabric, show_progress=bool(self.verbose))
        self.model_ = self._finished(model.cpu().double())
        self.model_.layer.kernel = _KERNEL
        if first:
            self.scale_ = asdict(Scale.of(dataset.train))
        self.history_ = result.history
        self.n_iter_ = len(result.history)
        self.best_epoch_ = result.best_epoch
        self.validation_size_ = 0 if dataset.validation is dataset.train else len(dataset.validation)

    def _dataset(self, train: Split, validation: Split) -> Dataset:
        return Dataset(
            name=type(self).__name__,
            train=train,
            validation=validation,
            read_test=lambda: validation,
            class_names=self._class_names(),
            value_range=None,
            standardize=self.standardize,
        )

    def _check_same_model(self, config: TrainConfig) -> None:
        """Raise `ValueError` if the settings differ from those of the model to continue with."""
        layer = self.model_.layer
        with seeded(0):
            wanted = build_layer(config.model, layer.input_size, config.hidden_size, config.options)
        names = {entry.build: name for name, entry in MODELS.items()}
        held = {"missing": self.model_.missing, "model": names[type(layer)], **layer.options()}
        for name, value in {"missing": self.missing, "model": config.model, **wanted.options()}.items():
            if held.get(name) != value:
                raise ValueError(
                    f"{name} must stay {held.get(name)!r}, that of the fitted model, got {value!r}. "
                    "Fit without warm_start to begin again."
                )

    def _new_model(self, config: TrainConfig, dataset: Dataset) -> SequenceModel:
        """Build a model: weights depend on the seed only, standardisation on the training part."""
        mean, std = dataset.statistics() if self.standardize else (None, None)
        with seeded(config.seed):
            channels = layer_channels(dataset.input_size, dataset.missing)
            layer = build_layer(config.model, channels, config.hidden_size, config.options)
            return self._head(layer, dataset.outputs, mean=mean, std=std, missing=dataset.missing)

    def _parts(self, split: Split, fraction: float, seed: int) -> tuple[Split, Split]:
        """Return training and validation part; both are all sequences if one would be empty."""
        size = round(fraction * len(split))
        if size == 0:  # a stratified draw of size 0 would still take one sequence of each class
            return split, split
        drawn, rest = self._draw(split, size, seed)
        if len(drawn) == 0 or len(rest) == 0:
            return split, split
        return split.subset(rest), split.subset(drawn)

    def _continue(self, X: Any, y: Any, sample_weight: Any, *, learn: bool) -> None:
        """Train for one epoch on all these sequences, without a validation part."""
        first = not hasattr(self, "model_")
        seed = self._new_seed() if first else self.seed_
        calls = 0 if first else self.partial_fits_
        config = self._config(derive_seed(seed, "partial_fit", calls) % 2**63, epochs=1)
        with self._unchanged_by_failure():
            self._train(self._split(X, y, sample_weight, first=first, learn=learn), config, 0.0, first)
            self.seed_, self.partial_fits_ = seed, calls + 1

    @contextmanager
    def _unchanged_by_failure(self) -> Iterator[None]:
        """Restore the attributes of the last fit if this fit fails, so that classes and weights always match."""
        before = dict(self.__dict__)
        try:
            yield
        except BaseException:
            self.__dict__.clear()
            self.__dict__.update(before)
            raise

    def _check_fitted(self) -> None:
        """Raise unless the estimator is fitted."""
        if not hasattr(self, "model_"):
            raise NotFittedError(f"{type(self).__name__} must be fitted first, got one that is not. Call fit.")

    def _outputs(self, X: Any) -> Tensor:
        """Return the model's outputs for each sequence, float64 `(n, outputs)`."""
        self._check_fitted()
        sequences = self._read(X, first=False)
        outputs = []
        with torch.no_grad():
            for rows in torch.arange(len(sequences), device="cpu").split(_BLOCK):
                inputs, lengths = sequences.inputs[rows], None
                if sequences.lengths is not None:
                    lengths = sequences.lengths[rows]
                    inputs = inputs[:, : int(lengths.max())]
                outputs.append(self.model_(inputs, lengths=lengths))
        return torch.cat(outputs)
