"""A small training, as each of several processes runs it; also a program for torchrun: `python ranks.py FOLDER`."""

import sys
from pathlib import Path
from typing import Any

import torch

from noisyrnn.data.dataset import Dataset
from noisyrnn.data.split import Split
from noisyrnn.models import SequenceClassifier, build_layer
from noisyrnn.noise.hidden_noise import HiddenNoise, NoiseDraws
from noisyrnn.pipeline.devices import make_fabric
from noisyrnn.training import TrainConfig, fit


def train_rank(folder: Path) -> None:
    """Train as one process of those that the environment names, and write what it did to `SIZE-RANK.pt`."""
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(22, 7, 1, generator=generator)
    split = Split(inputs=inputs, labels=(inputs.sum((1, 2)) > 0).long(), classes=2)
    dataset = Dataset(
        name="sums",
        train=split,
        validation=split,
        read_test=lambda: split,
        class_names=("a", "b"),
        value_range=(-3.0, 3.0),
        standardize=False,
    )
    config = TrainConfig(
        hidden_size=5,
        epochs=1,
        batch_size=8,
        learning_rate=0.01,
        precision="64-true",
        clip_norm=0.7,
        input_noise=(0.0, 0.3),
        adversarial="pgd_linf",
        adversarial_steps=2,
        ema=0.9,
        options={"step_size": 0.2, "additive": 0.5},
    )
    torch.manual_seed(config.seed)
    model = SequenceClassifier(build_layer("noisy", 1, 5, config.options), 2)
    noise: list[torch.Tensor] = []
    gradients: list[torch.Tensor] = []
    draw, step = HiddenNoise.draw, torch.optim.Adam.step

    def noting_draw(self: HiddenNoise, *arguments: Any, **named: Any) -> NoiseDraws:
        found = draw(self, *arguments, **named)
        noise.append(found.additive)
        return found

    def noting_step(self: Any, *arguments: Any, **named: Any) -> Any:
        parameters = [p for group in self.param_groups for p in group["params"]]
        gradients.append(torch.cat([p.grad.flatten().clone() for p in parameters]))
        return step(self, *arguments, **named)

    HiddenNoise.draw, torch.optim.Adam.step = noting_draw, noting_step  # type: ignore[method-assign]
    fabric = make_fabric(config.precision, "cpu")
    result = fit(model, dataset, config, fabric=fabric)
    found = {
        "gradients": torch.stack(gradients),
        "noise": noise,
        "history": result.history,
        "weights": torch.cat([p.detach().flatten() for p in model.parameters()]),
    }
    torch.save(found, folder / f"{fabric.world_size}-{fabric.global_rank}.pt")


if __name__ == "__main__":
    train_rank(Path(sys.argv[1]))
