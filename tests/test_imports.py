"""What is loaded, and when: names that a task does not use cost it no time."""

import subprocess
import sys

import pytest

SLOW = {"torch._dynamo", "sympy", "triton", "lightning_fabric", "matplotlib", "scipy.stats", "sklearn", "optuna"}
SLOW |= {"pandas", "pyarrow", "openpyxl", "scipy.io"}


def lines(program: str) -> dict[str, set[str]]:
    """The modules that a program loads, in a process of its own: each line it prints, by its first word."""
    shown = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=True)
    return {words[0]: set(words[1:]) for line in shown.stdout.splitlines() if (words := line.split())}


@pytest.mark.parametrize("program", ["import noisyrnn", "from noisyrnn.cli import main; main(['--version'])"])
def test_no_torch_without_a_network(program: str) -> None:
    loaded = lines(f"{program}\nimport sys; print('loaded', *sys.modules)")["loaded"]
    assert "noisyrnn" in loaded
    assert not ({"torch", "numpy"} | SLOW) & loaded


def test_nothing_slow_without_a_use_for_it() -> None:
    """A layer, `fit`, `train --help` and `list`, one after another in one process."""
    program = """
import contextlib, sys, torch
torch_alone = set(sys.modules)
import noisyrnn
noisyrnn.NoisyRNN(1, 4), noisyrnn.fit
print("ours", *set(sys.modules) - torch_alone)
noisyrnn.load_dataset
from noisyrnn.cli import main
with contextlib.suppress(SystemExit):
    main(["train", "--help"])
main(["list"])
import noisyrnn.kernels.triton.kernel
print("loaded", *sys.modules)
"""
    found = lines(program)
    assert {"noisyrnn.cli.train", "noisyrnn.cli.info"} <= found["loaded"]
    assert not SLOW & found["loaded"]
    assert 20 < len(found["ours"]) <= 220


def test_nothing_slow_for_the_answers_of_a_trained_model() -> None:
    program = """
import sys, torch, noisyrnn
model = noisyrnn.load_pretrained("smnist-noisy-high")
model(torch.zeros(2, 9, 1))
print("loaded", *sys.modules)
"""
    loaded = lines(program)["loaded"]
    assert "noisyrnn.training.saving" in loaded
    assert not SLOW & loaded
