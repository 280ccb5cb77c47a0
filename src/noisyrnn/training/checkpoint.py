"""The state of a training run between two steps, and how it survives a crash."""

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
    """How far a run is, besides weights and optimiser. The noise and the order of the data follow from it and the seed.

    Args:
        epoch: The current epoch, from 1.
        batch: Batches of it that are done.
        step: Steps of the optimiser done in all.
        loss_sum: Sum over the sequences seen in this epoch.
        correct: Sequences of this epoch that were classified rightly, by their weights.
        seen: Sequences of this epoch seen.
        seconds: Training time so far.
        epoch_seconds: Training time of this epoch so far.
        best_epoch: The epoch of the best weights, 0 before there is one.
        best_accuracy: Its validation accuracy.
        best_loss: Its validation loss.
        history: One row of metrics for each finished epoch.
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
    """Everything a run needs to go on to the same bits.

    Args:
        settings: The settings it belongs to; others refuse it.
        origin: What else it belongs to: the model's sizes, digests of the data, the architecture and the objective.
        progress: How far it is.
        model: Weights.
        optimizer: State of the optimiser.
        best: Weights of the best epoch so far; `None` before there is one.
    """

    settings: dict[str, Any]
    origin: dict[str, Any]
    progress: Progress
    model: dict[str, Tensor]
    optimizer: dict[str, Any]
    best: dict[str, Tensor] | None

    def write(self, path: Path) -> None:
        """Write atomically: the file at `path` is always a whole checkpoint."""
        buffer = io.BytesIO()
        content = {"format": FORMAT, **{name: getattr(self, name) for name in self.__dataclass_fields__}}
        torch.save({**content, "progress": asdict(self.progress)}, buffer)
        write_atomically(path, _sealed(buffer.getvalue()))

    @classmethod
    def read(cls, path: Path, config: TrainConfig, origin: dict[str, Any]) -> "Checkpoint":
        """The checkpoint at `path`; nothing in it is executed.

        Raises:
            ValueError: If it is damaged, of another format, or of a run with other settings, data, architecture or
                objective.
        """
        try:
            content = torch.load(io.BytesIO(_unsealed(path.read_bytes())), weights_only=True, map_location="cpu")
            found = content.pop("format", None)
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
        if found != FORMAT:
            raise ValueError(f"checkpoint must be of format {FORMAT}, got {found} in {path}.")
        stored = TrainConfig.from_dict(content["settings"]).to_dict()  # with the default of a setting it lacks
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


def _in_words(sizes: Mapping[str, Any]) -> str:
    return listed([f"{name} {value}" for name, value in sizes.items()])


_SEAL = b"\nsha256:"
"""What stands between a checkpoint and its digest."""


def _sealed(content: bytes) -> bytes:
    """The content with its digest behind it, where `torch.load` does not look."""
    return content + _SEAL + hashlib.sha256(content).digest()


def _unsealed(content: bytes) -> bytes:
    """The content without its digest.

    Raises:
        ValueError: If the content has no digest, or that of another.
    """
    size = len(content) - len(_SEAL) - hashlib.sha256().digest_size
    found = content[: max(size, 0)]
    if _sealed(found) != content:
        raise ValueError("the digest is not that of the content")
    return found


def copied(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A copy of a state dictionary on the CPU that later steps leave alone."""
    return {name: tensor.detach().cpu().clone() for name, tensor in state.items()}
