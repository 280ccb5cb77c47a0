"""`noisyrnn predict`."""

from collections.abc import Sequence
from pathlib import Path

from noisyrnn.cli.flags import add_fields, command_parser, parse, pop_path
from noisyrnn.data import ReadingOptions
from noisyrnn.files import write_atomically
from noisyrnn.pipeline import predict_file


def predict_command(argv: Sequence[str]) -> int:
    """Predict the labels of a file's sequences."""
    parser = command_parser(
        "predict",
        "Predict the labels of a file's sequences with a trained model, as a CSV table: one row per sequence, or per "
        "sequence and step for targets at every step. Options of reading default to those of the training.",
        "noisyrnn predict RUN --data new.csv --output predictions.csv",
    )
    parser.add_argument("run", type=str, help="Folder of a trained run, or a model file (.safetensors).")
    parser.add_argument(
        "--data",
        type=str | None,
        help="File or folder with sequences, of any format that training reads; labels may be missing.",
    )
    parser.add_argument("--output", type=str | None, help="File for the predictions (default: standard output).")
    parser.add_argument(
        "--labelled",
        type=bool | None,
        help="Whether a table has a column of labels (default: decided by its header and, if all training sequences "
        "have one length, by that of its lines).",
    )
    parser.add_argument("--weights", type=str, default="kept", help='Weights of a run: "kept" or "last".')
    parser.add_argument("--accelerator", type=str, default="auto", help='Device to use: "auto", "cpu" or "cuda".')
    add_fields(parser, ReadingOptions, skip=("task", "group_column", "missing"))
    arguments = parse(parser, argv)
    run, output, data = Path(arguments.pop("run")), pop_path(arguments, "output"), arguments.pop("data", None)
    if data is None:
        raise ValueError("data must be a file with sequences, got none. Add --data FILE.")
    text = predict_file(run, data, **arguments)
    if output is None:
        print(text, end="")
    else:
        write_atomically(output, text.encode())
        print(f"Predicted: {output}")
    return 0
