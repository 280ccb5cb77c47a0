"""Two CPU processes under torchrun do what one does with the whole batch."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

PROGRAM = """
import sys, torch
from lightning_fabric import Fabric
from noisyrnn.data.base import Dataset, Split
from noisyrnn.models import SequenceClassifier, build_layer
from noisyrnn.training import TrainConfig, fit
from noisyrnn.training import fit as _
import noisyrnn.noise.hidden_noise as diffusion
from noisyrnn.pipeline.devices import make_fabric

torch.set_num_threads(1)
generator = torch.Generator().manual_seed(0)
inputs = torch.randn(22, 7, 1, generator=generator)
split = Split(inputs=inputs, labels=(inputs.sum((1, 2)) > 0).long(), classes=2)
dataset = Dataset(name="sums", train=split, validation=split, read_test=lambda: split, class_names=("a", "b"),
                  value_range=(-3.0, 3.0), standardize=False)
config = TrainConfig(hidden_size=5, epochs=1, batch_size=8, learning_rate=0.01, precision="64-true",
                     clip_norm=0.7, options={"step_size": 0.2, "additive": 0.5})
torch.manual_seed(config.seed)
model = SequenceClassifier(build_layer("noisy", 1, 5, config.options), 2)
draws = []
inner = diffusion.HiddenNoise.draw
def draw(self, *arguments, **named):
    found = inner(self, *arguments, **named)
    draws.append(found.additive)
    return found
diffusion.HiddenNoise.draw = draw
gradients = []
hook = torch.optim.Adam.step
def step(self, *arguments, **named):
    gradients.append(torch.cat([p.grad.flatten().clone() for group in self.param_groups for p in group["params"]]))
    return hook(self, *arguments, **named)
torch.optim.Adam.step = step
fabric = make_fabric(config.precision, "cpu")
result = fit(model, dataset, config, fabric=fabric)
torch.save({"gradients": torch.stack(gradients), "noise": draws, "history": result.history,
            "weights": torch.cat([p.detach().flatten() for p in model.parameters()])},
           f"{sys.argv[1]}/{fabric.world_size}-{fabric.global_rank}.pt")
"""


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, torch.Tensor]]:
    folder = tmp_path_factory.mktemp("ranks")
    program = folder / "program.py"
    program.write_text(PROGRAM)
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    for words in ([], launch):
        command = [sys.executable, *words, str(program), str(folder)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=180, check=False)
        assert done.returncode == 0, done.stderr[-3000:]
    return {path.stem: torch.load(path, weights_only=True) for path in Path(folder).glob("*.pt")}


def test_gradients_equal_those_of_one_process(results: dict[str, dict[str, torch.Tensor]]) -> None:
    one, first, second = results["1-0"], results["2-0"], results["2-1"]
    assert one["gradients"].shape[0] == 3
    for rank in (first, second):
        torch.testing.assert_close(rank["gradients"], one["gradients"], rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(rank["weights"], one["weights"], rtol=1e-9, atol=1e-11)


def test_noise_differs_by_rank_and_makes_up_that_of_one_process(results: dict[str, dict[str, torch.Tensor]]) -> None:
    for whole, first, second in zip(
        results["1-0"]["noise"], results["2-0"]["noise"], results["2-1"]["noise"], strict=True
    ):
        assert torch.equal(torch.cat([first, second], dim=1), whole)
        assert not torch.equal(first[:, :3], second[:, :3])


def test_metrics_count_every_sequence(results: dict[str, dict[str, torch.Tensor]]) -> None:
    one, two = results["1-0"]["history"][0], results["2-0"]["history"][0]
    assert two["train_accuracy"] == one["train_accuracy"]
    # Fabric hands logits back in the default float32, whatever the model's precision.
    assert two["train_loss"] == pytest.approx(one["train_loss"], rel=1e-6)
