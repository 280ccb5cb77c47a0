"""What is loaded, and when: names that a task does not use cost it no time."""

import subprocess
import sys

import pytest

SLOW = {"torch._dynamo", "sympy", "triton", "lightning_fabric", "matplotlib", "scipy.stats", "sklearn", "optuna"}


def loaded(program: str) -> set[str]:
    """Modules that a program has loaded at its end, in a process of its own."""
    program = f"import sys\ntry:\n    {program}\nexcept SystemExit:\n    pass\nprint('\\nmodules', *sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=True)
    return set(done.stdout.rpartition("\nmodules ")[2].split())


@pytest.mark.parametrize("program", ["import noisyrnn", "from noisyrnn.cli import main; main(['--version'])"])
def test_no_torch_without_a_network(program: str) -> None:
    assert not ({"torch", "numpy"} | SLOW) & loaded(program)


@pytest.mark.parametrize(
    "program",
    [
        "import noisyrnn; noisyrnn.NoisyRNN(1, 4), noisyrnn.fit, noisyrnn.load_dataset",
        "from noisyrnn.cli import main; main(['train', '--help'])",
        "from noisyrnn.cli import main; main(['list'])",
    ],
)
def test_nothing_slow_without_a_use_for_it(program: str) -> None:
    modules = loaded(program)
    assert "torch" in modules
    assert not SLOW & modules


def test_our_part_of_the_library_is_small() -> None:
    ours = loaded("import noisyrnn; noisyrnn.NoisyRNN(1, 4), noisyrnn.fit") - loaded("import torch")
    assert len(ours) <= 200
