"""Checkpoints: the state of a training run between two steps, from which it resumes after a crash."""

import hashlib
import io
import pickle
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from noisyrnn.files import FORMAT, write_atomically
from noisyrnn.run_folder import changes, listed
from noisyrnn.training.config import TrainConfig


@dataclass
class Progress:
    """Progress of a run, apart from weights and optimizer. It and the seed determine noise and order of the data.

    Args:
        epoch: Current epoch, from 1.
        batch: Batches completed in this epoch.
        step: Optimizer steps completed in total.
        loss_sum: Sum of the losses of the sequences seen in this epoch.
        correct: Sum of the weights of the sequences classified correctly in this epoch.
        seen: Sequences seen in this epoch.
        seconds: Training time so far.
        epoch_seconds: Training time of this epoch so far.
        best_epoch: Epoch of the best weights; 0 before the first epoch ends.
        best_accuracy: Validation accuracy of the best epoch.
        best_loss: Validation loss of the best epoch.
        history: One row of metrics per finished epoch.
    """

    epoch: int = 1
    batch: int = 0
    step: int = 0
    loss_sum: float = 0.0
    correct: float = 0
    seen: int = 0
    seconds: float = 0.0
    epoch_seconds: float = 0.0
    best_epoch: int = 0
    best_accuracy: float = -1.0
    best_loss: float = float("inf")
    history: list[dict[str, float]] = field(default_factory=list)


@dataclass
class Checkpoint:
    """Everything needed to resume a run with bit-identical results.

    Args:
        settings: Settings of the run; a run with other settings rejects the checkpoint.
        origin: Further identity of the run: the model's sizes, digests of the data, the architecture and the objective.
        progress: Progress of the run.
        model: Weights.
        optimizer: State of the optimizer.
        best: Weights of the best epoch so far; `None` before the first epoch ends.
        average: Averaged weights, where there is an average.
    """

    settings: dict[str, Any]
    origin: dict[str, Any]
    progress: Progress
    model: dict[str, Tensor]
    optimizer: dict[str, Any]
    best: dict[str, Tensor] | None
    average: dict[str, Tensor] | None = None

    def write(self, path: Path) -> None:
        """Write the checkpoint atomically: the file at `path` is always complete."""
        buffer = io.BytesIO()
        content = {"format": FORMAT, **{name: getattr(self, name) for name in self.__dataclass_fields__}}
        torch.save({**content, "progress": asdict(self.progress)}, buffer)
        write_atomically(path, _sealed(buffer.getvalue()))

    @classmethod
    def read(cls, path: Path, config: TrainConfig, origin: dict[str, Any]) -> "Checkpoint":
        """Read the checkpoint at `path`; no code in it is executed.

        Raises:
            ValueError: If it is damaged, has another format, or is from a run with other settings, data, architecture
                or objective.
        """
        content = _read(path)
        stored = TrainConfig.from_dict(content["settings"]).to_dict()  # a missing setting has its default
        for name, value in config.to_dict().items():
            if stored.get(name) != value:
                raise ValueError(f"{name} must be {stored.get(name)!r} to resume {path.parent}, got {value!r}.")
        sizes = content["origin"].get("sizes", origin.get("sizes"))  # older checkpoints have none
        if sizes != origin.get("sizes"):
            raise ValueError(
                f"model must have {_in_words(sizes)} to resume {path.parent}, got {_in_words(origin['sizes'])}. "
                "Build the model of the checkpoint, or choose another folder."
            )
        changed = changes({**content["origin"], "sizes": sizes}, {**origin, "sizes": sizes})
        if changed:
            raise ValueError(
                f"resume must continue with the data, the model and the objective of {path}, got others: "
                f"{listed(changed)} changed since. Choose another folder, or start again without resume."
            )
        return cls(**{**content, "progress": Progress(**content["progress"])})


def _read(path: Path) -> dict[str, Any]:
    """Return the content of the checkpoint at `path`; no code in it is executed.

    Raises:
        ValueError: If it is damaged or has another format.
    """
    try:
        content: dict[str, Any] = torch.load(
            io.BytesIO(_unsealed(path.read_bytes())), weights_only=True, map_location="cpu"
        )
        version = content.pop("format", None)
    except (
        RuntimeError,
        EOFError,
        pickle.UnpicklingError,
        OSError,
        AttributeError,
        TypeError,
        ValueError,
        LookupError,
    ) as error:
        raise ValueError(
            f"checkpoint must be whole and of this version, got {path}, which is damaged or older. "
            "Start again without it."
        ) from error
    if version != FORMAT:
        raise ValueError(f"checkpoint must be of format {FORMAT}, got {version} in {path}.")
    return content


def read_settings(path: Path) -> dict[str, Any]:
    """Return the settings in the checkpoint at `path`.

    Raises:
        ValueError: If it is damaged or has another format.
    """
    return dict(_read(path)["settings"])


def trained_epochs(path: Path) -> int:
    """Return the number of epochs that the training of the checkpoint at `path` has ended.

    Raises:
        ValueError: If it is damaged or has another format.
    """
    return len(_read(path)["progress"]["history"])


def write_longer(source: Path, target: Path, *, epochs: int) -> None:
    """Write the checkpoint at `source` to `target`, for the same run with more epochs.

    No part of the state depends on the number of epochs that follow.

    Raises:
        ValueError: If it is damaged or has another format.
    """
    content = _read(source)
    content["settings"] = {**content["settings"], "epochs": epochs}
    Checkpoint(**{**content, "progress": Progress(**content["progress"])}).write(target)


def _in_words(sizes: Mapping[str, Any]) -> str:
    return listed([f"{name} {value}" for name, value in sizes.items()])


_SEAL = b"\nsha256:"
"""Separator between a checkpoint and its digest."""


def _sealed(content: bytes) -> bytes:
    """Append the digest of the content, where `torch.load` does not read."""
    return content + _SEAL + hashlib.sha256(content).digest()


def _unsealed(content: bytes) -> bytes:
    """Check the digest of the content and remove it.

    Raises:
        ValueError: If the content has no digest, or a wrong one.
    """
    size = len(content) - len(_SEAL) - hashlib.sha256().digest_size
    unsealed = content[: max(size, 0)]
    if _sealed(unsealed) != content:
        raise ValueError("the digest is not that of the content")
    return unsealed


def copied(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Copy a state dictionary to the CPU, so that later steps do not change it."""
    return {name: tensor.detach().cpu().clone() for name, tensor in state.items()}
