"""The classifier of sequences."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

import numpy as np
from sklearn.base import ClassifierMixin
from sklearn.utils.class_weight import compute_sample_weight
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import column_or_1d
from torch import Tensor

from noisyrnn.data.base import Split
from noisyrnn.data.labels import array_labels, check_classes, encode, label_values, sorted_classes
from noisyrnn.data.scale import Scale
from noisyrnn.data.split import stratified_draw
from noisyrnn.estimators.base import SequenceEstimator
from noisyrnn.estimators.robustness import RobustnessReport, classification_report
from noisyrnn.models import Head, SequenceClassifier, SequenceModel


class NoisyRNNClassifier(ClassifierMixin, SequenceEstimator):  # type: ignore[misc]
    """A recurrent network that classifies whole sequences, trained with noise on its hidden state.

    Args:
        model: Key of `noisyrnn.models.MODELS`: "noisy", "lipschitz", "gru", "lstm", …
        hidden_size: Units of each layer, at least 1.
        num_layers: Recurrent layers, one above another.
        bidirectional: Whether each layer also reads backwards.
        step_size: Step of the discretisation, above 0; by default the library's general setting for the model.
        additive: Level of the additive hidden noise of one step, at least 0; the model's own by default.
        multiplicative: Relative level of the multiplicative hidden noise, at least 0; the model's own by default.
        options: Further options of the model by name, such as `{"skew_symmetry": 1.0}`.
        epochs: Passes over the training part, at least 1.
        batch_size: Sequences of one step of the optimiser, at least 1.
        learning_rate: Of Adam, above 0.
        decay_after: Share of the epochs, in (0, 1], after which the learning rate is a tenth.
        weight_decay: Of Adam, at least 0.
        clip_norm: Largest norm of the gradient, above 0; `None` for no limit.
        validation_fraction: Share of the sequences, in [0, 1), set aside to choose the best epoch on: by accuracy and
            then by loss, or for a regression by loss. With 0, or too few sequences, the training part decides.
        patience: Stop if it has not improved for this many epochs; `None` never stops early.
        standardize: Whether each channel is standardised by the mean and standard deviation of the training part.
        layout: "channels_first" for `(n, channels, time)`, as in aeon and sktime, or "channels_last" for
            `(n, time, channels)`.
        warm_start: Whether `fit` continues from the weights, the classes and the standardisation of the last fit.
        device: "cpu", "cuda" or "auto", for training; the fitted model is on the CPU.
        random_state: An integer gives the same bits each time; a generator is drawn from; `None` is different each
            time, and `seed_` tells how.
        verbose: Above 0 shows a progress bar.
        class_weight: Weight of each class, `{class: weight}`, or "balanced" for the inverse of how often it comes.

    Attributes:
        classes_: The classes in order, `(classes,)`.
        model_: The fitted `SequenceClassifier`, in float64 and evaluation mode.
        history_: One row of metrics for each epoch.
        n_iter_: Epochs done.
        best_epoch_: The epoch, from 1, of the weights.
        seed_: What the randomness came from: as `random_state` it gives the same fit again.
        channels_: Number of channels.
        n_features_in_: Number of columns, where `X` was a table.

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
        epochs: int = 100,
        batch_size: int = 16,
        learning_rate: float = 0.005,
        decay_after: float = 0.75,
        weight_decay: float = 0.0,
        clip_norm: float | None = 1.0,
        validation_fraction: float = 0.1,
        patience: int | None = None,
        standardize: bool = True,
        layout: str = "channels_first",
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
            learning_rate=learning_rate,
            decay_after=decay_after,
            weight_decay=weight_decay,
            clip_norm=clip_norm,
            validation_fraction=validation_fraction,
            patience=patience,
            standardize=standardize,
            layout=layout,
            warm_start=warm_start,
            device=device,
            random_state=random_state,
            verbose=verbose,
        )
        self.class_weight = class_weight

    def partial_fit(self, X: Any, y: Any, classes: Any = None, sample_weight: Any = None) -> Self:
        """One epoch over these sequences, from the weights there are; none is set aside for validation.

        Standardisation stays that of the first call. The optimiser's moments start again with each call, so that many
        small calls train worse than one `fit`.

        Args:
            X: As for `fit`.
            y: As for `fit`.
            classes: All classes that will come, needed in the first call.
            sample_weight: As for `fit`.

        Raises:
            ValueError: If the first call is without `classes`, or `y` holds another class.
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
        """The class of each sequence, `(n,)`."""
        best = self._outputs(X).argmax(1).numpy()
        return self.classes_[best]

    def predict_proba(self, X: Any) -> np.ndarray:
        """Probabilities `(n, classes)`, in the order of `classes_`."""
        return self._outputs(X).softmax(1).numpy()

    def robustness_report(
        self,
        X: Any,
        y: Any,
        *,
        perturbations: Mapping[str, Sequence[float]] | None = None,
        draws: int = 5,
        seed: int = 0,
    ) -> RobustnessReport:
        """Accuracies on perturbed sequences, with intervals; print it for a table.

        Strengths are in units of each channel's standard deviation over the training part, with `standardize=False`
        too; `noisyrnn.robustness.UNITS` says what that is for each perturbation. The last rows are the worst cases over
        the attacks.

        Args:
            X: As for `fit`.
            y: True classes.
            perturbations: Strengths by key of `noisyrnn.robustness.PERTURBATIONS`; white noise, salt and pepper, FGSM
                and PGD by default.
            draws: Draws of a random noise and random starts of an attack, 1 to 35.
            seed: Of the draws; the same for all models that are to be compared.
        """
        self._check_fitted()
        sequences = self._read(X, first=False)
        labels = self._labels(self._targets(y, len(sequences)))
        split = Split(inputs=sequences.inputs, labels=labels, lengths=sequences.lengths, classes=len(self.classes_))
        return classification_report(
            self.model_, split, Scale.from_dict(self.scale_), perturbations, draws=draws, seed=seed
        )

    def _checked(self, y: Any) -> np.ndarray:
        labels = y
        y = column_or_1d(y, warn=True)
        if isinstance(labels, list | tuple) and y.dtype.kind in "fU" and np.ndim(labels) == 1:
            values = np.empty(len(labels), dtype=object)  # NumPy rounds [2**63, -1] to float64, and makes [1, "1"] text
            values[:] = [value.item() if isinstance(value, np.generic) else value for value in labels]
            if len({isinstance(value, str) for value in values}) > 1:
                label_values(labels)  # says what is wrong
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
