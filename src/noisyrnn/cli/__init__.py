"""The command line: turns flags into one dataclass and makes one call.

A command's module is imported when the command is called, so that `noisyrnn --version` does not wait for torch.
"""

import importlib
import io
import os
import signal
import sys
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TextIO

from noisyrnn import __version__
from noisyrnn.interruption import interruptible, signal_of
from noisyrnn.progress import tell
from noisyrnn.redact import without_passwords
from noisyrnn.run_folder import failure_message

COMMANDS = {
    "train": "Train one model with one or several seeds",
    "sweep": "Search the settings of a model for accuracy on perturbed validation data",
    "evaluate": "Measure the robustness of trained runs",
    "analyze": "Compute theory diagnostics of trained runs",
    "compare": "Train and evaluate several models, then report",
    "reproduce": "Repeat a published table, and compare with it cell by cell",
    "report": "Write a report on existing runs",
    "predict": "Predict the labels of a file's sequences",
    "export": "Export a trained model: a file that runs without this library, or weights with a model card",
    "list": "List models, data sets, perturbations, diagnostics, export formats, published and pretrained models",
    "doctor": "Show versions, threads, kernels and the data found",
}
"""Commands. The function `NAME_command` runs one; it is in the module of that name, or in the one of `_MODULES`."""

_MODULES = {"list": "info", "doctor": "info"}


def _usage() -> str:
    lines = [f"noisyrnn {__version__}: recurrent networks as stochastic differential equations.", ""]
    lines += ["usage: noisyrnn COMMAND [options]", ""]
    lines += [f"  {name:<10} {text}" for name, text in COMMANDS.items()]
    lines += ["", "Start here:  noisyrnn compare --models noisy,lipschitz,lstm --dataset digits --seeds 3"]
    return "\n".join([*lines, "Help:        noisyrnn COMMAND --help"])


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Returns:
        0 on success, 1 on a failed computation, 2 on bad input, 128 plus the number of the signal that stopped it (130
        for Ctrl-C, 143 for SIGTERM, 129 for SIGHUP), and 141 where the reader of its output has gone.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    _open_standard_streams()
    try:
        with warnings.catch_warnings(), interruptible():
            warnings.showwarning = _show_warning
            if argv[:1] == ["--version"]:
                print(__version__)
                status = 0
            elif not argv or argv[0] in ("-h", "--help"):
                print(_usage())
                status = 0 if argv else 2
            else:
                status = _command(argv[0])(argv[1:])
            sys.stdout.flush()
            return status
    except KeyboardInterrupt as error:
        number = signal_of(error)
        how = "Interrupted" if number == signal.SIGINT else f"Stopped by {signal.Signals(number).name}"
        again = "the same command with --resume" if argv[:1] == ["train"] else "the same command"
        tell(f"{how}. Everything up to the last checkpoint is saved; continue with {again}.")
        return 128 + number
    except BrokenPipeError as error:
        _show_traceback(error)
        _discard_output()
        return 128 + 13  # SIGPIPE
    except (ValueError, TypeError, FileNotFoundError) as error:
        return _failed(error, 2)
    except MemoryError as error:
        return _failed(error, 1, failure_message(error))
    except (RuntimeError, OSError) as error:
        return _failed(error, 1)
    except Exception as error:  # a fault of ours or of a library: the user gets a message too
        reason = f": {error}" if str(error) else ""
        advice = "Set NOISYRNN_DEBUG=1 to see the traceback, and report it."
        return _failed(error, 1, f"Unexpected {type(error).__name__}{reason.rstrip('.')}. {advice}")


def _command(name: str) -> Callable[[Sequence[str]], int]:
    from noisyrnn.checks import check_choice  # loads torch

    check_choice("command", name, COMMANDS)
    module = importlib.import_module(f"noisyrnn.cli.{_MODULES.get(name, name)}")
    command: Callable[[Sequence[str]], int] = getattr(module, f"{name}_command")
    return command


def _open_standard_streams() -> None:
    """Open closed standard streams: the next file that a command opens would get the number of a closed one."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    if sys.stdout is None:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a pipe's encoding may lack Greek letters
            stream.reconfigure(errors="replace")


def _failed(error: Exception, status: int, message: str | None = None) -> int:
    """Show why a command failed, and return its exit status."""
    _show_traceback(error)
    tell(without_passwords(str(error) or type(error).__name__ if message is None else message))
    try:
        sys.stdout.flush()
    except OSError:  # a full disk, where the interpreter would complain once more
        _discard_output()
    return status


def _show_traceback(error: Exception) -> None:
    if os.environ.get("NOISYRNN_DEBUG"):
        import traceback

        tell(without_passwords("".join(traceback.format_exception(error))))


def _discard_output() -> None:
    """Redirect output that nobody reads, so that the interpreter can flush it without an error."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """Show a warning as one line, without its place in the program."""
    text = str(message) if issubclass(category, UserWarning) else f"{category.__name__}: {message}"
    tell("Note: " + without_passwords(" ".join(text.split())))
