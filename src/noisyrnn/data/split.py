"""Labelled sequences: the data of one part, checked, and what is known of their values."""

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from noisyrnn.checks import (
    as_int64,
    check_integer,
    check_labels,
    check_lengths,
    check_mask,
    check_sequences,
    check_values,
)
from noisyrnn.data.from_arrays import as_tensor, read_labels, read_loader, stack_sequences
from noisyrnn.data.split_checks import check_dt, check_known, check_missing, check_targets, check_weights
from noisyrnn.data.stored import StoredSequences
from noisyrnn.display import html_table
from noisyrnn.missing import MISSING
from noisyrnn.padding import valid_steps, valid_values
from noisyrnn.targets import at_every_step, mark_uncounted


@dataclass(frozen=True, kw_only=True, eq=False)
class Split:
    """Labelled sequences.

    Args:
        inputs: Floating point `(n, steps, input_size)`; shorter sequences are padded with zeros at the end. Leave
            values in float64 that are to be standardised: a model does that before it rounds them. Or sequences that
            stay in their files, `StoredSequences`; `inputs[rows]` reads some of them, and `inputs[:]` all.
        labels: Integers `(n,)` of any type, class indices from 0, held as int64; or, for a regression, floating point
            `(n, targets)`. With one answer at every step: integers `(n, steps)`, or floating point
            `(n, steps, outputs)`; at steps that do not count they may be anything, and are held as -1 or NaN.
        lengths: Integers `(n,)`, valid steps of each sequence, held as int64; `None` where all have `steps`.
        weights: `(n,)`, at least 0 and not all 0: how much each sequence counts in training, which is in the loss, the
            accuracies of training and validation, and the statistics that standardize inputs and targets. `evaluate`
            and the diagnostics of `noisyrnn.analysis`, `LossHessian` among them, count all sequences equally. With a
            mean of 1 the learning rate keeps its meaning. `None`: all count equally.
        mask: Bool `(n, steps)`, for labels at every step: the steps that count in losses, accuracies and errors, at
            least one of the valid steps of each sequence; `None`: all valid steps. It is held without the padding, and
            is `None` only where there is one label for each sequence.
        dt: Floating point `(n, steps)`, above 0: length of each step in nominal steps, as layers take it; `None`: all
            are equal.
        missing: How a model meets missing values, which are NaN in `inputs`: a key of `MISSING`; `None`: there are
            none.
        classes: Number of classes the labels are drawn from; 0 for a regression.

    Raises:
        ValueError: If shapes disagree, a value is not finite, a label, a length or a weight is out of range, there
            are none, or no step of a sequence counts.
    """

    inputs: Tensor | StoredSequences
    labels: Tensor
    lengths: Tensor | None = None
    weights: Tensor | None = None
    mask: Tensor | None = None
    dt: Tensor | None = None
    missing: str | None = None
    classes: int

    def __post_init__(self) -> None:
        if isinstance(self.inputs, StoredSequences):
            self._check_stored(self.inputs)
        else:
            check_sequences("inputs", self.inputs)
            check_missing("inputs", self.inputs, self.missing)
        check_integer("classes", self.classes, minimum=0)
        count, steps, _ = self.inputs.shape
        if self.lengths is not None:
            check_lengths(self.lengths, batch=count, steps=steps)
            object.__setattr__(self, "lengths", self.lengths.long())
        if self.weights is not None:
            check_weights(self.weights, count=count)
        if self.dt is not None:
            check_dt(self.dt, count=count, steps=steps)
        if self.classes == 0:
            check_targets(self.labels, count=count, steps=steps)
        else:
            labels = as_int64(self.labels)
            if labels.shape != (count, steps):
                labels = check_labels(labels, count=count, classes=self.classes)
            object.__setattr__(self, "labels", labels)
        if self.mask is not None and not self.every_step:
            raise ValueError(
                f"mask must be None for one label for each sequence, got one with labels {tuple(self.labels.shape)}."
            )
        if self.missing is not None:
            self._check_steps_kept()
        if self.every_step:
            self._mark_uncounted()
        elif self.classes == 0:
            check_values("labels", self.labels)

    def _check_stored(self, inputs: StoredSequences) -> None:
        """Raise unless all values in the files are finite, and nothing is given that they cannot have."""
        labels = as_int64(self.labels) if self.classes else self.labels
        for name, value in (("weights", self.weights), ("dt", self.dt), ("mask", self.mask)):
            if value is not None:
                raise ValueError(f"{name} must be None for inputs that stay in their files, got a tensor.")
        if at_every_step(labels):
            raise ValueError(
                f"labels must be one per sequence for inputs that stay in their files, got {tuple(labels.shape)}."
            )
        inputs.scan  # noqa: B018 (reads and checks all values, once)

    def _mark_uncounted(self) -> None:
        """Check mask and labels of every step, and mark the labels at the steps that do not count."""
        count, steps, _ = self.inputs.shape
        mask = self.valid().to(self.labels.device)
        if self.mask is not None:
            check_mask(self.mask, count=count, steps=steps)
            mask = mask & self.mask.to(mask.device)
        check_known(self.labels, mask, classes=self.classes)
        object.__setattr__(self, "mask", mask)
        object.__setattr__(self, "labels", mark_uncounted(self.labels, mask))

    def _check_steps_kept(self) -> None:
        """Raise if steps that need an answer are skipped, and write zeros to padding, which is not missing."""
        if self.missing == "skip" and self.every_step:
            raise ValueError(
                "missing must be 'mask' or 'hold' for labels at every step, got 'skip'. A skipped step has no answer."
            )
        if self.lengths is not None and isinstance(self.inputs, Tensor):
            inputs = torch.where(valid_values(self.inputs, self.lengths), self.inputs, 0.0)
            object.__setattr__(self, "inputs", inputs)

    @classmethod
    def from_arrays(
        cls,
        X: Any,
        y: Any,
        *,
        lengths: Any = None,
        weights: Any = None,
        mask: Any = None,
        dt: Any = None,
        missing: str | None = None,
        classes: int | None = None,
        layout: str | None = None,
    ) -> "Split":
        """Build a split from arrays, tensors or lists.

        Args:
            X: Real numbers `(n, steps, channels)`, or `(n, steps)` for one channel; or a list of sequences
                `(steps, channels)` or `(steps,)` of unequal lengths, which are padded.
            y: Class indices from 0, integers `(n,)` or `(n, steps)`; or numbers to predict, `(n,)`, `(n, targets)` or
                `(n, steps, outputs)`.
            lengths: Integers `(n,)`, the valid steps of each sequence, where `X` is padded.
            weights: `(n,)`; see `Split`.
            mask: Bool `(n, steps)`; see `Split`.
            dt: `(n, steps)`; see `Split`.
            missing: How a model meets missing values, which are NaN in `X`: "mask", "hold" or "skip"; `None`: there are
                none.
            classes: Number of classes, or 0 for numbers to predict (default: one more than the largest of integers; 0
                for numbers that are not whole).
            layout: "channels-last" for `X` as above, or "time-last" for `(n, channels, steps)` and sequences
                `(channels, steps)`; `None`: as above, with at least as many steps as channels.

        Raises:
            ValueError: If shapes disagree, or it is unclear whether `y` holds classes or which axis of `X` is time.
            TypeError: If an array does not hold numbers.

        Example:
            >>> split = Split.from_arrays([[1.0, 2.0, 3.0], [4.0, 5.0]], [0, 1])
            >>> split.inputs.shape, split.lengths.tolist(), split.classes
            (torch.Size([2, 3, 1]), [3, 2], 2)
        """
        inputs, found = stack_sequences(X, layout)
        if found is not None and lengths is not None:
            raise ValueError("lengths must be None where X is a list of sequences of unequal lengths, got both.")
        labels, classes = read_labels(y, classes, steps=inputs.shape[1], masked=mask is not None)
        others = {"weights": weights, "mask": mask, "dt": dt}
        tensors = {name: as_tensor(value) for name, value in others.items() if value is not None}
        if found is None and lengths is not None:
            found = as_tensor(lengths)
        return cls(inputs=inputs, labels=labels, lengths=found, missing=missing, classes=classes, **tensors)

    @classmethod
    def from_loader(
        cls, data: Any, *, missing: str | None = None, classes: int | None = None, layout: str | None = None
    ) -> "Split":
        """Build a split from a `DataLoader`, or from a `Dataset` of torch, by reading all of it once.

        Args:
            data: A `Dataset` whose items are `(sequence, label)`, with sequences `(steps, channels)` or `(steps,)`; or
                a `DataLoader` whose batches are `(X, y)` or `(X, y, lengths)`, as `from_arrays` takes them. All batches
                have the same number of steps, unless they have lengths.
            missing: As in `from_arrays`.
            classes: As in `from_arrays`.
            layout: As in `from_arrays`.

        Raises:
            TypeError: If items or batches have another form.
            ValueError: If there are none, or batches are padded to different lengths and do not state them.

        Example:
            >>> data = torch.utils.data.TensorDataset(torch.zeros(4, 5, 2), torch.tensor([0, 1, 0, 1]))
            >>> Split.from_loader(torch.utils.data.DataLoader(data, batch_size=3)).inputs.shape
            torch.Size([4, 5, 2])
        """
        X, y, lengths = read_loader(data, layout)
        return cls.from_arrays(X, y, lengths=lengths, missing=missing, classes=classes, layout=layout)

    def __len__(self) -> int:
        return len(self.labels)

    def _described(self) -> list[tuple[str, str]]:
        """What a reader asks for first, as names and texts."""
        rows = [("sequences", f"{len(self)}"), ("steps", steps_text(self)), ("channels", f"{self.inputs.shape[2]}")]
        if self.missing is not None:
            rows.append(("missing", missing_text(self)))
        labels = f"{self.classes} classes" if self.classes else f"{self.labels.shape[-1]} values"
        if self.mask is not None:
            labels += f" at {int(self.mask.sum())} steps"
        rows += [("labels", labels), ("type", f"{str(self.inputs.dtype).removeprefix('torch.')}")]
        return [*rows, ("weights", "given")] if self.weights is not None else rows

    def __repr__(self) -> str:
        """Describe the sequences in one line."""
        return f"Split({'; '.join(f'{name}: {value}' for name, value in self._described())})"

    def _repr_html_(self) -> str:
        """Describe the sequences in a table, for notebooks."""
        return html_table("Split", self._described())

    @property
    def every_step(self) -> bool:
        """Whether there is a label at every step, rather than one for each sequence."""
        return at_every_step(self.labels)

    @property
    def one_class_each(self) -> bool:
        """Whether each sequence has one class, rather than values or labels at every step."""
        return self.classes > 0 and not self.every_step

    def subset(self, indices: Tensor) -> "Split":
        """Return the sequences at `indices`, int64 `(k,)`, in that order; none that stay in their files is read."""
        inputs = self.inputs.subset(indices) if isinstance(self.inputs, StoredSequences) else self.inputs[indices]
        return self._changed(lambda tensor: tensor[indices], inputs)

    def joined(self, other: "Split") -> "Split":
        """Return the sequences of this split, followed by those of another one; the shorter ones are padded.

        Sequences have the weight 1 where only the other split has weights.

        Raises:
            ValueError: If the other split has other channels, labels of another kind or another `missing`, or inputs
                stay in files.
        """
        if isinstance(self.inputs, StoredSequences) or isinstance(other.inputs, StoredSequences):
            raise ValueError("other must be in memory to be joined, got sequences that stay in their files.")
        kinds = [(s.inputs.shape[2], s.classes, s.every_step, s.labels.shape[2:]) for s in (self, other)]
        if kinds[0] != kinds[1]:
            raise ValueError("other must have the channels of this split and the same kind of labels, got others.")
        if self.missing != other.missing:
            raise ValueError(f"other must have missing {self.missing!r} as this split has, got {other.missing!r}.")
        steps = max(self.inputs.shape[1], other.inputs.shape[1])
        one, two = (split._padded_to(steps) for split in (self, other))
        tensors: dict[str, Any] = {
            name: torch.cat([one[name], two[name]])
            for name in one
            if name in ("inputs", "labels") or getattr(self, name) is not None or getattr(other, name) is not None
        }
        if steps > min(self.inputs.shape[1], other.inputs.shape[1]):
            tensors["lengths"] = torch.cat([one["lengths"], two["lengths"]])
        return Split(**tensors, missing=self.missing, classes=self.classes)

    def _padded_to(self, steps: int) -> dict[str, Tensor]:
        """Return all tensors for this number of steps, with those that are left out as they would be written."""
        assert isinstance(self.inputs, Tensor)
        count, own, _ = self.inputs.shape
        device = self.inputs.device

        def pad(tensor: Tensor, value: float = 0.0) -> Tensor:
            filler = tensor.new_full((count, steps - own, *tensor.shape[2:]), value)
            return torch.cat([tensor, filler], dim=1)

        tensors = {"inputs": pad(self.inputs), "labels": pad(self.labels) if self.every_step else self.labels}
        full = torch.full((count,), own, dtype=torch.int64, device=device)
        tensors["lengths"] = full if self.lengths is None else self.lengths
        ones = torch.ones(count, dtype=torch.float32, device=device)
        tensors["weights"] = ones if self.weights is None else self.weights
        ones = torch.ones(count, own, dtype=torch.float32, device=device)
        tensors["dt"] = pad(ones if self.dt is None else self.dt, 1.0)
        if self.mask is not None:
            tensors["mask"] = pad(self.mask, False)
        return tensors

    def map(self, change: Callable[[Tensor], Tensor]) -> "Split":
        """Return a split of what `change` makes of each tensor; it keeps sequences and types.

        Inputs that stay in their files are left unchanged: rows are read to where the indices are.
        """
        return self._changed(change, self.inputs if isinstance(self.inputs, StoredSequences) else change(self.inputs))

    def _changed(self, change: Callable[[Tensor], Tensor], inputs: Tensor | StoredSequences) -> "Split":
        names = ("labels", "lengths", "weights", "mask", "dt")
        tensors = {name: value for name in names if (value := getattr(self, name)) is not None}
        changed: dict[str, Any] = {name: change(tensor) for name, tensor in tensors.items()}
        return Split(inputs=inputs, **changed, missing=self.missing, classes=self.classes)

    def in_memory(self) -> "Split":
        """Return a split whose inputs are a tensor; inputs that stay in their files are read."""
        return replace(self, inputs=self.inputs[:]) if isinstance(self.inputs, StoredSequences) else self

    def fingerprint(self) -> dict[str, str | None]:
        """Return a digest of each of inputs, labels, lengths, weights and, if there is one, dt.

        Equal only for equal sequences. That of the labels includes the mask, since it is marked in them. It is computed
        once, and again if torch has changed a tensor in place since, or a file has changed.
        """
        tensors = {"inputs": self.inputs, "labels": self.labels, "lengths": self.lengths, "weights": self.weights}
        if self.dt is not None:  # runs of data without it keep their digest
            tensors["dt"] = self.dt
        states = [_state(tensor) for tensor in tensors.values()]
        known = vars(self).get("_fingerprint")
        if known is None or known[0] != states:
            known = states, {name: _digest(tensor) for name, tensor in tensors.items()}
            object.__setattr__(self, "_fingerprint", known)
        return dict(known[1])

    def valid(self) -> Tensor:
        """Return the mask of the valid steps, bool `(n, steps)`; false where they are padding."""
        if isinstance(self.inputs, StoredSequences):
            count, steps, _ = self.inputs.shape
            every = torch.full((count,), steps, dtype=torch.int64, device="cpu")
            return valid_steps(every if self.lengths is None else self.lengths, steps)
        return valid_values(self.inputs, self.lengths).squeeze(2)

    def is_missing(self) -> Tensor:
        """Return the mask of the missing values, bool `(n, steps, channels)`."""
        if isinstance(self.inputs, StoredSequences):  # refused when their files were read
            return torch.zeros(self.inputs.shape, dtype=torch.bool, device="cpu")
        return self.inputs.isnan()

    def extremes(self) -> tuple[float, float] | None:
        """Return the smallest and the largest value over the valid steps; `None` if all are missing."""
        if isinstance(self.inputs, StoredSequences):
            return float(self.inputs.scan.low.min()), float(self.inputs.scan.high.max())
        if self.lengths is None and self.inputs.numel():
            low, high = (float(end) for end in self.inputs.aminmax())
            if not math.isnan(low):  # nothing is missing: no copy of all values
                return low, high
        values = self.inputs[self.valid()]
        values = values[~values.isnan()]
        return (float(values.min()), float(values.max())) if len(values) else None


