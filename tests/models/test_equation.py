"""Every activation, diffusion, scheme and form against a loop written from the equation, in float64.

The loop takes one sequence at a time and knows neither cells nor noise: it has the drift f, the matrix σ of the
diffusion, derivatives by automatic differentiation of whole matrices, and the increments of the Brownian motion.
"""

import itertools
import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

from noisyrnn import (
    Activation,
    AntisymmetricRNN,
    BrownianPath,
    FunctionDiffusion,
    LipschitzRNN,
    NoisyRNN,
    RateRNN,
    RecurrentLayer,
)

UNITS, CHANNELS, STEPS = 3, 2, 4
LENGTHS = (4, 2, 3)
PATH = BrownianPath(seed=5, first_row=3, first_step=2)
MATRIX = [[0.3, -0.1], [0.2, 0.4], [-0.2, 0.1]]

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "tanh": torch.tanh,
    "sigmoid": lambda z: 1 / (1 + torch.exp(-z)),
    "relu": lambda z: torch.where(z > 0, z, 0.0),
    "softplus": lambda z: torch.log1p(torch.exp(z)),
    "retanh": lambda z: torch.where(z > 0, torch.tanh(z), 0.0),
    "identity": lambda z: z,
    "sine": torch.sin,
}


def diagonal(h: Tensor, x: Tensor, t: Tensor) -> Tensor:
    """Entry i depends on unit i."""
    return 0.2 + 0.1 * torch.sin(h + 0.3 * t) + 0.05 * x[..., :1]


def coupled(h: Tensor, x: Tensor, t: Tensor) -> Tensor:
    """A diagonal whose entry i depends on another unit too."""
    return 0.2 + 0.1 * torch.cos(h + 2 * h.roll(1, -1)) + 0.02 * t


def columns(h: Tensor, x: Tensor, t: Tensor) -> Tensor:
    """Three units, two columns that do not commute."""
    return torch.stack([0.2 * h.cos(), 0.1 * h.roll(1, -1) + 0.05 * t], dim=-1)


