"""`noisyrnn export`."""

from collections.abc import Sequence
from pathlib import Path

from noisyrnn.cli.flags import command_parser, given_of, pop_path
from noisyrnn.export import export_run
from noisyrnn.run_folder import RunFolder


def export_command(words: Sequence[str]) -> int:
    """Write a trained model as a file that runs without this library."""
    parser = command_parser(
        "export",
        "Write the model of a run as ONNX or torch.export, after comparing what was written with the model.",
        "noisyrnn export RUN --format onnx --streaming",
    )
    parser.add_argument("run", type=str, help="Run folder.")
    parser.add_argument("--format", type=str, default="onnx", help='"onnx" or "torch".')
    parser.add_argument("--streaming", action="store_true", help="Also write a file that makes single steps.")
    parser.add_argument("--output", type=str | None, help="Folder the files go to; the run's own by default.")
    given = given_of(parser, words)
    folder, output = RunFolder.open(Path(given.pop("run"))), pop_path(given, "output")
    for path in export_run(folder, output=output, **given):
        print(f"Exported: {path}")
    return 0
