"""Writes a trained model to a file for programs without this library."""

import json
import warnings
from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path

from torch import nn

from noisyrnn import __version__
from noisyrnn.checks import check_choice, check_file_path, check_flag
from noisyrnn.export.agreement import TOLERANCE, check_agreement
from noisyrnn.export.formats import FORMATS, PRETRAINED
from noisyrnn.export.graph import SequenceGraph, StepGraph
from noisyrnn.files import check_writable, write_atomically
from noisyrnn.models import HEADS, Head, SequenceModel
from noisyrnn.run_folder import RunFolder
from noisyrnn.training.saving import check_class_names, load, read_header

EXPORT_FORMAT = 1
"""Version of the names, shapes and metadata in the files."""


def export_model(
    model: Head,
    path: Path,
    *,
    format: str = "onnx",
    streaming: bool = False,
    class_names: Sequence[str] | None = None,
) -> Path:
    """Export a model, without noise and with its standardisation, and check that the file gives the same outputs.

    The inputs of a file are `inputs`, in the shape of the model's inputs and of the type of its weights, and `lengths`,
    int64 `(batch,)` in [1, steps], which it does not check and which an ONNX file does not require. Its output is
    `logits`, or `outputs` of a model of values, for any batch size and number of steps of length 1. If the
    mean of a channel is so many standard deviations from zero (about 8,000) that rounding to float32 would hide the
    variation of the inputs, or these are too small or too large for it, the inputs are float64.

    The inputs of a single-step file are `inputs` `(batch, input_size)` and `state`, zero at first, in the shape of
    `RecurrentLayer.step`. Its outputs are those so far, and `next_state`.

    A model that holds or masks missing values takes NaN. Its single-step file has one more input, `held`
    `(batch, input_size)`, zero at first, and the output `next_held`: the last standardized value of each channel.

    Args:
        model: Model to export; it is left unchanged.
        path: Path of the file.
        format: "onnx", or "torch" for an archive that `torch.export.load` reads.
        streaming: Whether the file computes a single step instead of a whole pass.
        class_names: Names of the classes, for the file's metadata.

    Returns:
        `path`.

    Raises:
        TypeError: If the model is not a sequence model with a linear readout, or another argument has a wrong type.
        ValueError: If the format is unknown, is not that of the suffix of the path, needs a package that is not
            installed or cannot compute the model, `streaming` is set for a bidirectional layer, the model skips steps
            without a value or is in another precision than float32 or float64, or the number of class names differs
            from that of the outputs.
        RuntimeError: If the file does not agree with the model; it is then not written.
    """
    check_file_path("path", path)
    check_choice("format", format, FORMATS)
    suffixes = {form.suffix: name for name, form in FORMATS.items()}
    if suffixes.get(path.suffix, format) != format:
        raise ValueError(f"format must be {suffixes[path.suffix]!r} for a file {path.name}, got {format!r}.")
    write_atomically(path, _content(model, format=format, streaming=streaming, class_names=class_names))
    return path


def export_run(
    folder: RunFolder, *, output: Path | None = None, format: str = "onnx", streaming: bool = False
) -> list[Path]:
    """Export the model of a finished run: `model.onnx`, with `streaming` also `model-step.onnx`; or both as `.pt2`.

    The metadata of a file hold the names of the classes and, where the data of the training name them, those of the
    channels in the order of the inputs; and for a model that was trained with time stamps `nominal_step`, the time in
    their unit that every step of the file takes. A warning says that the file takes no other steps. The format
    "pretrained" is described in `export/pretrained.py`.

    Args:
        folder: Finished run.
        output: Folder for the files (default: that of the run).
        format: "onnx", "torch" for archives that `torch.export.load` reads, or "pretrained" for weights and model card.
        streaming: Whether to write a single-step file too; not for "pretrained".

    Returns:
        Paths of the files.

    Raises:
        ValueError: If the run has not finished, the output is not writable, or for the reasons of `export_model`; for
            "pretrained" also if it has no test results of its present weights.
        RuntimeError: If a file does not agree with the model; none is then written.
    """
    folder.check_finished()
    check_choice("format", format, (*FORMATS, PRETRAINED))
    if format == PRETRAINED:
        if streaming:
            raise ValueError(f"streaming must be False with format {PRETRAINED!r}, got True. It is for onnx and torch.")
        from noisyrnn.export.pretrained import export_pretrained  # brings the report's figures

        return export_pretrained(folder, folder.path if output is None else output)
    header = read_header(folder.model)
    model = load(folder.model, HEADS[header.head])
    training = header.notes.get("training", {})
    nominal = training.get("nominal_step") if model.supports_dt else None
    if nominal is not None:
        warnings.warn(
            f"The run was trained with time stamps, the file takes none: every step of it takes {nominal:g} in their "
            "unit. For sequences with other steps it gives other answers than noisyrnn predict.",
            stacklevel=2,
        )
    output = folder.path if output is None else output
    check_writable(output)
    contents = {}
    for stem, steps in [("model", False), ("model-step", True)][: 1 + streaming]:
        path = output / f"{stem}{FORMATS[format].suffix}"
        contents[path] = _content(
            model,
            format=format,
            streaming=steps,
            class_names=header.class_names,
            channel_names=training.get("channel_names"),
            nominal_step=nominal,
        )
    for path, content in contents.items():
        write_atomically(path, content)
    return list(contents)


def _check_model(model: object) -> None:
    """Raise unless a model is one that a file can hold."""
    if not isinstance(model, SequenceModel):
        raise TypeError(
            "model must be a SequenceClassifier, a SequenceRegressor or a SequenceToSequence to be exported, got "
            f"{type(model).__name__}. Wrap a layer in one of them."
        )
    if not isinstance(model.readout, nn.Linear):
        raise TypeError(f"model must have a linear readout to be exported, got {type(model.readout).__name__}.")
    dtype = model.readout.weight.dtype
    if dtype not in TOLERANCE:
        raise ValueError(f"model must be float32 or float64 to be exported, got {dtype}. Convert it: model.float().")


def _content(
    model: Head,
    *,
    format: str,
    streaming: bool,
    class_names: Sequence[str] | None,
    channel_names: Sequence[str] | None = None,
    nominal_step: float | None = None,
) -> bytes:
    """Return the content of an exported file, after checking that it agrees with the model."""
    check_choice("format", format, FORMATS)
    check_flag("streaming", streaming)
    _check_model(model)
    form = FORMATS[format]
    form.check_installed()
    check_class_names(class_names, model.readout.out_features)
    if model.missing == "skip":
        raise ValueError(
            "model must have missing None, 'hold' or 'mask' to be exported, got 'skip': the steps of a file have no "
            "lengths. Train with --missing hold or mask, or use noisyrnn.load."
        )
    model = deepcopy(model).cpu().eval()
    model.layer.noise_mode, model.layer.kernel = "off", "reference"
    graph = StepGraph(model) if streaming else SequenceGraph(model)
    metadata = {
        "noisyrnn.format": str(EXPORT_FORMAT),
        "noisyrnn.version": __version__,
        "head": type(model).__name__,
        "layer": type(model.layer).__name__,
    }
    if model.missing is not None:
        metadata["missing"] = model.missing
    if class_names is not None:
        metadata["class_names"] = json.dumps(list(class_names))
    if channel_names is not None:
        metadata["channel_names"] = json.dumps(list(channel_names))
    if nominal_step is not None:
        metadata["nominal_step"] = json.dumps(nominal_step)
    content = form.build(graph, metadata)
    check_agreement(model, graph, form.read(content))
    return content
