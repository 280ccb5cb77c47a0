"""A classifier as one safetensors file: weights, and in its header what is needed to rebuild it."""

import json
from collections.abc import Sequence
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes

from noisyrnn.checks import check_choice
from noisyrnn.models import MODELS, SequenceClassifier
from noisyrnn.run_folder import FORMAT, write_atomically
from noisyrnn.training.seeding import seeded

_KEY = "noisyrnn"


def save(model: SequenceClassifier, path: str | Path, *, class_names: Sequence[str] | None = None) -> None:
    """Write `model` atomically; standardisation and class names travel with it, nothing is pickled.

    Args:
        model: Its layer is one of `MODELS`.
        path: The file, by custom `.safetensors`.
        class_names: One for each class.
    """
    names = {entry.layer: name for name, entry in MODELS.items()}
    layer = model.layer
    if type(layer) not in names:
        raise TypeError(f"layer must be one of the library's, got {type(layer).__name__}.")
    header = {
        "format": FORMAT,
        "model": names[type(layer)],
        "options": layer.options(),
        "classes": model.classes,
        "class_names": None if class_names is None else list(class_names),
    }
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    write_atomically(Path(path), to_bytes(tensors, metadata={_KEY: json.dumps(header)}))


def load(path: str | Path) -> SequenceClassifier:
    """The classifier that `save` wrote, in evaluation mode, on the CPU.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is damaged, not written by `save`, or of another format.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"path must be a model file, got {path}, which does not exist.")
    try:
        with safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {}).get(_KEY, "null"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dictionary)
    except (SafetensorError, OSError, json.JSONDecodeError) as error:
        raise ValueError(f"path must be a whole safetensors file, got {path}, which is damaged ({error}).") from error
    if not isinstance(header, dict) or not {"format", "model", "options", "classes"} <= header.keys():
        raise ValueError(f"path must be a file written by noisyrnn.save, got {path}, whose header is not.")
    if header["format"] != FORMAT:
        raise ValueError(f"path must be of format {FORMAT}, got {header['format']} in {path}. Update noisyrnn.")
    check_choice("model", header["model"], MODELS)
    options = dict(header["options"])
    with seeded(0):
        layer = MODELS[header["model"]].build(options.pop("input_size"), options.pop("hidden_size"), options)
        model = SequenceClassifier(layer, header["classes"])
    try:
        model.to(tensors["readout.weight"].dtype).load_state_dict(tensors)
    except (RuntimeError, KeyError) as error:
        raise ValueError(f"path must hold the weights of its header's model, got {path}, which does not.") from error
    return model.eval()
