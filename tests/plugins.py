"""A package with entry points, as an installer leaves it on `sys.path`."""

from collections.abc import Mapping
from pathlib import Path

MODULE = '''
from typing import Unpack

import torch

from noisyrnn.data.dataset import Dataset
from noisyrnn.data.split import Split
from noisyrnn.data import DatasetEntry
from noisyrnn.models.gated import GRU
from noisyrnn.registry import Entry
from noisyrnn.robustness import PerturbationEntry
from noisyrnn.robustness.base import Noise
from dataclasses import dataclass


class OwnGRU(GRU):
    """A GRU of another package."""


@dataclass(frozen=True)
class Shift(Noise):
    """Adds a constant."""

    name = "shift"
    symbol = "c"
    random = False

    def change(self, inputs, strength, generator):
        return inputs + strength


def steps(folders, values_per_step):
    inputs = torch.linspace(-1, 1, 120).repeat(4, 1).T[..., None].contiguous()
    def part(rows):
        return Split(inputs=inputs[rows], labels=(inputs[rows, 0, 0] > 0).long(), classes=2)
    return Dataset(
        name="steps", train=part(slice(0, 120, 3)), validation=part(slice(1, 120, 3)),
        read_test=lambda: part(slice(2, 120, 3)), class_names=("low", "high"), value_range=None, standardize=True,
        source="Made by a plug-in.",
    )


model = Entry(description="own GRU", build=OwnGRU)
perturbation = PerturbationEntry(
    description="adds a constant",
    symbol="c",
    build=lambda strength, clip, scale, limits: Shift(strength, clip, scale=scale),
)
dataset = DatasetEntry(description="two classes", build=steps)
broken = "no entry"
'''

POINTS = {
    "noisyrnn.models": {"owngru": "own_plugin:model"},
    "noisyrnn.perturbations": {"shift": "own_plugin:perturbation"},
    "noisyrnn.datasets": {"steps": "own_plugin:dataset"},
}


def install(folder: Path, points: Mapping[str, Mapping[str, str]], *, module: str = MODULE, name: str = "own") -> Path:
    """Write a package into a folder and return the folder, to be put on `sys.path`."""
    (folder / f"{name}_plugin.py").write_text(module, encoding="utf-8")
    info = folder / f"{name}_plugin-1.2.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}-plugin\nVersion: 1.2\n", encoding="utf-8")
    lines = [f"[{group}]\n" + "".join(f"{k} = {v}\n" for k, v in entries.items()) for group, entries in points.items()]
    (info / "entry_points.txt").write_text("\n".join(lines), encoding="utf-8")
    return folder
