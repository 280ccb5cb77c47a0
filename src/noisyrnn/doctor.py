"""What this installation is: versions, threads, kernels, data found."""

import importlib.metadata
import os
import platform
from pathlib import Path

import torch

from noisyrnn import __version__
from noisyrnn.data import DATASETS, data_folders

_PACKAGES = (
    "torch",
    "numpy",
    "scipy",
    "scikit-learn",
    "lightning-fabric",
    "joblib",
    "safetensors",
    "distributed",
    "aeon",
)


def report_health(data_dir: Path | None = None) -> str:
    """A text for people, and for bug reports.

    Args:
        data_dir: Where to look for data first.
    """
    lines = [f"noisyrnn {__version__}, Python {platform.python_version()}, {platform.platform()}"]
    lines += [f"  {name} {_version(name)}" for name in _PACKAGES]
    lines += [f"Threads: {torch.get_num_threads()} of {os.cpu_count()} cores"]
    lines += [f"GPU: {torch.cuda.get_device_name() if torch.cuda.is_available() else 'none'}"]
    lines += ["Kernel: reference (the loop over time in PyTorch)"]
    lines += ["Data folders: " + ", ".join(map(str, data_folders(data_dir)))]
    folders = data_folders(data_dir)
    for name, entry in DATASETS.items():
        missing = entry.missing(folders)
        lines.append(f"  {name:<10} {'not found: ' + ', '.join(missing) if missing else 'found'}")
    return "\n".join(lines)


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
