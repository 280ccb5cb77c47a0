"""The command line: flags to one dataclass to one call."""

import io
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from typing import TextIO

from noisyrnn import __version__
from noisyrnn.checks import check_choice
from noisyrnn.cli.analyze import analyze_command
from noisyrnn.cli.compare import compare_command
from noisyrnn.cli.evaluate import evaluate_command
from noisyrnn.cli.export import export_command
from noisyrnn.cli.report import report_command
from noisyrnn.cli.show import doctor_command, list_command
from noisyrnn.cli.sweep import sweep_command
from noisyrnn.cli.train import train_command

COMMANDS: dict[str, Callable[[Sequence[str]], int]] = {
    "train": train_command,
    "sweep": sweep_command,
    "evaluate": evaluate_command,
    "analyze": analyze_command,
    "compare": compare_command,
    "report": report_command,
    "export": export_command,
    "list": list_command,
    "doctor": doctor_command,
}


def _usage() -> str:
    lines = [f"noisyrnn {__version__}: recurrent networks as stochastic differential equations.", ""]
    lines += ["usage: noisyrnn COMMAND [options]", ""]
    lines += [f"  {name:<10} {(call.__doc__ or '').rstrip('.')}" for name, call in COMMANDS.items()]
    lines += ["", "Start here:  noisyrnn compare --models noisy,lipschitz,lstm --dataset digits --seeds 3"]
    return "\n".join([*lines, "Help:        noisyrnn COMMAND --help"])


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; 0 on success, 1 on a failed computation, 2 on bad input, 130 when interrupted."""
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0] in ("-h", "--help"):
        print(_usage())
        return 0 if words else 2
    if words[0] == "--version":
        print(__version__)
        return 0
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a pipe's encoding may lack Greek letters; that is no reason to stop
            stream.reconfigure(errors="replace")
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _show_warning
            check_choice("command", words[0], COMMANDS)
            return COMMANDS[words[0]](words[1:])
    except KeyboardInterrupt:
        again = "the same command with --resume" if words[0] == "train" else "the same command"
        print(f"Interrupted. Everything up to the last checkpoint is saved; go on with {again}.", file=sys.stderr)
        return 130
    except (ValueError, TypeError, FileNotFoundError) as error:
        print(_sentence(error), file=sys.stderr)
        return 2
    except (RuntimeError, OSError) as error:
        print(_sentence(error), file=sys.stderr)
        return 1


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """What there is to say to the user of a command, without the place in the program that says it."""
    text = str(message) if issubclass(category, UserWarning) else f"{category.__name__}: {message}"
    print(f"Note: {text}", file=sys.stderr)


def _sentence(error: Exception) -> str:
    """The error's text; with NOISYRNN_DEBUG set, the traceback is shown too."""
    if os.environ.get("NOISYRNN_DEBUG"):
        import traceback

        traceback.print_exception(error)
    return str(error)
