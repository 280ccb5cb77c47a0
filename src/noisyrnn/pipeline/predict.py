"""Predicts the labels of a file's sequences with a trained model."""

import csv
import io
from collections.abc import Iterator, Mapping
from dataclasses import fields
from itertools import chain
from pathlib import Path
from typing import Any

from torch import Tensor

from noisyrnn.checks import check_choice
from noisyrnn.data.inputs import read_inputs
from noisyrnn.data.options import ReadingOptions
from noisyrnn.data.shards import find_parts, options_of
from noisyrnn.data.stored import StoredSequences
from noisyrnn.data.user_files import FORMATS, format_of, is_path
from noisyrnn.models import SequenceModel
from noisyrnn.models.prediction import predict
from noisyrnn.pipeline.devices import resolve_accelerator
from noisyrnn.run_folder import RunFolder
from noisyrnn.training.saving import load, read_header

_BLOCK = 250
"""Sequences in files that are read and classified at once."""


def predict_file(
    run: Path,
    data: str,
    *,
    labelled: bool | None = None,
    weights: str = "kept",
    accelerator: str = "auto",
    **reading: Any,
) -> str:
    """Predict the labels of a file's sequences; return the predictions as CSV.

    A row for each sequence holds its number, from 0, or its name (its id in the long format, its file in a folder), the
    predicted class and the probability of each class; for a regression the values. For answers at every step there is a
    row for each valid step, with its number, from 0.

    Args:
        run: Folder of a trained run, or a model file that `save` has written.
        data: Path of a file or folder as for training; labels may be missing and are not read. Sequences in a folder of
            arrays or shards are read by blocks. Missing values are met, and times become lengths of steps, as in
            training. Channels are matched by name where the file and the data of the training name them. A text file
            may be a single recording, a step per line.
        labelled: Whether a table has a column of labels; `None`: decided by its header and its lines.
        weights: Weights of a run: "kept" or "last".
        accelerator: "auto", "cpu" or "cuda".
        **reading: How the file is read: arguments of `ReadingOptions` except `missing`, which the model states; by
            default those of the training, which the run or the model file holds. `None` leaves one out.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is malformed, or has another number of channels than the training data or channels of
            other names.
    """
    check_choice("weights", weights, ("kept", "last"))
    steps, recording, file = None, False, run
    settings: dict[str, Any] | None = None
    if run.suffix != ".safetensors":
        folder = RunFolder.open(run)
        content, file = folder.read_config(), folder.weights_file(weights)
        settings, trained = content["config"], content["dataset"].get("steps")
        trained_on = Path(settings["dataset"]).expanduser()
        recording = is_path(settings["dataset"]) and trained_on.is_dir() and not find_parts(trained_on)
        if isinstance(trained, int) and content["dataset"].get("lengths_vary") is False:
            steps = trained * int(content["dataset"].get("input_size", 1))
    header = read_header(file)
    names, training = header.class_names, header.notes.get("training", {})
    stored = _reading_options(training if settings is None else settings, Path(data).expanduser())
    model = load(file, SequenceModel).to(resolve_accelerator(accelerator))
    for name in reading:
        check_choice("option", name, [known for known in ReadingOptions.__dataclass_fields__ if known != "missing"])
    options = ReadingOptions(**stored | reading | {"missing": model.missing})  # `None` replaces one of the training too
    found = read_inputs(
        data,
        options,
        labelled=labelled,
        steps=steps,
        nominal=training.get("nominal_step"),
        channels=tuple(map(str, training.get("channel_names", ()))),
        input_size=model.input_size,
        recording=recording,
    )
    lengths = found.lengths
    classes = model.loss == "cross_entropy"
    answers = _answers(model, found.inputs, lengths, found.dt if model.supports_dt else None)
    first = next(answers)
    outputs = first.shape[-1]
    if classes:
        names = names or [str(index) for index in range(outputs)]
        columns = ["prediction", *(f"probability_{name}" for name in names)]
    else:
        columns = ["prediction"] if outputs == 1 else [f"prediction_{index}" for index in range(1, outputs + 1)]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["sequence", *(["step"] if model.every_step else []), *columns])
    for number, answer in enumerate(chain([first], answers)):
        count = len(answer) if lengths is None else int(lengths[number])
        for step, values in enumerate(answer[:count] if model.every_step else answer[None]):
            shown = number if found.names is None else found.names[number]
            place = [shown, step] if model.every_step else [shown]
            label = [names[int(values.argmax())]] if classes and names else []
            writer.writerow([*place, *label, *(f"{value:.7g}" for value in values.tolist())])
    return text.getvalue()


def _reading_options(settings: Mapping[str, Any], source: Path) -> dict[str, Any]:
    """Return those settings of a training that say how a file like `source` is read."""
    kind = format_of(source)
    used = frozenset() if kind is None else FORMATS[kind].options
    if kind == "folder":
        used = options_of(source) or used
    known = [entry.name for entry in fields(ReadingOptions) if entry.name in used and entry.name in settings]
    return {name: settings[name] for name in known if name != "task"}  # labels are not read


def _answers(
    model: SequenceModel, inputs: Tensor | StoredSequences, lengths: Tensor | None, dt: Tensor | None
) -> Iterator[Tensor]:
    """Yield the answer of each sequence; those that stay in files are read by blocks."""
    if not isinstance(inputs, StoredSequences):
        yield from predict(model, inputs, lengths=lengths, dt=dt)
        return
    for start in range(0, len(inputs), _BLOCK):
        rows = slice(start, start + _BLOCK)
        yield from predict(model, inputs[rows], lengths=None if lengths is None else lengths[rows])
