"""Classifier of sequences."""

from collections.abc import Mapping
from typing import Any, ClassVar, Self

import numpy as np
from sklearn.base import ClassifierMixin
from sklearn.utils.class_weight import compute_sample_weight
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import column_or_1d
from torch import Tensor

from noisyrnn.data.labels import array_labels, check_classes, encode, label_values, sorted_classes
from noisyrnn.data.parts import stratified_draw
from noisyrnn.data.split import Split
from noisyrnn.estimators.base import SequenceEstimator
from noisyrnn.models import Head, SequenceClassifier, SequenceModel
from noisyrnn.training.config import Adversary, InputNoise, NoiseSchedule, Optimizer, Selection


class NoisyRNNClassifier(ClassifierMixin, SequenceEstimator):  # type: ignore[misc]
    """A recurrent network that classifies sequences, trained with noise added to its hidden state.

    Args:
        model: Key of `noisyrnn.models.MODELS`: "noisy", "lipschitz", "gru", "lstm", …
        hidden_size: Number of hidden units per layer, at least 1.
        num_layers: Number of stacked recurrent layers, at least 1.
        bidirectional: Whether each layer also reads the sequence backwards.
        step_size: Step of the discretisation, above 0 (default: the general setting for the model).
        additive: Level of the additive hidden noise per step, at least 0 (default: that of the model).
        multiplicative: Relative level of the multiplicative hidden noise, at least 0 (default: that of the model).
        options: Further options of the model by name, such as `{"skew_symmetry": 1.0}`.
        epochs: Number of passes over the training part, at least 1; `None` for 100, or more where these take fewer than
            1,000 optimizer steps.
        batch_size: Sequences per optimizer step, at least 1.
        optimizer: "adam", "adamw" or "rmsprop", as in `TrainConfig`.
        learning_rate: Learning rate of the optimizer, above 0.
        orthogonal_rate: Factor of the learning rate for the orthogonal matrix of the exponential RNN, above 0.
        decay_after: Share of the epochs, in (0, 1], after which the learning rate is divided by ten.
        weight_decay: Weight decay of the optimizer, at least 0.
        clip_norm: Clip the gradient to this norm, above 0; `None` for no clipping.
        validation_fraction: Share of the sequences, in [0, 1), held out to choose the best epoch: by accuracy, then by
            loss; for a regression by loss. With fewer than 30 in it none is held out, and the last epoch is kept,
            unless `select` or `patience` states otherwise; then the training part is used where the share is empty.
        patience: Stop if the validation score has not improved for this many epochs; `None` never stops early.
        select: Epoch whose weights are kept: "clean", "perturbed", "last", "refit" or "auto", as in `TrainConfig`.
        ema: Decay of a moving average of the weights, which is then validated and kept, above 0 and below 1; `None` for
            the weights themselves.
        input_noise: Strength of the noise that training adds to its inputs, at least 0; or a pair of strengths, between
            which each sequence has its own. Its unit is the standard deviation of each channel in the training part of
            the first fit, as in `robustness_report`.
        input_noise_kind: "white_noise", "multiplicative_noise", "salt_and_pepper", "missing_values" or
            "missing_blocks"; a strength of the last three is a probability.
        noise_schedule: "constant", or "annealed" for hidden and input noise in proportion to the learning rate.
        adversarial: Attack on the inputs of each training step: "fgsm", "pgd_linf" or "pgd_l2"; `None` for no attack.
        adversarial_radius: Radius of that attack, above 0, in the unit of `input_noise`.
        adversarial_steps: Gradient steps of a PGD attack, at least 1.
        standardize: Whether to standardise each channel by the mean and standard deviation of the training part.
        layout: "channels_first" for `(n, channels, time)`, as in aeon and sktime, or "channels_last" for
            `(n, time, channels)`.
        missing: How the model meets missing values, NaN in `X`: "hold" for the last value of the channel, "mask" for
            that and a channel that says whether there was one, or "skip" to leave out steps without any value, for
            models whose steps have a length; `None`: a missing value is an error.
        warm_start: Whether `fit` continues from the weights, the classes and the standardisation of the last fit.
        device: "cpu", "cuda" or "auto", for training; the fitted model is on the CPU.
        random_state: Seed or generator of all randomness. An integer gives identical results each time; `None` gives
            different results, and `seed_` is the seed that was used.
        verbose: Above 0 shows a progress bar.
        class_weight: Weight of each class, `{class: weight}`, or "balanced" for weights inverse to the class frequency.

    Attributes:
        classes_: Classes in order, `(classes,)`.
        model_: The fitted `SequenceClassifier`, in float64 and evaluation mode.
        history_: One row of metrics per epoch.
        n_iter_: Number of epochs trained.
        best_epoch_: Epoch of the weights, from 1.
        validation_size_: Number of sequences that chose that epoch; 0 if none was held out.
        seed_: Seed that was used; as `random_state` it repeats the fit.
        channels_: Number of channels.
        n_features_in_: Number of columns, if `X` was a table.

    Example:
        >>> t = np.linspace(0, 6, 20)
        >>> X = np.array([np.sin((1 + k % 2) * t + 0.1 * k) for k in range(20)])
        >>> y = np.array(["slow", "fast"] * 10)
        >>> classifier = NoisyRNNClassifier(hidden_size=8, epochs=20, learning_rate=0.02, random_state=0).fit(X, y)
        >>> classifier.predict(X[:2])
        array(['slow', 'fast'], dtype='<U4')

    Reference:
        Lim et al., Noisy Recurrent Neural Networks, NeurIPS 2021.
    """

    _head: ClassVar[type[Head]] = SequenceClassifier
    classes_: np.ndarray

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
        class_weight: Mapping[Any, float] | str | None = None,
    ) -> None:
        super().__init__(
            model,
            hidden_size=hidden_size,
            num_layers=num_layers,
            bidirectional=bidirectional,
            step_size=step_size,
            additive=additive,
            multiplicative=multiplicative,
            options=options,
            epochs=epochs,
            batch_size=batch_size,
            optimizer=optimizer,
            learning_rate=learning_rate,
            orthogonal_rate=orthogonal_rate,
            decay_after=decay_after,
            weight_decay=weight_decay,
            clip_norm=clip_norm,
            validation_fraction=validation_fraction,
            patience=patience,
            select=select,
            ema=ema,
            input_noise=input_noise,
            input_noise_kind=input_noise_kind,
            noise_schedule=noise_schedule,
            adversarial=adversarial,
            adversarial_radius=adversarial_radius,
            adversarial_steps=adversarial_steps,
            standardize=standardize,
            layout=layout,
            missing=missing,
            warm_start=warm_start,
            device=device,
            random_state=random_state,
            verbose=verbose,
        )
        self.class_weight = class_weight

    def partial_fit(self, X: Any, y: Any, classes: Any = None, sample_weight: Any = None) -> Self:
        """Train for one epoch on these sequences, from the current weights, without a validation part.

        Standardisation is that of the first call. Each call resets the optimizer's moments, so many small calls train
        worse than one `fit`.

        Args:
            X: Sequences in a form that `fit` accepts.
            y: Classes, `(n,)`.
            classes: All classes of all calls, required in the first call.
            sample_weight: Weights `(n,)`, at least 0; equal by default.

        Raises:
            ValueError: If the first call is without `classes`, or `y` contains another class.
        """
        first = not hasattr(self, "model_")
        if first and classes is None:
            raise ValueError("classes must be passed on the first call to partial_fit, got None.")
        if first:
            label_values(classes, "classes")
            self._learn(self._checked(classes))
        elif classes is not None and set(label_values(classes, "classes")) != set(self.classes_.tolist()):
            raise ValueError(f"classes must be {self.classes_.tolist()}, as before, got {np.unique(classes).tolist()}.")
        self._continue(X, y, sample_weight, learn=False)
        return self

    def predict(self, X: Any) -> np.ndarray:
        """Predict the class of each sequence, `(n,)`."""
        best = self._outputs(X).argmax(1).numpy()
        return self.classes_[best]

    def predict_proba(self, X: Any) -> np.ndarray:
        """Predict probabilities `(n, classes)`, in the order of `classes_`."""
        return self._outputs(X).softmax(1).numpy()

    def _checked(self, y: Any) -> np.ndarray:
        labels = y
        y = column_or_1d(y, warn=True)
        if isinstance(labels, list | tuple) and y.dtype.kind in "fU" and np.ndim(labels) == 1:
            values = np.empty(len(labels), dtype=object)  # NumPy rounds [2**63, -1] to float64, and makes [1, "1"] text
            values[:] = [value.item() if isinstance(value, np.generic) else value for value in labels]
            if len({isinstance(value, str) for value in values}) > 1:
                label_values(labels)  # raises an error that describes the problem
            if all(isinstance(value, int) or (isinstance(value, float) and value.is_integer()) for value in values):
                return values
        if y.dtype.kind == "O" and len({isinstance(value, str) for value in y}) > 1:
            label_values(y)
        check_classification_targets(y)
        return y

    def _learn(self, y: np.ndarray, weights: np.ndarray | None = None) -> None:
        classes = np.unique(y)
        if len(classes) < 2:
            raise ValueError(f"y must hold at least 2 classes, got 1 class: {classes.tolist()[0]!r}.")
        check_classes(sorted_classes(array_labels(classes)))
        self.classes_ = classes

    def _labels(self, y: np.ndarray) -> Tensor:
        labels, classes = array_labels(y), array_labels(self.classes_)
        unknown = set(labels).difference(classes)
        if unknown:
            raise ValueError(f"y must hold only the classes {self.classes_.tolist()}, got {unknown.pop().value!r}.")
        return encode(labels, classes)

    def _true(self, y: np.ndarray) -> Tensor:
        return self._labels(y)

    def _class_names(self) -> tuple[str, ...]:
        return tuple(map(str, self.classes_.tolist()))

    def _row_weights(self, y: np.ndarray) -> np.ndarray | None:
        return None if self.class_weight is None else compute_sample_weight(self.class_weight, y)

    def _draw(self, split: Split, size: int, seed: int) -> tuple[Tensor, Tensor]:
        return stratified_draw(split.labels, size, seed=seed)

    def _finished(self, model: SequenceModel) -> SequenceModel:
        return model

    def _unfinished(self, model: SequenceModel) -> SequenceModel:
        return model
