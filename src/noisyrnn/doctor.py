"""Describes this installation: versions, threads, kernels and the data found."""

import functools
import importlib.metadata
import os
import platform
from collections.abc import Callable
from pathlib import Path

import torch

from noisyrnn import __version__
from noisyrnn.data import DATASETS, data_folders
from noisyrnn.kernels import select
from noisyrnn.kernels.cpp.describe import describe
from noisyrnn.models import MODELS, build_layer

_PACKAGES = (
    "torch",
    "numpy",
    "scipy",
    "scikit-learn",
    "lightning-fabric",
    "joblib",
    "safetensors",
    "triton",
    "distributed",
    "aeon",
)


def report_health(data_dir: Path | None = None) -> str:
    """Return a text for bug reports. The CPU kernel is compiled if necessary.

    Args:
        data_dir: Folder to search for data first.
    """
    gpu = torch.cuda.is_available()
    lines = [f"noisyrnn {__version__}, Python {platform.python_version()}, {platform.platform()}"]
    lines += [f"  {name} {_version(name)}" for name in _PACKAGES]
    lines += [f"Threads: {torch.get_num_threads()} of {os.cpu_count()} cores"]
    lines += [f"GPU: {torch.cuda.get_device_name() if gpu else 'none'}"]
    lines += [f"CPU kernel: {_or_error(describe)}"]
    for device in ("cpu", "cuda") if gpu else ("cpu",):
        lines += _kernels(device)
    folders = data_folders(data_dir)
    lines += [f"Data folders: {', '.join(map(str, folders))}"]
    for name, entry in DATASETS.items():
        missing = entry.missing(folders)
        lines.append(f"  {name:<10} {'not found: ' + ', '.join(missing) if missing else 'found'}")
    return "\n".join(lines)


def _kernels(device: str) -> list[str]:
    """Describe which kernel runs each model on a device, and why faster ones do not; equal models share a line."""
    forced = os.environ.get(select.ENVIRONMENT)
    alike: dict[str, list[str]] = {}
    for model in MODELS:
        alike.setdefault(_or_error(functools.partial(_kernel, model, device)), []).append(model)
    header = f"Kernels on {'a GPU' if device == 'cuda' else 'the CPU'}"
    header += f" ({select.ENVIRONMENT}={forced})" if forced else ""
    return [f"{header}:", *(f"  {', '.join(models)}: {text}" for text, models in alike.items())]


def _kernel(model: str, device: str) -> str:
    """The kernel for a model in float32."""
    with torch.random.fork_rng(), torch.device("cpu"):
        cell = build_layer(model, 1, 8, {}).to(device).cell
    inputs, recurrence = torch.zeros(1, 1, 1, dtype=torch.float32, device=device), cell.recurrence()
    own = "torch's own; with noise " if hasattr(cell, "run_fused") and not select.compiled_for(inputs, "auto") else ""
    name = select.requested("auto")
    if name == "auto":
        name, reason = select.fastest(cell, inputs, recurrence=recurrence)
        return own + name + (f" ({reason})" if reason else "")
    refusal = select.refusal(name, cell, inputs, recurrence=recurrence)
    return own + (name if refusal is None else f"none (kernel {name!r} cannot run this cell: {refusal})")


def _or_error(ask: Callable[[], str]) -> str:
    """Return the text or the error: on a broken installation the rest is still useful."""
    try:
        return ask()
    except Exception as error:
        return f"{type(error).__name__}: {error}"


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
