"""Converts flags and configuration files to arguments, for all commands."""

import dataclasses
import difflib
import json
import re
import shlex
import sys
from argparse import SUPPRESS, Action
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import UnionType
from typing import Any, Literal, NoReturn, Union, get_args, get_origin, get_type_hints

import docstring_parser
import yaml
from jsonargparse import ArgumentError, ArgumentParser, DefaultHelpFormatter

from noisyrnn.data import is_own
from noisyrnn.data.user_files import is_path
from noisyrnn.display import escape
from noisyrnn.models import MODELS, layer_options
from noisyrnn.models.registry import describe_option
from noisyrnn.pipeline import RunContext
from noisyrnn.redact import hide_passwords
from noisyrnn.training.config import TrainConfig
from noisyrnn.training.settings import recommended, stated

Arguments = dict[str, Any]

_TAKE_RUNS = ("analyze", "evaluate", "report")
"""Commands that take one or more folders of runs."""

_POSITIONAL = {"export": "RUN ", "predict": "RUN ", "reproduce": "TABLE "}
"""The one positional argument of other commands."""

_GENERAL = ", ".join(f"{name} {value}" for name, value in recommended("", "").items())

RECOMMENDED = (
    "Training settings default to those chosen on validation data for this data set and model. For other data they "
    f"default to general ones ({_GENERAL}, and some that depend on the model). All other defaults are shown below."
)


class HelpFormatter(DefaultHelpFormatter):
    """Adds a flag's default to its help where it has one, and leaves types to the text."""

    def _get_help_string(self, action: Action) -> str:
        shown = action.default not in (None, (), SUPPRESS) and action.default is not False
        default = f" (default: {action.default})" if shown else ""
        return f"{action.help}{default}".replace("%", "%%")

    def _expand_help(self, action: Action) -> str:
        return super()._expand_help(action).replace("%%", "%")  # jsonargparse keeps what argparse would halve


class CommandParser(ArgumentParser):
    """Raises its errors as `ValueError` with a one-line message."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raise `ValueError` with the message in one line, and the nearest flag where one is unknown."""
        line = _in_our_words(" ".join(message.split()))
        flags = [flag for action in self._actions for flag in action.option_strings]
        for word in line.split():
            flag = word.split("=")[0].rstrip(":.")
            near = difflib.get_close_matches(flag, flags, n=1) if word.startswith("--") else []
            if near and flag not in flags:
                line = f"{line.rstrip('.')}. Did you mean {near[0]}?"
        raise ValueError(line)


_KINDS = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "str": "a text",
    "list": "a list such as [5, 8]",
    "tuple": "a list such as [5, 8]",
    "dict": "a mapping such as {name: value}, with a space after each colon",
}
_WRONG_TYPE = re.compile(r'Parser key "(?P<key>[\w.]+)": .*?(?:Got|Given) value: (?P<value>.*)')


def _in_our_words(line: str) -> str:
    """Return a parser's message about a wrong type as `<flag> must be <types>, got <value>.`; others unchanged."""
    found = _WRONG_TYPE.fullmatch(line)
    expected = [_KINDS[name] for name in re.findall(r"Expected a <class '(\w+)'>", line) if name in _KINDS]
    if found is not None and expected:
        kinds = " or ".join(dict.fromkeys(expected))
        return f"--{found['key'].replace('_', '-')} must be {kinds}, got {found['value'].rstrip('.')}."
    if line.endswith(": expected one argument"):
        flag = line.removesuffix(": expected one argument").removeprefix("argument ").split("/")[0]
        return f"{flag} must have a value, got none. Write {flag}=VALUE for a value that begins with -."
    return line


def command_parser(command: str, description: str, example: str) -> CommandParser:
    """Create the parser of a command, with an example in its help, `--config`, `--print-config` and folders of runs."""
    positional = "RUN... " if command in _TAKE_RUNS else _POSITIONAL.get(command, "")
    parser = CommandParser(
        prog=f"noisyrnn {command}",
        description=f"{description} Example: {example}",
        usage=f"noisyrnn {command} {positional}[options]",
        formatter_class=HelpFormatter,
        default_env=False,
        allow_abbrev=False,
        print_config=None,  # the parser's own does not print the settings that a command would use
    )
    parser.add_argument(
        "--config", action="config", help="Read settings from a YAML file with the names of the flags as keys."
    )
    parser.add_argument("--print-config", action="store_true", help="Print all settings as a YAML file and exit.")
    if command in _TAKE_RUNS:
        names = "" if command == "report" else ", or names of pretrained models"
        parser.add_argument("runs", nargs="+", type=str, help=f"Folders of trained runs{names}.")
    return parser


