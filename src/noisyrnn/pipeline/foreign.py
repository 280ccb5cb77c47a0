"""Rows of a comparison that a Python file builds: models of other libraries next to ours."""

import copy
import hashlib
import importlib.util
import inspect
import re
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from noisyrnn import __version__
from noisyrnn.data.dataset import Dataset
from noisyrnn.data.split import Split
from noisyrnn.data.stored import StoredSequences
from noisyrnn.files import json_ready, write_json
from noisyrnn.locks import locked
from noisyrnn.pipeline.context import RunContext
from noisyrnn.pipeline.dependencies import evaluation_results, known_result
from noisyrnn.pipeline.evaluate import EvaluateConfig, first_sequences, measure
from noisyrnn.pipeline.train import describe, environment
from noisyrnn.progress import ProgressBar, resolve_shown, tell
from noisyrnn.robustness.callables import as_callable, has_gradients
from noisyrnn.run_folder import RunFolder, failure_message, folder_name
from noisyrnn.threads import reproducible_threads
from noisyrnn.training.seeding import seeded

_NAME = re.compile(r"(?P<file>.+\.py):(?P<function>[A-Za-z_]\w*)")


def is_foreign(name: str) -> bool:
    """Whether a row is a function of a Python file, such as `mine.py:build`.

    Example:
        >>> is_foreign("models/mine.py:build"), is_foreign("noisy:additive=0.1")
        (True, False)
    """
    return _NAME.fullmatch(name) is not None


@dataclass(frozen=True, kw_only=True)
class ForeignRow:
    """A row that a Python file builds.

    Args:
        name: File and function, such as `mine.py:build`. The function takes a `Dataset`, and the seed if it has an
            argument `seed`, and returns a trained model: what `compare_models` takes.
        label: Name in tables.

    Raises:
        ValueError: If there is no such file.
    """

    name: str
    label: str

    def __post_init__(self) -> None:
        if not self.file.is_file():
            raise ValueError(f"model {self.name!r} must name a Python file, got none at {self.file}. Correct the path.")

    @property
    def file(self) -> Path:
        """The Python file."""
        match = _NAME.fullmatch(self.name)
        assert match is not None
        return Path(match["file"]).expanduser().resolve()

    @property
    def digest(self) -> str:
        """SHA-256 of the file."""
        return hashlib.sha256(self.file.read_bytes()).hexdigest()

    def function(self) -> Callable[..., Any]:
        """Import the file and return the function.

        Raises:
            ValueError: If the file cannot be imported, or has no such function of a data set and perhaps a seed.
        """
        match = _NAME.fullmatch(self.name)
        assert match is not None
        identity = hashlib.sha256(f"{self.file} {self.digest}".encode())  # a copy elsewhere reads what lies next to it
        module_name = f"noisyrnn_foreign_{identity.hexdigest()[:16]}"
        self._forget_changed(module_name)
        if module_name not in sys.modules:
            spec = importlib.util.spec_from_file_location(module_name, self.file)
            assert spec is not None and spec.loader is not None
            module = importlib.util.module_from_spec(spec)
            sys.modules[module_name] = module
            try:
                with self._importable():
                    spec.loader.exec_module(module)
            except BaseException as error:
                del sys.modules[module_name]
                if isinstance(error, KeyboardInterrupt | MemoryError):
                    raise
                raise ValueError(
                    f"model {self.name!r} must name a Python file that can be imported, got {_described(error)}."
                ) from error
            self._remember()
        function: Any = getattr(sys.modules[module_name], match["function"], None)
        if not callable(function):
            raise ValueError(f"model {self.name!r} must name a function of {self.file}, got none of that name.")
        try:
            inspect.signature(function).bind(None, **_options(function, 1))
        except TypeError as error:
            raise ValueError(
                f"model {self.name!r} must name a function of a data set and perhaps a seed, got other arguments "
                f"({error}). Write def {match['function']}(dataset, seed)."
            ) from error
        built: Callable[..., Any] = function
        return built

    def build(self, dataset: Dataset, seed: int) -> Any:
        """Return the model that the function builds of copies of the data, which it may change.

        Raises:
            RuntimeError: If the function fails.
        """
        function = self.function()
        try:
            with seeded(seed), self._importable():
                model = function(_copied(dataset), **_options(function, seed))
            self._remember()
            return model
        except (Exception, SystemExit) as error:
            if isinstance(error, MemoryError):
                raise
            raise RuntimeError(f"{self.name} failed with {_described(error)}.") from error

    def imported(self) -> dict[str, Path]:
        """Return the loaded modules of the file's folder, by name: the model depends on them too."""
        folder, found = self.file.parent, dict[str, Path]()
        for name, module in list(sys.modules.items()):
            path = getattr(module, "__file__", None)
            if path and folder in Path(path).parents and "site-packages" not in Path(path).parts:
                found[name] = Path(path)
        return {name: path for name, path in sorted(found.items()) if path != self.file}

    def _remember(self) -> None:
        """Keep the digests of the modules of the folder, as they are imported."""
        for name, digest in _digests(self.imported()).items():
            _DIGESTS.setdefault(name, digest)

    def _forget_changed(self, module_name: str) -> None:
        """Have the modules of the folder imported again if one of them has changed since it was."""
        now = _digests(self.imported())
        if all(_DIGESTS.get(name, digest) == digest for name, digest in now.items()):
            return
        for name in {module_name, *now} - {"__main__"}:
            sys.modules.pop(name, None)
            _DIGESTS.pop(name, None)

    @contextmanager
    def _importable(self) -> Iterator[None]:
        """Let the file import its neighbours, as it could if it were run."""
        folder = str(self.file.parent)
        sys.path.insert(0, folder)
        try:
            yield
        finally:
            if folder in sys.path:
                sys.path.remove(folder)


