"""`noisyrnn list` and `noisyrnn doctor`."""

from collections.abc import Sequence

from noisyrnn.analysis.diagnostics import DIAGNOSTICS
from noisyrnn.cli import COMMANDS
from noisyrnn.cli.flags import add_context, command_parser, parse, pop_path
from noisyrnn.data import DATASETS
from noisyrnn.doctor import report_health
from noisyrnn.export.formats import FORMATS, PRETRAINED, PRETRAINED_DESCRIPTION
from noisyrnn.models import MODELS
from noisyrnn.pipeline.published_tables import reproductions
from noisyrnn.robustness import PERTURBATIONS
from noisyrnn.training.pretrained import pretrained_models
from noisyrnn.training.settings import published_experiments


def list_command(argv: Sequence[str]) -> int:
    """List models, data sets, perturbations, diagnostics, export formats, published and pretrained models."""
    parse(command_parser("list", f"{COMMANDS['list']}.", "noisyrnn list"), argv)
    groups: dict[str, dict[str, str]] = {
        "Models": {name: entry.description for name, entry in MODELS.items()},
        "Data sets": {name: entry.description for name, entry in DATASETS.items()},
        "Perturbations": {name: entry.description for name, entry in PERTURBATIONS.items()},
        "Diagnostics": {name: entry.description for name, entry in DIAGNOSTICS.items()},
        "Export formats": {name: entry.description for name, entry in FORMATS.items()}
        | {PRETRAINED: PRETRAINED_DESCRIPTION},
        "Published experiments": {name: entry.source for name, entry in published_experiments().items()},
        "Published tables": reproductions(),
        "Pretrained models": {
            name: "; ".join(model.description for model in seeds.values())
            for name, seeds in pretrained_models().items()
        },
    }
    for title, lines in groups.items():
        print(title)
        for name, text in lines.items():
            print(f"  {name:<24} {text}")
        print()
    return 0


def doctor_command(argv: Sequence[str]) -> int:
    """Show versions, threads, kernels and data found."""
    parser = command_parser("doctor", "Show versions, threads, kernels and the data found.", "noisyrnn doctor")
    add_context(parser)
    arguments = parse(parser, argv)
    print(report_health(pop_path(arguments, "data_dir")))
    return 0