def add_fields(parser: CommandParser, config: type, *, skip: Sequence[str] = ()) -> None:
    """Add one flag for each field of a settings class; its help comes from the docstring of the class that has it."""
    docs = [docstring_parser.parse(kind.__doc__ or "") for kind in reversed(config.__mro__)]
    helps = {p.arg_name: " ".join((p.description or "").split()) for doc in docs for p in doc.params}
    hints = get_type_hints(config)
    own = vars(config).get("__annotations__", {})
    for entry in sorted(dataclasses.fields(config), key=lambda entry: entry.name not in own):  # inherited ones follow
        if entry.name in skip or entry.name == "options" or not entry.init:
            continue
        default = entry.default if entry.default is not dataclasses.MISSING else None
        default = str(default) if isinstance(default, Path) else default
        kind: Any = dict[str, Any] if entry.name in ("space", "strengths", "train") else _plain(hints[entry.name])
        flag: Arguments = {"action": "store_true"} if kind is bool else {"type": kind, "default": default}
        parser.add_argument(f"--{entry.name.replace('_', '-')}", help=helps[entry.name], **flag)


def add_training(parser: CommandParser, *, skip: Sequence[str] = ()) -> None:
    """Add one flag for each training setting: the fields of `TrainConfig`, then the options of the models."""
    add_fields(parser, TrainConfig, skip=skip)
    for name in TrainConfig.setting_names():
        defaults = {model: layer_options(model)[name] for model in MODELS if name in layer_options(model)}
        if defaults:
            kinds, texts = zip(*(describe_option(model, name) for model in defaults), strict=True)
            kind = next((kind for kind in kinds if type(None) in get_args(kind)), kinds[0])
            text = f"{_by_model(dict(zip(defaults, texts, strict=True)))} {_in_words(defaults)}".rstrip()
            parser.add_argument(f"--{name.replace('_', '-')}", type=kind, help=text)


def _by_model(texts: Mapping[str, str]) -> str:
    """Describe an option, once for all models that share a description."""
    models: dict[str, list[str]] = {}
    for model, text in texts.items():
        models.setdefault(text, []).append(model)
    if len(models) == 1:
        return next(iter(models))
    return " ".join(f"{', '.join(names)}: {text}" for text, names in models.items())


def _in_words(defaults: Mapping[str, Any]) -> str:
    """Describe the default of an option in each model that has it; a default of none is left out."""
    common = None
    if len(defaults) == len(MODELS):
        values = list(defaults.values())
        common = max(values, key=values.count)
    models: dict[str, list[str]] = {}
    for model, value in defaults.items():
        if value not in (None, common):
            models.setdefault(str(value), []).append(model)
    others = "; of ".join(f"{', '.join(names)}: {value}" for value, names in models.items())
    if common is None:
        return f"Default of {others}." if others else ""
    return f"Default: {common}" + (f"; of {others}." if others else ".")


def _plain(kind: Any) -> Any:
    """Replace choices and paths by text: the class itself checks them, with one message."""
    if kind is Path:
        return str
    if kind == (Path | None):
        return str | None
    if get_origin(kind) is Literal:
        return str
    if get_origin(kind) in (Union, UnionType) and any(get_origin(part) is Literal for part in get_args(kind)):
        return str | None
    return kind


def add_context(parser: CommandParser, *names: str) -> None:
    """Add those flags of `RunContext` that a command has, and `--data-dir`: whoever reads data takes it."""
    skip = [entry.name for entry in dataclasses.fields(RunContext) if entry.name not in (*names, "data_dir")]
    add_fields(parser, RunContext, skip=skip)


def pop_fields(arguments: Arguments, config: type) -> Arguments:
    """Remove the arguments of a settings class and return them."""
    return {entry.name: arguments.pop(entry.name) for entry in dataclasses.fields(config) if entry.name in arguments}


def add_batch_seeds(parser: CommandParser) -> None:
    """Add the flag that trains all seeds in one batched computation."""
    parser.add_argument(
        "--batch-seeds", action="store_true", help="Train all seeds of a model in one batched computation."
    )