_DIGESTS: dict[str, str] = {}
"""SHA-256 of the files of modules that lie next to a user's file, as they were imported, by module."""


def _options(function: Callable[..., Any], seed: int) -> dict[str, int]:
    """Return the keyword arguments of a function: the seed, if it takes one."""
    return {"seed": seed} if "seed" in inspect.signature(function).parameters else {}


def _described(error: BaseException) -> str:
    """Return an error of a user's code with its type, without which some messages are a single word."""
    return f"{type(error).__name__}: {error}".rstrip(".: ")


def _copied(dataset: Dataset) -> Dataset:
    """Return a data set with tensors of its own; those that stay in files cannot be changed."""

    def copied(split: Split) -> Split:
        return split if isinstance(split.inputs, StoredSequences) else copy.deepcopy(split)

    train = copied(dataset.train)
    validation = train if dataset.validation is dataset.train else copied(dataset.validation)
    return replace(dataset, train=train, validation=validation, read_test=lambda: copied(dataset.test))


def _digests(files: Mapping[str, Path]) -> dict[str, str]:
    """Return the SHA-256 of each file; "missing" where there is none."""
    return {
        name: hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "missing"
        for name, path in files.items()
    }


@reproducible_threads()
def evaluate_foreign(
    row: ForeignRow, seed: int, dataset: Dataset, config: EvaluateConfig, context: RunContext
) -> RunFolder:
    """Build a model with a user's function, and measure it as `evaluate_run` measures ours.

    Its folder has no weights and no metrics of the training. The result is used again, with a line that says so, if the
    file, the modules of its folder that it has imported, the data and the settings are unchanged. Other files that the
    function reads are not known. Models without gradients are attacked by gradient-free attacks only.

    Args:
        row: The function.
        seed: Seed of torch's generator while the function runs, which also gets it if it has an argument `seed`.
        dataset: Passed to the function.
        config: Perturbations and draws.
        context: Where to write; models are measured on the CPU.
    """
    identity = {"name": row.name, "sha256": row.digest, "seed": seed, "label": row.label, "dataset": dataset.name}
    name = folder_name(f"{Path(dataset.name).stem}-{row.label}", identity, suffix=f"seed{seed}")
    folder = RunFolder(context.output / name)
    config = config.for_data(dataset)
    settings = json_ready(asdict(config))
    content = {
        "config": {"label": row.label, "seed": seed, "model": row.name, "dataset": dataset.name, "file": row.digest},
        "dataset": json_ready(describe(dataset)),
    }
    with locked(folder.path):
        same = (
            folder.config.is_file() and folder.finished and _same(folder.read_config()["dataset"], content["dataset"])
        )
        if same:
            imported = {name: Path(path) for name, path in folder.read_config().get("imported", {}).items()}
            depends_on = _depends_on(folder, dataset, imported)
            if known_result(folder, folder.robustness, settings, depends_on) is not None:
                if resolve_shown(context.show_progress):
                    again = f"To build it again, delete {folder.path}."
                    tell(f"{row.label} seed {seed}: an earlier result is used again. {again}")
                return folder
        written: dict[str, Any] = {"version": __version__, **content, "environment": environment()}
        write_json(folder.config, written)
        folder.summary.unlink(missing_ok=True)
        begin = time.monotonic()
        try:
            model = row.build(dataset, seed)
            parameters = None
            if isinstance(model, nn.Module):
                model.eval()
                parameters = sum(p.numel() for p in model.parameters() if p.requires_grad)
            seconds = round(time.monotonic() - begin, 3)
            measured = _measure(row, model, dataset, config, context)
        except Exception as error:
            write_json(folder.summary, {"status": "failed", "error": failure_message(error)})
            raise
        imported = row.imported()
        write_json(folder.config, {**written, "imported": {name: str(path) for name, path in imported.items()}})
        write_json(folder.summary, {"status": "finished", "error": None, "parameters": parameters, "seconds": seconds})
        depends_on = _depends_on(folder, dataset, imported)
        write_json(folder.robustness, {"settings": settings, "depends_on": depends_on, **measured})
    return folder


def _depends_on(folder: RunFolder, dataset: Dataset, imported: Mapping[str, Path]) -> dict[str, Any]:
    """Return what a result depends on beside the settings."""
    code = {"code": _digests(imported)} if imported else {}
    return {"test": dataset.test.fingerprint(), **folder.dependencies(), **code, "results": evaluation_results(dataset)}


def _same(stored: Mapping[str, Any], dataset: Mapping[str, Any]) -> bool:
    """Whether two descriptions are of the same data; earlier versions did not write the names of the channels."""
    names = ("channel_names",) if "channel_names" not in stored else ()
    return dict(stored) == {name: value for name, value in dataset.items() if name not in names}


def _measure(
    row: ForeignRow, model: Any, dataset: Dataset, config: EvaluateConfig, context: RunContext
) -> dict[str, Any]:
    """Return what `measure` returns, under every perturbation that the model can be tested with."""
    test = first_sequences(dataset.test, config.test_limit)
    outputs = as_callable(row.label, model, test, dataset.class_names)
    gradients = has_gradients(outputs, test)
    usable = [p for p in config.perturbations(dataset) if gradients or not p.is_attack or p.gradient_free]
    bar = partial(ProgressBar, f"evaluate {row.label}", shown=context.show_progress)
    return measure(outputs, _copied(dataset), config, usable, bar, worst=gradients)