class Trained(nn.Module):
    """A diffusion with a parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.level = nn.Parameter(torch.tensor([0.1, 0.2, 0.3]))

    def forward(self, h: Tensor, x: Tensor, t: Tensor) -> Tensor:
        return self.level * torch.tanh(h + 1)


DIFFUSIONS: dict[str, dict[str, Any]] = {
    "additive": {"additive": 0.2, "multiplicative": 0.0},
    "independent": {"additive": 0.2, "multiplicative": 0.3},
    "shared": {"additive": 0.2, "multiplicative": 0.3, "noise_form": "shared"},
    "matrix": {"diffusion": MATRIX},
    "learned matrix": {"diffusion": MATRIX, "learn_diffusion": True},
    "diagonal": {"diffusion": FunctionDiffusion(diagonal, diagonal=True)},
    "coupled": {"diffusion": coupled},
    "columns": {"diffusion": columns},
    "module": {"diffusion": Trained()},
}
SCHEMES = ("euler-maruyama", "milstein", "stochastic-heun")
FORMS = ("lipschitz", "per_time", "antisymmetric", "rate", "current", "inside")


class Case(NamedTuple):
    activation: str
    diffusion: str
    scheme: str
    form: str

    @property
    def allowed(self) -> bool:
        if self.form == "inside":
            return self.scheme == "euler-maruyama" and self.diffusion in ("additive", "matrix", "learned matrix")
        return self.scheme != "milstein" or self.diffusion in ("additive", "matrix", "learned matrix", "diagonal")


def pairwise(cases: list[Case]) -> set[Case]:
    """A few of the cases that have every allowed pair of values."""

    def pairs(case: Case) -> set[tuple[Any, ...]]:
        return set(itertools.combinations(enumerate(case), 2))

    missing, chosen = set().union(*map(pairs, cases)), set()
    while missing:
        best = max(cases, key=lambda case: len(pairs(case) & missing))
        chosen.add(best)
        missing -= pairs(best)
    return chosen


def cases() -> Iterator[Any]:
    every = [case for case in itertools.starmap(Case, itertools.product(ACTIVATIONS, DIFFUSIONS, SCHEMES, FORMS))]
    every = [case for case in every if case.allowed]
    few = pairwise(every)
    for case in every:
        yield pytest.param(case, id="-".join(case), marks=[] if case in few else [pytest.mark.slow])


def build(case: Case) -> RecurrentLayer:
    options = dict(DIFFUSIONS[case.diffusion]) | {"scheme": case.scheme, "dtype": torch.float64}
    options["activation"] = Activation(torch.sin, lipschitz=1.0) if case.activation == "sine" else case.activation
    if case.diffusion == "module":
        options["diffusion"] = Trained()
    with torch.random.fork_rng():
        torch.manual_seed(1)
        if case.form == "lipschitz":
            layer: RecurrentLayer = LipschitzRNN(CHANNELS, UNITS, step_size=0.4, init_std=1.5, **options)
        elif case.form == "per_time":
            time = {"noise_units": "per_time", "noise_level": 0.7, "learn_step": False, "step_size": 0.3}
            layer = NoisyRNN(CHANNELS, UNITS, init_std=1.5, **options, **time)
        elif case.form == "antisymmetric":
            layer = AntisymmetricRNN(CHANNELS, UNITS, step_size=0.4, init_std=1.5, **options)
        else:
            place = {"inside": {"noise_place": "inside"}, "current": {"form": "current"}}.get(case.form, {})
            layer = RateRNN(CHANNELS, UNITS, tau=2.0, step_size=0.6, **place, **options)
    return layer.double()


class Written(NamedTuple):
    """The equation of a layer: drift f, step δ, and the factor of σ that its units mean."""

    drift: Callable[[Tensor, Tensor, Tensor | float], Tensor]
    step: Tensor | float
    factor: float
    output: Callable[[Tensor], Tensor]


def skew(M: Tensor, beta: float, gamma: float) -> Tensor:
    return (1 - beta) * (M + M.T) + beta * (M - M.T) - gamma * torch.eye(UNITS, dtype=torch.float64)


def written(case: Case, layer: Any) -> Written:
    cell, a = layer.cell, ACTIVATIONS[case.activation]
    U, b = cell.input.weight, cell.input.bias
    if case.form in ("lipschitz", "per_time"):
        A, W = skew(cell.B, 0.75, 0.001), skew(cell.C, 0.75, 0.001)
        factor = 0.7 * math.sqrt(0.3) if case.form == "per_time" else 1.0
        return Written(lambda h, x, z: A @ h + a(W @ h + U @ x + b + z), cell.step_size, factor, lambda h: h)
    if case.form == "antisymmetric":
        W = skew(cell.C, 1.0, 0.0001)
        return Written(lambda h, x, z: a(W @ h + U @ x + b + z), 0.4, 1.0, lambda h: h)
    W, alpha = cell.W, 0.6 / 2.0
    if case.form == "current":
        return Written(lambda v, x, z: -v + W @ a(v) + U @ x + b, alpha, math.sqrt(2 * alpha), a)
    factor = math.sqrt(2 / alpha) if case.form == "inside" else math.sqrt(2 * alpha)
    return Written(lambda r, x, z: -r + a(W @ r + U @ x + b + z), alpha, factor, lambda r: r)


def matrix_of(case: Case, layer: Any, equation: Written) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """σ(h, x, t), `(units, columns)`, for one nominal step."""
    eye = torch.eye(UNITS, dtype=torch.float64)
    levels = DIFFUSIONS[case.diffusion]
    if "additive" in levels:
        s1, s2 = levels["additive"], levels["multiplicative"]

        def sigma(h: Tensor, x: Tensor, t: Tensor) -> Tensor:
            # Levels of one step multiply the step δ f; those of unit time multiply f.
            f = equation.drift(h, x, 0.0)
            relative = torch.diag(s2 * (equation.step * f if equation.factor == 1 else f))
            if case.form == "inside" or s2 == 0:
                return equation.factor * s1 * eye
            parts = [s1 * eye + relative] if case.diffusion == "shared" else [s1 * eye, relative]
            return equation.factor * torch.cat(parts, dim=1)

        return sigma
    if "matrix" in case.diffusion:
        matrix = layer.diffusion.matrix
        return lambda h, x, t: equation.factor * matrix
    function = {"diagonal": diagonal, "coupled": coupled, "columns": columns}.get(case.diffusion)
    function = layer.diffusion.function if function is None else function

    def sigma(h: Tensor, x: Tensor, t: Tensor) -> Tensor:
        value = equation.factor * function(h, x, t)
        return torch.diag(value) if value.ndim == 1 else value

    return sigma


def one_step(
    case: Case,
    equation: Written,
    sigma: Callable[[Tensor, Tensor, Tensor], Tensor],
    h: Tensor,
    x: Tensor,
    t: Tensor,
    dt: Tensor,
    xi: Tensor,
) -> Tensor:
    f, length = equation.drift, equation.step * dt
    if case.form == "inside":
        return h + length * f(h, x, sigma(h, x, t) @ xi / dt.sqrt())
    dB = dt.sqrt() * xi

    def field(h: Tensor) -> Tensor:
        return sigma(h, x, t)

    def derivative(h: Tensor) -> Tensor:
        """∂_i σ_kj at [k, j, i]."""
        found = torch.autograd.functional.jacobian(field, h, create_graph=True)
        return found if isinstance(found, Tensor) else torch.zeros(*field(h).shape, UNITS)

    if case.scheme == "euler-maruyama":
        return h + length * f(h, x, 0.0) + field(h) @ dB
    if case.scheme == "milstein":
        after = h + length * f(h, x, 0.0) + field(h) @ dB
        if field(h).shape[1] == UNITS:
            after = after + 0.5 * torch.stack(
                [field(h)[i, i] * derivative(h)[i, i, i] * (dB[i] ** 2 - dt) for i in range(UNITS)]
            )
        return after

    def stratonovich(h: Tensor) -> Tensor:
        return length * f(h, x, 0.0) - 0.5 * dt * torch.einsum("ij,kji->k", field(h), derivative(h))

    guess = h + stratonovich(h) + field(h) @ dB
    return h + 0.5 * (stratonovich(h) + stratonovich(guess)) + 0.5 * (field(h) + field(guess)) @ dB


def written_pass(case: Case, layer: Any, inputs: Tensor, h_0: Tensor, dt: Tensor) -> tuple[Tensor, Tensor]:
    equation = written(case, layer)
    sigma = matrix_of(case, layer, equation)
    example = sigma(h_0[0], inputs[0, 0], dt[0, 0])
    r = example.shape[1]
    if "additive" in DIFFUSIONS[case.diffusion]:
        motions = PATH.normals(steps=STEPS, batch=len(inputs), units=UNITS, dtype=torch.float64)
        xi = torch.cat(list(motions), dim=2)[..., :r]
    else:
        xi = PATH.normals(steps=STEPS, batch=len(inputs), units=r, motions=1, dtype=torch.float64)[0]
    outputs, ends = [], []
    for n, length in enumerate(LENGTHS):
        h, t = h_0[n], torch.full((1,), float(PATH.first_step), dtype=torch.float64)
        for m in range(STEPS):
            if m < length:
                h = one_step(case, equation, sigma, h, inputs[n, m], t, dt[n, m], xi[m, n])
                t = t + dt[n, m]
                outputs.append(equation.output(h))
            else:
                outputs.append(torch.zeros(UNITS, dtype=torch.float64))
        ends.append(h)
    return torch.stack(outputs).view(len(inputs), STEPS, UNITS), torch.stack(ends)


@pytest.mark.parametrize("case", list(cases()))
def test_equals_the_written_loop(case: Case) -> None:
    generator = torch.Generator().manual_seed(2)
    layer = build(case)
    shapes = ((len(LENGTHS), STEPS, CHANNELS), (len(LENGTHS), UNITS), (len(LENGTHS), STEPS, UNITS))
    inputs, h_0, weights = (torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes)
    dt = 0.5 + torch.rand(len(LENGTHS), STEPS, generator=generator, dtype=torch.float64)
    inputs[1, 2:] = 7.0  # padding
    results = []
    for ours in (True, False):
        x, h, sizes = (tensor.clone().requires_grad_() for tensor in (inputs, h_0, dt))
        if ours:
            outputs, h_n = layer(x, h[None], lengths=torch.tensor(LENGTHS), dt=sizes, path=PATH)
            h_n = h_n[0]
        else:
            outputs, h_n = written_pass(case, layer, x, h, sizes)
        loss = (outputs * weights).sum() + h_n.square().sum()
        leaves = [x, h, sizes, *layer.parameters()]
        results.append((outputs, h_n, *torch.autograd.grad(loss, leaves, allow_unused=True, materialize_grads=True)))
    names = ["outputs", "h_n", "inputs", "h_0", "dt", *(name for name, _ in layer.named_parameters())]
    for name, found, expected in zip(names, *results, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12, msg=lambda m, name=name: f"{name}: {m}")
    assert all(bool(gradient.abs().sum() > 0) for gradient in results[0][2:])


@pytest.mark.parametrize(
    "options", [*({"activation": name} for name in ACTIVATIONS if name != "sine"), {"form": "current"}]
)
def test_noise_free_float32_passes_and_single_steps(options: dict[str, Any]) -> None:
    """These may go to the compiled kernel with packed weights, which knows tanh only."""
    torch.manual_seed(0)
    layer, inputs = RateRNN(CHANNELS, UNITS, **options).eval(), torch.randn(4, STEPS, CHANNELS)
    exact = RateRNN(CHANNELS, UNITS, **options).double().eval()
    exact.load_state_dict(layer.state_dict())
    with torch.no_grad():
        outputs, h_n = layer(inputs)
        wanted, end = exact(inputs.double())
        state = layer.step(inputs[:, 0])
    torch.testing.assert_close(outputs.double(), wanted, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(h_n.double(), end, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(layer.output(state).double(), wanted[:, 0], rtol=1e-5, atol=1e-6)
