"""Saves a trained model as one safetensors file: weights, and a header with everything needed to rebuild it."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar, overload

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as safetensors_bytes
from torch import Tensor, nn

from noisyrnn.checks import check_choice, check_file_path, check_integer, check_number
from noisyrnn.files import write_atomically
from noisyrnn.missing import MISSING
from noisyrnn.models import HEADS, MODELS, SequenceClassifier, SequenceModel, SequenceToSequence, build_layer
from noisyrnn.training.seeding import seeded

FORMAT = 3
"""Format that `save` writes. `load` also reads format 1, classifiers of one cell only, and format 2, without digest."""

_KEY, _DIGEST = "noisyrnn", "sha256"
_FIELDS = {
    1: {"model", "options", "classes"},
    2: {"head", "model", "options", "outputs"},
    3: {"head", "model", "options", "outputs"},
}
_OPTIONAL = {"format", "class_names", "notes", "loss", "missing", "noise_mode", "noise_scale"}
AnyHead = TypeVar("AnyHead", bound=SequenceModel)


def save(
    model: SequenceModel,
    path: str | Path,
    *,
    class_names: Sequence[str] | None = None,
    notes: Mapping[str, Any] | None = None,
) -> None:
    """Write a model atomically, with its standardisation and class names; nothing is pickled.

    The `noise_mode` and the `noise_scale` of its layer are written too; its `kernel` is not.

    Args:
        model: Head on a layer that is one of `MODELS`.
        path: Path of the file, usually ending in `.safetensors`.
        class_names: Names of the classes of a classifier, in order.
        notes: Further content, JSON-ready; `read_header` returns it.

    Tied parameters are saved as copies of one another.

    Raises:
        TypeError: If the head or its layer is not from this library, or names or notes cannot be written as JSON.
        ValueError: If `load` would not rebuild the same model, for example because one of its modules was replaced
            or parametrized, or if the number of class names differs from that of the outputs. Nothing is written then.
    """
    check_file_path("path", path)
    write_atomically(Path(path), _content(model, class_names, notes))


def check_savable(model: SequenceModel, *, class_names: Sequence[str] | None = None) -> None:
    """Raise the same errors as `save`, without writing a file."""
    _content(model, class_names, None)


def _content(model: SequenceModel, class_names: Sequence[str] | None, notes: Mapping[str, Any] | None) -> bytes:
    """Return the content of a model's file, after rebuilding a model from it and comparing the two."""
    heads: dict[type[SequenceModel], str] = {head: name for name, head in HEADS.items()}
    if type(model) not in heads:
        inner = next(
            (name for name in ("_orig_mod", "module") if isinstance(getattr(model, name, None), nn.Module)), ""
        )
        hint = f" Save the model within it: model.{inner}." if inner else ""
        known = ", ".join(head.__name__ for head in heads)
        raise TypeError(f"model must be one of {known}, got {type(model).__name__}.{hint}")
    names = {entry.build: name for name, entry in MODELS.items()}
    layer = model.layer
    if type(layer) not in names:
        raise TypeError(f"layer must be one of the library's, got {type(layer).__name__}. Save model.state_dict().")
    if not isinstance(model.readout, nn.Linear):
        raise _changed(f"readout as {type(model.readout).__name__}")
    for name, wanted in (("activation", "a name"), ("diffusion", "a matrix")):
        value = layer.options().get(name)
        if not isinstance(value, str | list | None):
            raise TypeError(
                f"{name} must be {wanted} in a file, which holds no functions, got {value!r}. Save model.state_dict(), "
                f"and load it into a model made with the same {name}."
            )
    outputs = model.readout.out_features
    check_class_names(class_names, outputs)
    header = {
        "format": FORMAT,
        "head": heads[type(model)],
        "model": names[type(layer)],
        "options": layer.options(),
        "outputs": outputs,
        "class_names": None if class_names is None else list(class_names),
        **({} if model.missing is None else {"missing": model.missing}),
        **({"loss": model.loss} if isinstance(model, SequenceToSequence) and model.classes else {}),
        **({} if layer.noise_mode == "auto" else {"noise_mode": layer.noise_mode}),
        **({} if layer.noise_scale == 1 else {"noise_scale": layer.noise_scale}),
        **({} if notes is None else {"notes": dict(notes)}),
    }
    try:
        text = json.dumps(header)
    except (TypeError, ValueError, RecursionError) as error:
        raise TypeError(f"options and notes must hold what JSON can, got one that does not ({error}).") from error
    state = model.state_dict()
    for name, tensor in state.items():
        if not isinstance(tensor, Tensor) or tensor.is_meta or tensor.layout != torch.strided or tensor.is_quantized:
            kind = "on the meta device" if isinstance(tensor, Tensor) and tensor.is_meta else "as no ordinary tensor"
            raise _changed(f"{name} {kind}")
    tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in state.items()}
    try:
        written = json.loads(text)
        rebuilt = _built(Header(**{name: written[name] for name in _HEADER if name in written}), tensors, "them")
    except ValueError as error:
        raise _changed(f"other settings ({error})") from error
    _check_same_modules(model, rebuilt)
    _check_same_values(model, _filled(rebuilt, tensors, "them"))
    if any(module._forward_hooks or module._forward_pre_hooks for module in model.modules()):
        _check_same_outputs(model, rebuilt.eval())
    return to_bytes(tensors, metadata={_KEY: text, _DIGEST: _digest(text, tensors)})


