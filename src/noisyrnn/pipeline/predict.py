"""Predicts the labels of a file's sequences with a trained model."""

import csv
import io
from dataclasses import fields
from pathlib import Path
from typing import Any

from noisyrnn.checks import check_choice
from noisyrnn.data.inputs import read_inputs
from noisyrnn.data.options import ReadingOptions
from noisyrnn.data.user_files import FORMATS, format_of
from noisyrnn.models import SequenceModel
from noisyrnn.models.prediction import predict
from noisyrnn.pipeline.devices import resolve_accelerator
from noisyrnn.run_folder import RunFolder
from noisyrnn.training.saving import load, read_header


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
        data: Path of a file or folder as for training; labels may be missing and are not read.
        labelled: Whether a table has a column of labels; `None`: decided by its header and its lines.
        weights: Weights of a run: "kept" or "last".
        accelerator: "auto", "cpu" or "cuda".
        **reading: How the file is read: arguments of `ReadingOptions`; by default those of the run. `None` leaves one
            out.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is malformed or has another number of channels than the training data.
    """
    check_choice("weights", weights, ("kept", "last"))
    steps, stored = None, dict[str, Any]()
    file = run
    if run.suffix != ".safetensors":
        folder = RunFolder.open(run)
        content, file = folder.read_config(), folder.weights_file(weights)
        settings, trained = content["config"], content["dataset"].get("steps")
        kind = format_of(Path(data).expanduser())
        used = frozenset() if kind is None else FORMATS[kind].options
        stored = {
            name: settings[name]
            for name in (entry.name for entry in fields(ReadingOptions))
            if name in used and name in settings
        }
        stored.pop("task", None)  # labels are not read
        if isinstance(trained, int):
            steps = trained * int(content["dataset"].get("input_size", 1))
    names = read_header(file).class_names
    model = load(file, SequenceModel).to(resolve_accelerator(accelerator))
    for name in reading:
        check_choice("option", name, ReadingOptions.__dataclass_fields__)
    options = ReadingOptions(**stored | reading)  # `None` replaces an option of the training too
    found = read_inputs(data, options, labelled=labelled, steps=steps)
    lengths = found.lengths
    answers = predict(model, found.inputs, lengths=lengths)
    classes = model.loss == "cross_entropy"
    outputs = answers.shape[-1]
    if classes:
        names = names or [str(index) for index in range(outputs)]
        columns = ["prediction", *(f"probability_{name}" for name in names)]
    else:
        columns = ["prediction"] if outputs == 1 else [f"prediction_{index}" for index in range(1, outputs + 1)]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["sequence", *(["step"] if model.every_step else []), *columns])
    for number, answer in enumerate(answers):
        count = len(answer) if lengths is None else int(lengths[number])
        for step, values in enumerate(answer[:count] if model.every_step else answer[None]):
            shown = number if found.names is None else found.names[number]
            place = [shown, step] if model.every_step else [shown]
            label = [names[int(values.argmax())]] if classes and names else []
            writer.writerow([*place, *label, *(f"{value:.7g}" for value in values.tolist())])
    return text.getvalue()