def _digest(values: Tensor | StoredSequences | None) -> str | None:
    return values.scan.digest if isinstance(values, StoredSequences) else tensor_digest(values)


def _state(tensor: Tensor | StoredSequences | None) -> object:
    """Return a value that stays equal until torch writes to the tensor; never equal if writes are not counted."""
    if tensor is None:
        return None
    if isinstance(tensor, StoredSequences):
        return tensor.scan  # another one once a file has changed
    return object() if tensor.is_inference() else (tensor.data_ptr(), tensor._version)


def tensor_digest(tensor: Tensor | None) -> str | None:
    """Return the SHA-256 of a tensor's type, shape and values; `None` for `None`."""
    if tensor is None:
        return None
    values = tensor.detach().cpu().contiguous()
    digest = hashlib.sha256(f"{values.dtype} {tuple(values.shape)} ".encode())
    digest.update(values.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def steps_text(split: Split) -> str:
    """Return the number of steps of the sequences, such as `64` or `3 to 64`."""
    steps = split.inputs.shape[1]
    low, high = (steps, steps) if split.lengths is None else (int(split.lengths.min()), int(split.lengths.max()))
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def missing_text(split: Split) -> str:
    """Return the number of missing values, their share, and how they are met."""
    count = 0 if isinstance(split.inputs, StoredSequences) else int(split.is_missing().sum())
    if count == 0:
        return "0"
    total = int(split.valid().sum()) * split.inputs.shape[2]
    how = "" if split.missing is None else f", {MISSING[split.missing]}"
    return f"{count:,} of {total:,} ({100 * count / total:.2g} %{how})"


def check_regular(argument: str, split: Split) -> None:
    """Raise `ValueError` if steps have unequal lengths or values are missing, which the diagnostics do not know."""
    if split.dt is not None:
        raise ValueError(
            f"{argument} must have steps of equal length for the theory diagnostics, got times with unequal distances. "
            "Leave the times out (drop instead of time, for a file), or call a function of noisyrnn.analysis yourself: "
            "those of the hidden state and its noise, and margin_certificate, take dt."
        )
    if split.missing is not None:
        raise ValueError(
            f"{argument} must have missing None for the theory diagnostics, got {split.missing!r}. Impute the values, "
            "and train without the setting."
        )


def check_split(argument: str, split: object) -> None:
    """Raise `TypeError` unless `split` is a `Split`."""
    if not isinstance(split, Split):
        raise TypeError(
            f"{argument} must be a Split, got {type(split).__name__}. Build one from tensors (n, steps, input_size) "
            "and (n,): Split(inputs=X, labels=y, classes=10)."
        )