def parse(
    parser: CommandParser, argv: Sequence[str], *, settings: Callable[[Arguments], Arguments] | None = None
) -> Arguments:
    """Return the arguments that the flags and the config file set, without defaults.

    `--some_flag` is understood as `--some-flag`.

    Args:
        parser: Of the command.
        argv: The command line after the command's name.
        settings: Returns what `--print-config` prints if that is more than the arguments and the flags' defaults;
            `SUPPRESS` for what is not printed. Its own arguments are those without the fields of `RunContext`, and with
            the run that `--resume` names.

    Raises:
        SystemExit: With `--print-config`, after printing all settings.
    """
    flags = {flag.replace("-", "_"): flag for action in parser._actions for flag in action.option_strings}
    words = _config_first([_with_dashes(word, flags) for word in argv])
    try:
        arguments = parser.parse_args(words, defaults=False).as_dict()
    except ArgumentError as error:
        parser.error(str(error))
    arguments.pop("config", None)
    if arguments.pop("print_config", False):
        rest = dict(arguments)
        context = pop_fields(rest, RunContext)
        rest |= {"resume": context["resume"]} if isinstance(context.get("resume"), str) else {}
        _print_config(parser, arguments, {} if settings is None else settings(rest))
        raise SystemExit(0)
    return arguments


def _print_config(parser: CommandParser, arguments: Arguments, used: Arguments) -> None:
    """Print what a command would use as YAML that `--config` takes; passwords are left out."""
    names = [action.dest for action in parser._actions if action.dest not in ("config", "print_config", "help")]
    defaults = {action.dest: action.default for action in parser._actions if action.default is not None}
    every = {**defaults, **arguments, **used}
    content = {name: _plain_value(every[name]) for name in names if every.get(name, SUPPRESS) is not SUPPRESS}
    print(yaml.safe_dump(content, sort_keys=False, allow_unicode=True), end="")


def printed(config: TrainConfig) -> Arguments:
    """Return the settings of a run for `--print-config`, with `SUPPRESS` for those that a file need not state."""
    return dict.fromkeys(TrainConfig.setting_names(), SUPPRESS) | stated(config)


def _plain_value(value: Any) -> Any:
    """Convert a value to what YAML can express, without passwords."""
    if isinstance(value, Mapping):
        return {key: _plain_value(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain_value(entry) for entry in value]
    return hide_passwords([value])[0] if isinstance(value, str) else value


def _config_first(words: Sequence[str]) -> list[str]:
    """Move configuration files to the front, so that a flag replaces a file's setting wherever it stands.

    Example:
        >>> _config_first(["--seed", "2", "--config", "a.yaml", "run"])
        ['--config', 'a.yaml', '--seed', '2', 'run']
    """
    files: list[str] = []
    others: list[str] = []
    rest = iter(words)
    for word in rest:
        place = files if word.split("=")[0] == "--config" else others
        place.append(word)
        if word == "--config":
            place.extend(next(([entry] for entry in rest), []))
    return files + others


def _with_dashes(word: str, flags: dict[str, str]) -> str:
    """Spell a flag as the parser does, up to an `=` or a `.`; return any other word unchanged."""
    end = min((word.index(mark) for mark in "=." if mark in word), default=len(word))
    return flags.get(word[:end].replace("-", "_"), word[:end]) + word[end:]


def command_line(command: str, argv: Sequence[str]) -> str:
    """Return a command as pages show it, without passwords."""
    return shlex.join(["noisyrnn", command, *hide_passwords(argv)])


def absolute_dataset(arguments: Arguments) -> Arguments:
    """Make the path of a user's own file or folder absolute, so that the run can be evaluated from anywhere."""
    dataset = arguments.get("dataset")
    if isinstance(dataset, str) and (Path(dataset).is_file() or (is_path(dataset) and Path(dataset).is_dir())):
        if not is_own(dataset):
            return arguments
        return {**arguments, "dataset": str(Path(dataset).resolve())}
    return arguments


def pop_path(arguments: Arguments, name: str) -> Path | None:
    """Remove one argument and return it as a path, or `None`."""
    value = arguments.pop(name, None)
    return None if value is None else Path(value)


def split_names(value: str | Sequence[str]) -> list[str]:
    """Return the names in "a, b" from a flag, or in the list of a config file."""
    return [part.strip() for part in value.split(",")] if isinstance(value, str) else list(value)


def print_summary(page: Path) -> None:
    """Print the verdict and the results of the comparison on a page: a summary on a terminal, `table.md` elsewhere."""
    from noisyrnn.report import print_comparison  # brings the report's figures

    content = json.loads((page.parent / "comparison.json").read_text(encoding="utf-8"))
    if sys.stdout.isatty():
        print_comparison(content, "Comparison")
        return
    print("\n\n".join(filter(None, (escape(content["verdict"]), (page.parent / "table.md").read_text("utf-8")))))
