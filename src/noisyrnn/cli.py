"""The command line: flags to one dataclass to one call."""

import dataclasses
import difflib
import io
import os
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn, get_type_hints

import docstring_parser
from jsonargparse import ArgumentError, ArgumentParser, DefaultHelpFormatter

from noisyrnn import __version__
from noisyrnn.analysis.diagnostics import DIAGNOSTICS, AnalysisSettings
from noisyrnn.checks import check_choice, check_integer
from noisyrnn.doctor import report_health
from noisyrnn.export import export_run
from noisyrnn.models import MODELS
from noisyrnn.pipeline import (
    AnalyzeConfig,
    CompareConfig,
    EvaluateConfig,
    analyze_run,
    compare,
    evaluate_run,
    train_run,
    train_seeds,
)
from noisyrnn.report import write_report
from noisyrnn.run_folder import RunFolder, check_writable, read_json
from noisyrnn.training.config import TrainConfig
from noisyrnn.training.settings import published_experiments, read_experiment, recommended

Arguments = dict[str, Any]

_RUNS = {"analyze": "RUN... ", "evaluate": "RUN... ", "export": "RUN ", "report": "RUN... "}

OUTPUT = "runs"

_RECOMMENDED = (
    "A training setting that is not given is the one chosen on validation data for this data set and model, "
    "where there is one, and else the default shown here."
)


class _Parser(ArgumentParser):
    """A parser that complains in one sentence."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raise `ValueError` with the message in one line, and the nearest flag where one is unknown."""
        line = " ".join(message.split())
        flags = [flag for action in self._actions for flag in action.option_strings]
        for word in line.split():
            near = difflib.get_close_matches(word.split("=")[0], flags, n=1) if word.startswith("--") else []
            if near and word.split("=")[0] not in flags:
                line = f"{line.rstrip('.')}. Did you mean {near[0]}?"
        raise ValueError(line)


def _parser(command: str, description: str, example: str) -> _Parser:
    parser = _Parser(
        prog=f"noisyrnn {command}",
        description=f"{description} Example: {example}",
        usage=f"noisyrnn {command} {_RUNS.get(command, '')}[options]",
        formatter_class=DefaultHelpFormatter,
        default_env=False,
        allow_abbrev=False,
    )
    parser.add_argument("--config", action="config", help="YAML file with the same keys as the flags.")
    return parser


def _add_fields(parser: _Parser, config: type, *, skip: Sequence[str] = ()) -> None:
    """One flag for each field of a settings class, with the help its docstring holds."""
    doc = docstring_parser.parse(config.__doc__ or "")
    helps = {p.arg_name: " ".join((p.description or "").split()) for p in doc.params}
    hints = get_type_hints(config)
    for entry in dataclasses.fields(config):
        if entry.name in skip:
            continue
        default = entry.default if entry.default is not dataclasses.MISSING else None
        kind: Any = dict[str, Any] if entry.name in ("strengths", "train") else hints[entry.name]
        parser.add_argument(f"--{entry.name.replace('_', '-')}", type=kind, default=default, help=helps[entry.name])


def _add_places(parser: _Parser, *, output: str | None = OUTPUT) -> None:
    parser.add_argument("--data-dir", type=str | None, help="Where to look for data first.")
    if output:
        parser.add_argument("--output", type=str, default=output, help="Folder the results go to.")


def _add_together(parser: _Parser) -> None:
    parser.add_argument("--together", action="store_true", help="Train all seeds of a model side by side.")


def _given(parser: _Parser, words: Sequence[str]) -> Arguments:
    """What the flags and the config file set, and nothing else; `--some_flag` is understood as `--some-flag`."""
    flags = {flag.replace("-", "_"): flag for action in parser._actions for flag in action.option_strings}
    words = [_with_dashes(word, flags) for word in words]
    try:
        found = parser.parse_args(words, defaults=False).as_dict()
    except ArgumentError as error:
        parser.error(str(error))
    found.pop("config", None)
    return found


def _with_dashes(word: str, flags: dict[str, str]) -> str:
    """A flag as the parser spells it, with what follows an `=` or a `.` left alone; any other word as it is."""
    end = min((word.index(mark) for mark in "=." if mark in word), default=len(word))
    return flags.get(word[:end].replace("-", "_"), word[:end]) + word[end:]


def _absolute_dataset(given: Arguments) -> Arguments:
    """The same with the path of a user's own file made absolute, so that the run can be evaluated from anywhere."""
    dataset = given.get("dataset")
    if isinstance(dataset, str) and Path(dataset).is_file():
        return {**given, "dataset": str(Path(dataset).resolve())}
    return given


def _path(given: Arguments, name: str) -> Path | None:
    value = given.pop(name, None)
    return None if value is None else Path(value)


def _split(value: str | Sequence[str]) -> list[str]:
    return [part.strip() for part in value.split(",")] if isinstance(value, str) else list(value)


