"""Results of an evaluation that are kept while it runs, so that it continues where it was interrupted."""

import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from noisyrnn.files import WriteError, read_json, write_json
from noisyrnn.robustness import Perturbation, RobustnessResult

SAVE_SECONDS = 10.0
"""Seconds of work that a killed process may lose, besides the perturbation that it was measuring."""

_WHICH = ("strengths", "attacks")
"""Settings that choose the perturbations: no result under one of them depends on the others."""


class KeptColumns:
    """Results by perturbation: those of an interrupted evaluation, and of one with other strengths.

    Used as a context: results that were added are saved every `SAVE_SECONDS` and when an exception leaves the context,
    into `robustness-part.json`, which is deleted when the context ends without one.

    Args:
        file: Result file of the evaluation. Its results are used again where one label was given for each sequence;
            for others the file does not hold every digit.
        settings: Settings of the evaluation, as the file holds them.
        depends_on: What the results depend on.
    """

    def __init__(self, file: Path, settings: Mapping[str, Any], depends_on: Mapping[str, Any]) -> None:
        self._part = file.with_name(f"{file.stem}-part.json")
        self._head = {"settings": dict(settings), "depends_on": dict(depends_on)}
        self._columns: dict[str, dict[str, Any]] = {}
        for path in (file, self._part):
            with suppress(ValueError):  # missing or damaged: measured again
                self._take(read_json(path), whole=path == self._part)
        self._saved, self._unsaved = time.monotonic(), False

    def _take(self, content: Mapping[str, Any], *, whole: bool) -> None:
        """Take the results of a file, if nothing that they depend on differs."""
        stored = [content.get(name) for name in self._head]
        if not all(isinstance(part, dict) for part in stored) or _own(stored[0]) != _own(self._head["settings"]):
            return
        if stored[1] == self._head["depends_on"]:
            columns = [column for column in content["columns"] if whole or "correct" in column]
            self._columns |= {column["settings"]: column for column in columns}

    def find(self, perturbation: Perturbation | None) -> RobustnessResult | None:
        """Return the result under a perturbation; `None` if it is not known."""
        column = self._columns.get("clean" if perturbation is None else repr(perturbation))
        if column is None:
            return None
        return RobustnessResult.from_dict(column, gradient_free=perturbation is not None and perturbation.gradient_free)

    def add(self, result: RobustnessResult) -> None:
        """Keep a result."""
        self._columns[result.settings] = result.to_dict(every_digit=True)
        self._unsaved = True
        if time.monotonic() - self._saved >= SAVE_SECONDS:
            self._save()

    def _save(self) -> None:
        write_json(self._part, {**self._head, "columns": list(self._columns.values())})
        self._saved, self._unsaved = time.monotonic(), False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if kind is None:
            self._part.unlink(missing_ok=True)
        elif self._unsaved:
            with suppress(WriteError):  # the exception says more
                self._save()


def _own(settings: Any) -> dict[str, Any]:
    """Return the settings that every result depends on."""
    return {name: value for name, value in settings.items() if name not in _WHICH}
