"""From a trained model to a file for programs without this library."""

import json
from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path

from noisyrnn import __version__
from noisyrnn.checks import check_choice
from noisyrnn.export.agreement import check_agreement
from noisyrnn.export.formats import FORMATS
from noisyrnn.export.graph import SequenceGraph, StepGraph
from noisyrnn.files import check_writable, write_atomically
from noisyrnn.models import HEADS, Head
from noisyrnn.run_folder import RunFolder
from noisyrnn.training.saving import check_class_names, load, read_header

EXPORT_FORMAT = 1
"""Of names, shapes and metadata in the files."""


def export_model(
    model: Head,
    path: Path,
    *,
    format: str = "onnx",
    streaming: bool = False,
    class_names: Sequence[str] | None = None,
) -> Path:
    """Write a model, without its noise and with its standardisation, after a check that the file gives its answers.

    A file takes `inputs`, shaped as the model's own and of the type of its weights, and `lengths`, int64 `(batch,)` in
    [1, steps], which it does not check; an ONNX file may be run without them. It gives `logits`, or `outputs` where the
    model is not a classifier, for any batch size and number of steps, each of which lasts 1. Where the mean of a
    channel is so many standard deviations from zero that the inputs would lose their spread in float32 (about 8,000), a
    file takes float64 inputs.

    A file for streams takes `inputs` `(batch, input_size)` and `state`, zeros at first, shaped as in
    `RecurrentLayer.step`. It gives the answer so far and `next_state`.

    Args:
        model: It is left as it is.
        path: The file.
        format: "onnx", or "torch" for an archive that `torch.export.load` reads.
        streaming: Whether the file makes a single step instead of a whole pass.
        class_names: Go into the file's metadata.

    Returns:
        `path`.

    Raises:
        ValueError: If the format is unknown or needs what is not installed, a bidirectional layer is to stream, or the
            number of class names is not that of the outputs.
        RuntimeError: If the file does not agree with the model; it is then not written.
    """
    write_atomically(path, _content(model, format=format, streaming=streaming, class_names=class_names))
    return path


def export_run(
    folder: RunFolder, *, output: Path | None = None, format: str = "onnx", streaming: bool = False
) -> list[Path]:
    """Write the model of a finished run: `model.onnx`, and for streams `model-step.onnx` too; or the same as `.pt2`.

    Args:
        folder: A finished run.
        output: Folder the files go to; that of the run by default.
        format: See `export_model`.
        streaming: Whether to write the file for streams too.

    Returns:
        The files.

    Raises:
        ValueError: If the run has not finished, the output cannot be written to, or as `export_model` does.
        RuntimeError: If a file does not agree with the model; none is then written.
    """
    folder.check_finished()
    check_choice("format", format, FORMATS)
    header = read_header(folder.model)
    model = load(folder.model, HEADS[header.head])
    output = folder.path if output is None else output
    check_writable(output)
    contents = {}
    for stem, steps in [("model", False), ("model-step", True)][: 1 + streaming]:
        path = output / f"{stem}{FORMATS[format].suffix}"
        contents[path] = _content(model, format=format, streaming=steps, class_names=header.class_names)
    for path, content in contents.items():
        write_atomically(path, content)
    return list(contents)


def _content(model: Head, *, format: str, streaming: bool, class_names: Sequence[str] | None) -> bytes:
    """A file that has been read again and agrees with the model."""
    check_choice("format", format, FORMATS)
    form = FORMATS[format]
    form.check_installed()
    check_class_names(class_names, model.readout.out_features)
    model = deepcopy(model).cpu().eval()
    model.layer.noise_mode, model.layer.kernel = "off", "reference"
    graph = StepGraph(model) if streaming else SequenceGraph(model)
    metadata = {
        "noisyrnn.format": str(EXPORT_FORMAT),
        "noisyrnn.version": __version__,
        "head": type(model).__name__,
        "layer": type(model.layer).__name__,
    }
    if class_names is not None:
        metadata["class_names"] = json.dumps(list(class_names))
    content = form.build(graph, metadata)
    check_agreement(model, graph, form.read(content))
    return content