def _train(words: Sequence[str]) -> int:
    """Train one model, with one seed or several."""
    parser = _parser(
        "train",
        f"Train one model, with one seed or several. {_RECOMMENDED}",
        "noisyrnn train --model noisy --dataset digits --seed 1",
    )
    _add_fields(parser, TrainConfig)
    _add_places(parser)
    parser.add_argument("--seeds", type=int, default=1, help="Train so many runs: with seed, seed + 1, …")
    _add_together(parser)
    parser.add_argument("--experiment", type=str, help="Start from a published row; see noisyrnn list.")
    parser.add_argument("--resume", action="store_true", help="Go on from the last checkpoint.")
    parser.add_argument("--accelerator", type=str, default="auto", help='"auto", "cpu" or "cuda".')
    parser.add_argument("--checkpoint-seconds", type=float, default=30.0, help="Time between checkpoints.")
    given = _given(parser, words)
    output, data_dir = Path(given.pop("output", OUTPUT)), _path(given, "data_dir")
    resume, accelerator = given.pop("resume", False), given.pop("accelerator", "auto")
    seconds, experiment = given.pop("checkpoint_seconds", 30.0), given.pop("experiment", None)
    seeds, together = given.pop("seeds", 1), given.pop("together", False)
    check_integer("seeds", seeds, minimum=1)
    if experiment is not None:
        base = dict(read_experiment(experiment).train)
    else:
        base = recommended(given.get("dataset", TrainConfig.dataset), given.get("model", TrainConfig.model))
    config = TrainConfig.from_dict({**base, **_absolute_dataset(given)})
    where: Arguments = {
        "output": output,
        "data_dir": data_dir,
        "resume": resume,
        "accelerator": accelerator,
        "checkpoint_seconds": seconds,
        "show_progress": True,
    }
    if seeds == 1 and not together:
        print(f"Trained: {train_run(config, **where).path}")
        return 0
    configs = [dataclasses.replace(config, seed=config.seed + k) for k in range(seeds)]
    ends = train_seeds(configs, together=together, **where)
    for folder, sentence in ends.items():
        if sentence is None:
            print(f"Trained: {folder}")
        else:
            print(f"Failed: {folder.name}: {sentence}", file=sys.stderr)
    return 1 if any(ends.values()) else 0


def _evaluate(words: Sequence[str]) -> int:
    """Measure the robustness of trained runs."""
    parser = _parser(
        "evaluate", "Measure accuracy under perturbations of the test set.", "noisyrnn evaluate runs/*-seed*"
    )
    parser.add_argument("runs", nargs="+", type=str, help="Run folders.")
    _add_fields(parser, EvaluateConfig)
    _add_places(parser, output=None)
    parser.add_argument("--accelerator", type=str, default="auto", help='"auto", "cpu" or "cuda".')
    given = _given(parser, words)
    data_dir, accelerator = _path(given, "data_dir"), given.pop("accelerator", "auto")
    folders = [RunFolder.open(Path(run)) for run in given.pop("runs")]
    config = EvaluateConfig(**given)
    for folder in folders:
        evaluate_run(folder, config, data_dir=data_dir, accelerator=accelerator, show_progress=True)
        print(f"Evaluated: {folder.robustness}")
    return 0


def _analyze(words: Sequence[str]) -> int:
    """Compute what the theory speaks of, for trained runs."""
    parser = _parser(
        "analyze",
        "Compute the explicit regulariser, Jacobians, curvature, margins, certified radii and stability of runs.",
        "noisyrnn analyze runs/*-seed* --budget 30",
    )
    parser.add_argument("runs", nargs="+", type=str, help="Run folders.")
    parser.add_argument("--parts", type=str | list[str], help="Diagnostics, separated by commas; all by default.")
    _add_fields(parser, AnalyzeConfig, skip=("parts", "settings"))
    _add_fields(parser, AnalysisSettings)
    _add_places(parser, output=None)
    parser.add_argument("--accelerator", type=str, default="cpu", help='"auto", "cpu" or "cuda".')
    given = _given(parser, words)
    data_dir, accelerator = _path(given, "data_dir"), given.pop("accelerator", "cpu")
    folders = [RunFolder.open(Path(run)) for run in given.pop("runs")]
    own: Arguments = {name: given.pop(name) for name in ("parts", "budget") if name in given}
    if "parts" in own:
        own["parts"] = _split(own["parts"])
    config = AnalyzeConfig(**own, settings=AnalysisSettings(**given))
    end = time.monotonic() + 60 * config.budget
    for position, folder in enumerate(folders):
        share = (end - time.monotonic()) / (len(folders) - position)
        analyze_run(folder, config, seconds=share, data_dir=data_dir, accelerator=accelerator, show_progress=True)
        print(f"Analyzed: {folder.analysis}")
        for name, part in read_json(folder.analysis)["parts"].items():
            if part["status"] != "done":
                print(f"Not computed: {name}: {part['reason']}", file=sys.stderr)
    return 0


