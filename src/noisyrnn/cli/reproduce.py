"""`noisyrnn reproduce`."""

from collections.abc import Sequence

from noisyrnn.cli import flags
from noisyrnn.pipeline import ReproduceConfig, RunContext, reproduce
from noisyrnn.progress import tell


def reproduce_command(argv: Sequence[str]) -> int:
    """Repeat a published table, and compare with it cell by cell."""
    parser = flags.command_parser(
        "reproduce",
        "Train the rows of a published table, measure them at the published strengths, and write a page with the "
        "published values next to ours. Run the same command again to continue.",
        "noisyrnn reproduce ordered-mnist --rows noisy-high,lipschitz --seeds 3 --workers 2",
    )
    parser.add_argument(
        "table", type=str, help="Published table, or a .toml file of the same form; `noisyrnn list` shows all."
    )
    flags.add_fields(parser, ReproduceConfig, skip=("table", "rows"))
    parser.add_argument(
        "--rows", type=str | list[str], help="Labels of the rows to repeat, separated by commas (default: all)."
    )
    flags.add_context(parser, "output", "accelerator", "checkpoint_seconds", "keep_epochs", "logger")
    arguments = flags.parse(parser, argv)
    context = RunContext(show_progress=True, **flags.pop_fields(arguments, RunContext))
    if arguments.get("rows") is not None:
        arguments["rows"] = flags.split_names(arguments["rows"])
    page, failures = reproduce(ReproduceConfig(**arguments), context, command=flags.command_line("reproduce", argv))
    if page not in failures:
        print((page.parent / "table.md").read_text(encoding="utf-8"))
    for path, reason in failures.items():
        tell(f"Failed: {path.name}: {reason}")
    if page not in failures:
        print(f"Page: {page}")
    return 1 if failures else 0
