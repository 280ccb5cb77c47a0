"""What the library refuses to touch: memory of another size than the pass needs, and a struct that is not its own."""

import ctypes
from typing import Any

import pytest
import torch
from tests.kernels.cpp.conftest import a_pass, ends_of, fused
from tests.kernels.noise_terms import terms

from noisyrnn import NoisyRNN
from noisyrnn.kernels.cpp import recurrent_matrix
from noisyrnn.native import compiler, library

READ = {
    "pack": ("A", "W", "U", "b", "step", "diffusion", "packed"),
    "forward": ("x", "initial", "dt", "lengths", "seeds", "packed"),
    "backward": ("x", "initial", "dt", "lengths", "seeds", "states", "saved", "grad_states", "grad_last", "A", "step"),
}
WRITTEN = {
    "forward": ("states", "saved", "last"),
    "backward": ("d_x", "d_initial", "d_A", "d_W", "d_U", "d_b", "d_step", "d_diffusion"),
}
CASES = [
    *((function, f"{name}_bytes", -1) for function, names in READ.items() for name in names),
    *(
        (function, f"{name}_bytes", change)
        for function, names in WRITTEN.items()
        for name in names
        for change in (-2, 4)
    ),
    ("forward", "x_step", 1),
    ("forward", "initial_row", 2**60),
    ("forward", "x_row", -(2**20)),
    ("backward", "grad_row", 2**62),
    ("backward", "W_replica", 1),
    ("forward", "rows", 1),
    ("forward", "steps", 2**62),
    ("backward", "units", -1000),
    ("forward", "kind", 70),
    ("forward", "kind", -9),
    ("forward", "activation", 70),
    ("pack", "columns", -9),
    ("backward", "source", 9),
]


@pytest.mark.parametrize(("function", "field", "change"), CASES)
def test_a_wrong_size(function: str, field: str, change: int, monkeypatch: pytest.MonkeyPatch) -> None:
    call = a_pass(5, 3, 4, noise=terms(additive=0.3), columns=3, dt="row", lengths=True, replicas=2)
    compiled = library.native()
    right = getattr(compiled, function)

    def wrong(reference: Any) -> int:
        setattr(reference._obj, field, getattr(reference._obj, field) + change)
        return int(right(reference))

    monkeypatch.setattr(compiled, function, wrong)
    with pytest.raises(RuntimeError, match=r"was given a wrong size for '.*' and did not run") as refused:
        fused(call, *ends_of(call))
    if field.endswith("_bytes"):
        assert f"'{field.removesuffix('_bytes')}'" in str(refused.value)


def test_memory_that_is_gone() -> None:
    """As sharded training frees it: the tensor's shape stays."""
    layer = NoisyRNN(3, 8)
    layer(torch.zeros(2, 4, 3))
    for name in ("input.weight", "B"):
        weight = layer.cell.get_parameter(name)
        size = weight.untyped_storage().nbytes()
        weight.untyped_storage().resize_(0)
        with pytest.raises(RuntimeError, match="wrong size for"):
            layer(torch.zeros(2, 4, 3))
        weight.untyped_storage().resize_(size)


def test_matrices_that_are_not_square() -> None:
    library.native()
    with pytest.raises(RuntimeError, match="must match"):
        recurrent_matrix.skew_damped_together(torch.zeros(4, 3), skew_symmetry=(0.7,), damping=(0.1,))


@pytest.mark.parametrize(("one", "other"), [("x_row", "x_step"), ("d_A", "d_W"), ("additive", "slope")])
def test_a_mirror_with_two_fields_exchanged(one: str, other: str, monkeypatch: pytest.MonkeyPatch) -> None:
    exchanged = {one: other, other: one}

    class Mirror(ctypes.Structure):
        _fields_ = [(exchanged.get(name, name), kind) for name, kind in library.Call._fields_]

    assert ctypes.sizeof(Mirror) == ctypes.sizeof(library.Call)
    monkeypatch.setattr(library, "Call", Mirror)
    with pytest.raises(AssertionError, match="mirror differ"):
        library.Native(compiler.level())


def test_an_infinite_input_reaches_no_more_than_in_the_plain_loop() -> None:
    """tanh saturates, so that its channel of U only has no gradient; units fill no whole vector here."""
    torch.manual_seed(0)
    layer = NoisyRNN(3, 5, step_size=0.5, additive=0.0, multiplicative=0.0)
    inputs = torch.randn(4, 6, 3)
    inputs[1, 3, 0] = torch.inf
    found = {}
    for name in ("cpp", "reference"):
        layer.kernel = name
        layer.zero_grad()
        outputs, _ = layer(inputs)
        outputs.square().sum().backward()
        found[name] = [outputs.detach(), *(p.grad for p in layer.parameters() if p.grad is not None)]
    for one, other in zip(found["cpp"], found["reference"], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5, equal_nan=True)
    assert sum(int(one.isnan().sum()) for one in found["cpp"]) == 5


@pytest.mark.parametrize("hidden", [1, 5, 16, 20])
@pytest.mark.parametrize("name", ["cpp", "eager"])
def test_outputs_have_no_gaps(hidden: int, name: str) -> None:
    layer = NoisyRNN(3, hidden, batch_first=False)
    layer.kernel = name
    inputs = torch.randn(6, 4, 3)
    assert layer(inputs)[0].is_contiguous()
    with torch.no_grad():
        assert layer.eval()(inputs)[0].is_contiguous()