def _changed(what: str) -> ValueError:
    """Return the error for a model that `load` would not rebuild."""
    return ValueError(
        f"model must have the modules and settings of its class to be saved, got {what}. Undo the change, for example "
        "with torch.nn.utils.parametrize.remove_parametrizations or torch.nn.utils.prune.remove, or save "
        "model.state_dict()."
    )


def _check_same_modules(model: nn.Module, rebuilt: nn.Module) -> None:
    """Raise unless two models have the same modules and settings, and tensors of the same names and shapes.

    Raises:
        ValueError: If they differ; the message names the first difference.
    """
    modules, others = dict(model.named_modules(remove_duplicate=False)), dict(rebuilt.named_modules())
    for name in [*modules, *others]:
        one, other = modules.get(name), others.get(name)
        if one is None or other is None:
            raise _changed(f"{name} {'missing' if one is None else 'added'}")
        if type(one) is not type(other) or "forward" in vars(one):
            raise _changed(f"{name or 'forward'} as {type(one).__name__}")
        if name == "":  # the readout defines the number of outputs, not the arguments of the head
            continue
        for setting, value in vars(other).items():
            plain = (
                not setting.startswith("_") and isinstance(value, bool | int | float | str) and setting != "training"
            )
            if plain and vars(one).get(setting) != value:
                raise _changed(f"{name}.{setting} {vars(one).get(setting)!r}, built with {value!r}")
    ours, theirs = _tensors(model), _tensors(rebuilt)
    for name in [*ours, *theirs]:
        if name not in ours or name not in theirs:
            raise _changed(f"{name} {'added' if name in ours else 'missing'}")
        if ours[name].shape != theirs[name].shape:
            raise _changed(f"{name} of shape {tuple(ours[name].shape)}")


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    """Return all parameters and buffers, including those that a state dictionary leaves out."""
    return {
        **dict(model.named_parameters(remove_duplicate=False)),
        **dict(model.named_buffers(remove_duplicate=False)),
    }


def _check_same_values(model: nn.Module, rebuilt: nn.Module) -> None:
    """Raise unless all tensors of two models with the same modules are equal.

    Raises:
        ValueError: If they differ; the message names the first difference.
    """
    theirs = _tensors(rebuilt)
    for name, tensor in _tensors(model).items():
        one, other = tensor.detach().cpu(), theirs[name].detach()
        if one.dtype != other.dtype or not _same_bytes(one, other):
            raise _changed(f"{name} with other values than are saved")


def _check_same_outputs(model: SequenceModel, rebuilt: SequenceModel) -> None:
    """Raise if a hook changes the outputs of a model: hooks cannot be saved. Hooks that only observe are allowed.

    Raises:
        ValueError: If a hook changes the outputs.
    """
    model, example = deepcopy(model).eval(), next(model.parameters())
    model.layer.noise_mode = rebuilt.layer.noise_mode = "off"
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(2, 3, model.input_size, generator=generator, dtype=torch.float32, device="cpu")
    inputs = inputs.to(example.device, example.dtype)
    with torch.no_grad():
        one, other = model(inputs), rebuilt.to(example.device)(inputs)
    if not torch.allclose(one, other, rtol=1e-3, atol=1e-5, equal_nan=True):
        raise _changed("a forward hook that changes its outputs")


