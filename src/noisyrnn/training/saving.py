"""A trained model as one safetensors file: weights, and in its header what is needed to rebuild it."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar, overload

from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes
from torch import Tensor

from noisyrnn.checks import check_choice
from noisyrnn.models import HEADS, MODELS, Head, SequenceClassifier
from noisyrnn.run_folder import write_atomically
from noisyrnn.training.seeding import seeded

FORMAT = 2
"""Written by `save`. Format 1 knew classifiers of one cell alone; `load` still reads it."""

_KEY = "noisyrnn"
_FIELDS = {1: {"model", "options", "classes"}, 2: {"head", "model", "options", "outputs"}}
AnyHead = TypeVar("AnyHead", bound=Head)


def save(
    model: Head,
    path: str | Path,
    *,
    class_names: Sequence[str] | None = None,
    notes: Mapping[str, Any] | None = None,
) -> None:
    """Write `model` atomically; standardisation and class names travel with it, nothing is pickled.

    Args:
        model: A head on a layer that is one of `MODELS`.
        path: The file, by custom `.safetensors`.
        class_names: One for each class of a classifier.
        notes: What the caller wants kept with it, as JSON holds it; `read_header` gives it back.

    Raises:
        TypeError: If the head or its layer is not the library's.
        ValueError: If the number of class names is not that of the outputs.
    """
    heads = {head: name for name, head in HEADS.items()}
    if type(model) not in heads:
        raise TypeError(f"model must be one of {', '.join(h.__name__ for h in heads)}, got {type(model).__name__}.")
    names = {entry.layer: name for name, entry in MODELS.items()}
    layer, outputs = model.layer, model.readout.out_features
    if type(layer) not in names:
        raise TypeError(f"layer must be one of the library's, got {type(layer).__name__}.")
    check_class_names(class_names, outputs)
    header = {
        "format": FORMAT,
        "head": heads[type(model)],
        "model": names[type(layer)],
        "options": layer.options(),
        "outputs": outputs,
        "class_names": None if class_names is None else list(class_names),
        **({} if notes is None else {"notes": dict(notes)}),
    }
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    write_atomically(Path(path), to_bytes(tensors, metadata={_KEY: json.dumps(header)}))


def check_class_names(class_names: Sequence[str] | None, outputs: int) -> None:
    """Raise `ValueError` unless there are no names, or one for each output."""
    if class_names is not None and len(class_names) != outputs:
        raise ValueError(f"class_names must have one name for each of {outputs} outputs, got {len(class_names)}.")


@dataclass(frozen=True)
class Header:
    """What a model file says of its model.

    Args:
        head: Key of `HEADS`.
        model: Key of `MODELS`.
        options: Of the layer, with `input_size` and `hidden_size`.
        outputs: Of the readout.
        class_names: One for each output of a classifier, or `None`.
        notes: What the caller of `save` gave it.
    """

    head: str
    model: str
    options: dict[str, Any]
    outputs: int
    class_names: list[str] | None
    notes: dict[str, Any] = field(default_factory=dict)


def read_header(path: str | Path) -> Header:
    """What the file says of its model; raises as `load` does."""
    return _read(Path(path))[0]


@overload
def load(path: str | Path) -> SequenceClassifier: ...
@overload
def load(path: str | Path, head: type[AnyHead]) -> AnyHead: ...
def load(path: str | Path, head: type[Any] = SequenceClassifier) -> Any:
    """The model that `save` wrote, in evaluation mode, on the CPU.

    Args:
        path: The file. Nothing in it is unpickled.
        head: What it must hold: `SequenceClassifier`, `SequenceRegressor` or `SequenceToSequence`.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is damaged, a pickle, not written by `save`, of another format or with another head, or if its
            weights are not those of the model in its header.
    """
    path = Path(path)
    header, tensors = _read(path)
    found = HEADS[header.head]
    if found is not head:
        raise ValueError(
            f"path must hold a {head.__name__}, got {path} with a {found.__name__}. Use load(path, {found.__name__})."
        )
    options = dict(header.options)
    with seeded(0):
        layer = MODELS[header.model].build(options.pop("input_size"), options.pop("hidden_size"), options)
        model = found(layer, header.outputs)
    if "readout.weight" in tensors:
        model.to(tensors["readout.weight"].dtype)
    try:
        names = model.load_state_dict(tensors, strict=False)  # not strict about names: those get our own sentence
    except RuntimeError as error:
        mismatch = str(error).splitlines()[-1].strip()
        raise ValueError(f"path must hold weights of its header's shapes, got {path} with a {mismatch}") from error
    missing, extra = ", ".join(names.missing_keys), ", ".join(names.unexpected_keys)
    if missing:
        raise ValueError(f"path must hold every tensor of its header's model, got {path} without {missing}.")
    if extra:
        raise ValueError(f"path must hold no tensor but those of its header's model, got {path} with {extra}.")
    return model.eval()


def _read(path: Path) -> tuple[Header, dict[str, Tensor]]:
    """Header and tensors of a file of a format that is known."""
    if not path.is_file():
        raise FileNotFoundError(f"path must be a model file, got {path}, which does not exist.")
    try:
        with safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {}).get(_KEY, "null"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dictionary)
    except (SafetensorError, OSError, json.JSONDecodeError) as error:
        if _looks_pickled(path):
            raise ValueError(
                f"path must be a safetensors file, got {path}, which is a pickle. A pickle can run code and is not "
                "opened: write the model with noisyrnn.save."
            ) from error
        raise ValueError(f"path must be a whole safetensors file, got {path}, which is damaged ({error}).") from error
    foreign = ValueError(f"path must be a file written by noisyrnn.save, got {path}, whose header is not.")
    number = header.get("format") if isinstance(header, dict) else None
    if not isinstance(number, int):
        raise foreign
    if number not in _FIELDS:
        known = " or ".join(map(str, _FIELDS))
        raise ValueError(f"path must be of format {known}, got {number} in {path}. Update noisyrnn.")
    if not _FIELDS[number] <= header.keys():
        raise foreign
    if number == 1:
        header |= {"head": "classifier", "outputs": header["classes"]}
    options = header["options"]
    if not (isinstance(options, dict) and {"input_size", "hidden_size"} <= options.keys()):
        raise foreign
    options.pop("noise_seed", None)  # of version 0.1, whose layers drew their noise from a counter of their own
    if header["model"] == "exprnn":
        options.setdefault("recurrent_base", "initial")  # all there was before the option
    check_choice("head", header["head"], HEADS)
    check_choice("model", header["model"], MODELS)
    notes = header.get("notes", {})
    return Header(
        header["head"], header["model"], options, header["outputs"], header.get("class_names"), notes
    ), tensors


def _looks_pickled(path: Path) -> bool:
    """Whether a file that is no safetensors file begins as `pickle.dump`, or `torch.save`, begin one."""
    with path.open("rb") as file:
        start = file.read(4)
    return start == b"PK\x03\x04" or (start[:1] == b"\x80" and start[1:2] in b"\x02\x03\x04\x05")
