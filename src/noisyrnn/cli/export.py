"""`noisyrnn export`."""

from collections.abc import Sequence
from pathlib import Path

from noisyrnn.cli.flags import command_parser, parse, pop_path
from noisyrnn.export import export_run
from noisyrnn.run_folder import RunFolder


def export_command(argv: Sequence[str]) -> int:
    """Export a trained model to a file."""
    parser = command_parser(
        "export",
        "Export the model of a run to ONNX or torch.export, and compare the exported file with the model; or write its "
        "weights with their figures, and a model card.",
        "noisyrnn export RUN --format onnx --streaming",
    )
    parser.add_argument("run", type=str, help="Folder of a trained run.")
    parser.add_argument(
        "--format",
        type=str,
        default="onnx",
        help='Format of the file: "onnx", "torch", or "pretrained" (weights with figures, and a model card).',
    )
    parser.add_argument(
        "--streaming", action="store_true", help="Also export a file that computes one time step per call."
    )
    parser.add_argument("--output", type=str | None, help="Folder for the files (default: that of the run).")
    arguments = parse(parser, argv)
    folder, output = RunFolder.open(Path(arguments.pop("run"))), pop_path(arguments, "output")
    for path in export_run(folder, output=output, **arguments):
        print(f"Exported: {path}")
    return 0