def _same_bytes(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and _bytes(one) == _bytes(other)


def to_bytes(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> bytes:
    """Return a safetensors file with sorted metadata: the package writes them in a different order each time."""
    content = safetensors_bytes(dict(tensors), metadata=dict(metadata))
    start = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:start])
    header["__metadata__"] = dict(sorted(metadata.items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + content[start:]


def _bytes(tensor: Tensor) -> bytes:
    """Return the values of a tensor as bytes, as they are in memory."""
    return tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes()


def _digest(text: str, tensors: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 of the header and of names, types, shapes and values of the tensors."""
    digest = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(repr((name, str(tensor.dtype), tuple(tensor.shape))).encode())
        digest.update(_bytes(tensor))
    return digest.hexdigest()


def check_class_names(class_names: Sequence[str] | None, outputs: int) -> None:
    """Raise unless there are no names, or one string for each output."""
    if class_names is None:
        return
    if isinstance(class_names, str) or not all(isinstance(name, str) for name in class_names):
        raise TypeError(f"class_names must be a list of texts, got {class_names!r}.")
    if len(class_names) != outputs:
        raise ValueError(f"class_names must have one name for each of {outputs} outputs, got {len(class_names)}.")


@dataclass(frozen=True)
class Header:
    """Description of a model in the header of its file.

    Args:
        head: Key of `HEADS`.
        model: Key of `MODELS`.
        options: Options of the layer, with `input_size` and `hidden_size`.
        outputs: Number of outputs of the readout.
        class_names: Names of the outputs of a classifier, or `None`.
        notes: The `notes` passed to `save`.
        loss: "cross_entropy" for classes at every step; `None` where the head has one loss only.
        missing: How the model meets missing values; `None` if it does not.
        noise_mode: When noise is added, as in `RecurrentLayer`.
        noise_scale: Factor of all levels of the noise, as in `RecurrentLayer`.
    """

    head: str
    model: str
    options: dict[str, Any]
    outputs: int
    class_names: list[str] | None
    notes: dict[str, Any] = field(default_factory=dict)
    loss: str | None = None
    missing: str | None = None
    noise_mode: str = "auto"
    noise_scale: float = 1.0


_RENAMED = {"skewness": "skew_symmetry", "skewness_w": "skew_symmetry_w", "parametrisation": "noise_units"}
_NOISE_UNITS = {"published": "per_step", "paper": "per_time"}
"""Current names of options of version 0.1."""

_HEADER = ("head", "model", "options", "outputs", "class_names", "loss", "missing", "noise_mode", "noise_scale")


def read_header(path: str | Path) -> Header:
    """Read the description of the model in a file; raises the same errors as `load`."""
    return _read(Path(path))[0]


@overload
def load(path: str | Path) -> SequenceClassifier: ...
@overload
def load(path: str | Path, head: type[AnyHead]) -> AnyHead: ...
def load(path: str | Path, head: type[Any] = SequenceClassifier) -> Any:
    """Load a model written by `save`, in evaluation mode, on the CPU.

    Args:
        path: Path of the file. Nothing in it is unpickled.
        head: Required type of the model: `SequenceClassifier`, `SequenceRegressor` or `SequenceToSequence`, or
            `SequenceModel` for any of them.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is damaged, a pickle, not written by `save`, of another format or with another head, or
            if its weights do not match the model in its header.
    """
    check_file_path("path", path)
    path = Path(path)
    header, tensors = _read(path)
    saved_head = HEADS[header.head]
    if not issubclass(saved_head, head):
        raise ValueError(
            f"path must hold a {head.__name__}, got {path} with a {saved_head.__name__}. "
            f"Use load(path, {saved_head.__name__})."
        )
    return _filled(_built(header, tensors, str(path)), tensors, str(path)).eval()


def _built(header: Header, tensors: Mapping[str, Tensor], path: str) -> SequenceModel:
    """Build the model of a header, with the sizes of the tensors of the file at `path`.

    Raises:
        ValueError: If a setting has the wrong type or range.
    """
    options = dict(header.options)
    try:
        _check_sizes(header, tensors)
        with seeded(0), torch.device("cpu"):
            layer = build_layer(header.model, options.pop("input_size"), options.pop("hidden_size"), options)
            check_number("noise_scale", header.noise_scale, minimum=0.0)
            layer.noise_mode, layer.noise_scale = header.noise_mode, header.noise_scale
            head: Any = HEADS[header.head]
            sizes = {"classes" if header.loss or header.head == "classifier" else "targets": header.outputs}
            statistics = {name: tensors[name] for name in ("target_mean", "target_std") if name in tensors}
            model: SequenceModel = head(layer, **sizes, **statistics, missing=header.missing)
    except (TypeError, ValueError) as error:
        raise ValueError(f"path must hold settings that its header's model takes, got {path}: {error}") from error
    return model.to(tensors["readout.weight"].dtype) if "readout.weight" in tensors else model


def _filled(model: SequenceModel, tensors: Mapping[str, Tensor], path: str) -> SequenceModel:
    """Copy the tensors of the file at `path` into the model.

    Raises:
        ValueError: If they do not match the model.
    """
    try:
        # Not strict about names: wrong ones get a message of this module. Assigned, so that each keeps its type.
        names = model.load_state_dict(tensors, strict=False, assign=True)
    except RuntimeError as error:
        mismatch = str(error).splitlines()[-1].strip()
        raise ValueError(f"path must hold weights of its header's shapes, got {path} with a {mismatch}") from error
    missing, extra = ", ".join(names.missing_keys), ", ".join(names.unexpected_keys)
    if missing:
        raise ValueError(f"path must hold every tensor of its header's model, got {path} without {missing}.")
    if extra:
        raise ValueError(f"path must hold no tensor but those of its header's model, got {path} with {extra}.")
    return model


def _check_sizes(header: Header, tensors: Mapping[str, Tensor]) -> None:
    """Raise if the header describes a larger model than its tensors: building it could take all memory.

    Raises:
        TypeError: If a size is not an integer.
        ValueError: If a size is larger than any axis of the tensors, or there are more layers than tensors.
    """
    largest = max((size for tensor in tensors.values() for size in tensor.shape), default=0)
    sizes: dict[str, Any] = {name: header.options.get(name) for name in ("input_size", "hidden_size")}
    sizes["outputs"] = header.outputs
    for name, size in sizes.items():
        check_integer(name, size, minimum=1)
        if size > largest:
            raise ValueError(f"{name} must be at most {largest}, the longest axis of the weights, got {size}.")
    layers = header.options.get("num_layers", 1)
    check_integer("num_layers", layers, minimum=1)
    if layers > len(tensors):
        raise ValueError(f"num_layers must be at most {len(tensors)}, the number of tensors, got {layers}.")


def _read(path: Path) -> tuple[Header, dict[str, Tensor]]:
    """Read header and tensors of a file in a known format."""
    if not path.is_file():
        reason = "which is a folder. Name the file in it" if path.is_dir() else "which does not exist"
        raise FileNotFoundError(f"path must be a model file, got {path}, {reason}.")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            header = json.loads(metadata.get(_KEY, "null"))
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118 (not a dictionary)
    except (SafetensorError, OSError, ValueError, RecursionError) as error:
        if _looks_pickled(path):
            raise ValueError(
                f"path must be a safetensors file, got {path}, which is a pickle. A pickle can run code and is not "
                "opened: write the model with noisyrnn.save."
            ) from error
        raise ValueError(f"path must be a whole safetensors file, got {path}, which is damaged ({error}).") from error
    known = metadata.get(_DIGEST)
    if known is not None and known != _digest(metadata.get(_KEY, ""), tensors):
        raise ValueError(
            f"path must be a whole safetensors file, got {path}, which is damaged (it does not have the "
            "digest in its header). Copy or train the model again."
        )
    foreign = ValueError(f"path must be a file written by noisyrnn.save, got {path}, whose header is not.")
    number = header.get("format") if isinstance(header, dict) else None
    if not isinstance(number, int) or isinstance(number, bool) or (number >= 3 and known is None):
        raise foreign
    if number not in _FIELDS:
        formats = " or ".join(map(str, _FIELDS))
        raise ValueError(f"path must be of format {formats}, got {number} in {path}. Update noisyrnn.")
    if not _FIELDS[number] <= header.keys() <= _FIELDS[number] | _OPTIONAL:
        raise foreign
    if number == 1:
        header |= {"head": "classifier", "outputs": header["classes"]}
    options = header["options"]
    if not (isinstance(options, dict) and {"input_size", "hidden_size"} <= options.keys()):
        raise foreign
    options.pop("noise_seed", None)  # a file of version 0.1, whose layers drew their noise from a counter
    for former, now in _RENAMED.items():
        if former in options:
            options[now] = options.pop(former)
    if "noise_units" in options:
        options["noise_units"] = _NOISE_UNITS.get(options["noise_units"], options["noise_units"])
    if header["model"] == "exprnn":
        options.setdefault("recurrent_base", "initial")  # the only value before the option existed
    check_choice("head", header["head"], HEADS)
    check_choice("model", header["model"], MODELS)
    notes = header.get("notes", {})
    loss = header.get("loss")
    if loss is not None and (header["head"], loss) != ("sequence", "cross_entropy"):
        raise foreign
    missing = header.get("missing")
    if missing is not None:
        check_choice("missing", missing, MISSING)
    return Header(
        header["head"],
        header["model"],
        options,
        header["outputs"],
        header.get("class_names"),
        notes,
        loss,
        missing,
        header.get("noise_mode", "auto"),
        header.get("noise_scale", 1.0),
    ), tensors


def _looks_pickled(path: Path) -> bool:
    """Return whether a file begins like one written by `pickle.dump` or `torch.save`."""
    with path.open("rb") as file:
        start = file.read(4)
    return start == b"PK\x03\x04" or (start[:1] == b"\x80" and start[1:2] in b"\x02\x03\x04\x05")
