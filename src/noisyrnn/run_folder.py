"""The folder of one run: which files it holds, and how they are written."""

import csv
import io
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FORMAT = 1


def write_atomically(path: Path, content: bytes) -> None:
    """Replace `path` by `content` at once: a reader, or a crash, sees the old file or the new one whole."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write `content` atomically, with the format number first."""
    text = json.dumps({"format": FORMAT, **content}, indent=1, allow_nan=False)
    write_atomically(path, (text + "\n").encode())


def read_json(path: Path) -> dict[str, Any]:
    """A JSON file of this format.

    Raises:
        ValueError: If it is not JSON, or another version wrote it.
    """
    try:
        content = json.loads(path.read_text())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} must be a JSON file, got one that breaks off or is damaged ({error}).") from error
    found = content.get("format") if isinstance(content, dict) else None
    if found != FORMAT:
        raise ValueError(
            f"{path} must be of format {FORMAT}, got {found}. Read it with the version of noisyrnn that wrote it."
        )
    return content


def check_writable(folder: Path) -> None:
    """Make `folder` and raise unless files can be written in it.

    Raises:
        ValueError: If it cannot be made or written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".probe.{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise ValueError(f"output must be a folder that can be written to, got {folder} ({error.strerror}).") from error


@dataclass(frozen=True)
class RunFolder:
    """The folder of one run.

    Args:
        path: Where it is.
    """

    path: Path

    @classmethod
    def open(cls, path: Path) -> "RunFolder":
        """An existing run of this format.

        Raises:
            ValueError: If there is none, or another version wrote it.
        """
        if not (path / "config.json").is_file():
            inside = any(path.glob("*/config.json"))
            advice = f"It holds runs; name them: {path}/*-seed*" if inside else "Train one: noisyrnn train."
            raise ValueError(f"run must be a folder that holds a config.json, got {path}. {advice}")
        read_json(path / "config.json")
        return cls(path)

    @property
    def config(self) -> Path:
        """Settings, data set and environment."""
        return self.path / "config.json"

    @property
    def metrics(self) -> Path:
        """One row for each epoch."""
        return self.path / "metrics.csv"

    @property
    def model(self) -> Path:
        """Weights of the best epoch on validation data."""
        return self.path / "model.safetensors"

    @property
    def checkpoint(self) -> Path:
        """Everything needed to go on."""
        return self.path / "checkpoint.pt"

    @property
    def summary(self) -> Path:
        """How the training ended."""
        return self.path / "summary.json"

    @property
    def robustness(self) -> Path:
        """Accuracy under perturbations."""
        return self.path / "robustness.json"

    @property
    def analysis(self) -> Path:
        """The quantities the theory speaks of."""
        return self.path / "analysis.json"

    @property
    def finished(self) -> bool:
        """Whether training reached its end."""
        return self.summary.is_file() and read_json(self.summary).get("status") == "finished"

    def remove_leftovers(self) -> None:
        """Delete what a process that was killed while it wrote has left behind; no other may be writing here."""
        for part in self.path.glob(".*.part"):
            part.unlink(missing_ok=True)

    def write_metrics(self, rows: Iterable[Mapping[str, float]]) -> None:
        """Replace the metrics by `rows`, all with the same keys."""
        rows = list(rows)
        text = io.StringIO()
        writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        write_atomically(self.metrics, text.getvalue().encode())