def _compare(words: Sequence[str]) -> int:
    """Train and evaluate several models, then report."""
    parser = _parser(
        "compare",
        f"Train several models with several seeds, measure their robustness and write one report. {_RECOMMENDED}",
        "noisyrnn compare --models noisy,lipschitz,lstm --dataset digits --seeds 3",
    )
    parser.add_argument("--models", type=str | list[str], default=",".join(MODELS), help="Names, separated by commas.")
    _add_fields(parser, CompareConfig, skip=("models", "train", "evaluation", "together", "analyze"))
    parser.add_argument("--analyze", action="store_true", help="Compute what the theory speaks of as well.")
    _add_together(parser)
    _add_fields(parser, TrainConfig, skip=("model", "seed", "label"))
    _add_fields(parser, EvaluateConfig)
    _add_places(parser)
    given = _given(parser, words)
    output, data_dir = Path(given.pop("output", OUTPUT)), _path(given, "data_dir")
    names = {field.name for field in dataclasses.fields(EvaluateConfig)}
    evaluation = EvaluateConfig(**{name: given.pop(name) for name in names & given.keys()})
    models = _split(given.pop("models", list(MODELS)))
    names = {field.name for field in dataclasses.fields(CompareConfig)}
    own = {name: given.pop(name) for name in names & given.keys()}
    config = CompareConfig(models=models, train=_absolute_dataset(given), evaluation=evaluation, **own)
    command = "noisyrnn compare " + shlex.join(words)
    page, failures = compare(config, output=output, data_dir=data_dir, command=command, show_progress=True)
    print((page.parent / "table.md").read_text(encoding="utf-8"))
    for folder, sentence in failures.items():
        print(f"Failed: {folder.name}: {sentence}", file=sys.stderr)
    print(f"Report: {page}")
    return 1 if failures else 0


def _report(words: Sequence[str]) -> int:
    """Write a report on runs that exist."""
    parser = _parser(
        "report", "Write one page on trained and evaluated runs.", "noisyrnn report runs/*-seed* --output report"
    )
    parser.add_argument("runs", nargs="+", type=str, help="Run folders.")
    parser.add_argument("--title", type=str, default="Comparison", help="Heading of the page.")
    parser.add_argument("--output", type=str, default=OUTPUT, help="Folder the page goes to.")
    given = _given(parser, words)
    output = Path(given.get("output", OUTPUT))
    folders = [RunFolder.open(Path(run)).path for run in given["runs"]]
    check_writable(output)
    page = write_report(
        folders, output, title=given.get("title", "Comparison"), command="noisyrnn report " + shlex.join(words)
    )
    print(f"Report: {page}")
    return 0


def _export(words: Sequence[str]) -> int:
    """Write a trained model as a file that runs without this library."""
    parser = _parser(
        "export",
        "Write the model of a run as ONNX or torch.export, after comparing what was written with the model.",
        "noisyrnn export RUN --format onnx --streaming",
    )
    parser.add_argument("run", type=str, help="Run folder.")
    parser.add_argument("--format", type=str, default="onnx", help='"onnx" or "torch".')
    parser.add_argument("--streaming", action="store_true", help="Also write a file that makes single steps.")
    parser.add_argument("--output", type=str | None, help="Folder the files go to; the run's own by default.")
    given = _given(parser, words)
    folder, output = RunFolder.open(Path(given.pop("run"))), _path(given, "output")
    for path in export_run(folder, output=output, **given):
        print(f"Exported: {path}")
    return 0


def _list(words: Sequence[str]) -> int:
    """Show models, data sets, perturbations, diagnostics and published experiments."""
    from noisyrnn.data import DATASETS
    from noisyrnn.robustness import PERTURBATIONS

    _given(_parser("list", "Show what there is to choose from.", "noisyrnn list"), words)
    groups: dict[str, dict[str, str]] = {
        "Models": {name: entry.description for name, entry in MODELS.items()},
        "Data sets": {name: entry.description for name, entry in DATASETS.items()},
        "Perturbations": {name: kind.description for name, kind in PERTURBATIONS.items()},
        "Diagnostics": {name: entry.description for name, entry in DIAGNOSTICS.items()},
        "Published experiments": {name: entry.source for name, entry in published_experiments().items()},
    }
    for title, lines in groups.items():
        print(title)
        for name, text in lines.items():
            print(f"  {name:<24} {text}")
        print()
    return 0


def _doctor(words: Sequence[str]) -> int:
    """Show versions, threads, kernels and data found."""
    parser = _parser("doctor", "Show versions, threads, kernels and the data found.", "noisyrnn doctor")
    parser.add_argument("--data-dir", type=str | None, help="Where to look for data first.")
    given = _given(parser, words)
    print(report_health(_path(given, "data_dir")))
    return 0


COMMANDS: dict[str, Callable[[Sequence[str]], int]] = {
    "train": _train,
    "evaluate": _evaluate,
    "analyze": _analyze,
    "compare": _compare,
    "report": _report,
    "export": _export,
    "list": _list,
    "doctor": _doctor,
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


def _sentence(error: Exception) -> str:
    """The error's text; with NOISYRNN_DEBUG set, the traceback is shown too."""
    if os.environ.get("NOISYRNN_DEBUG"):
        import traceback

        traceback.print_exception(error)
    return str(error)
