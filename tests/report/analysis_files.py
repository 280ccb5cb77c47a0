"""Realistic `analysis.json` files, their numbers made by formulas."""

import math
from pathlib import Path
from typing import Any

from tests.report.conftest import write

LABELS = ("noisy", "lipschitz", "lstm")
GRID = [round(-1 + i / 10, 1) for i in range(21)]


def quantity(name: str, value: float | None, **options: Any) -> dict[str, Any]:
    """An entry of the table; without options an exact number of curvature."""
    plain = {"title": name.replace("_", " ").capitalize(), "group": "curvature", "standard_error": None}
    rest = {"interval": None, "kind": "exact", "confidence": None, "unit": "", "better": None, "note": ""}
    return {"name": name, "value": value} | plain | rest | options


def curve(x: list[float], y: list[float | None], **options: Any) -> dict[str, Any]:
    """A curve without band; without options an exact one."""
    plain = {"low": None, "high": None, "xlabel": "x", "ylabel": "y", "kind": "exact", "confidence": None, "note": ""}
    return {"x": x, "y": y} | plain | options


def landscape(sharpness: float, *, tilt: float = 0.5, directions: str = "leading eigenvectors") -> dict[str, Any]:
    """A bowl, `sharpness` times as steep along alpha as along beta, on the grid [-1, 1] x [-1, 1]."""
    loss = [
        [0.02 + sharpness * a * a + tilt * sharpness * b * b * (1 + 0.3 * math.sin(3 * a)) for b in GRID] for a in GRID
    ]
    return {"directions": directions, "alphas": GRID, "betas": GRID, "loss": loss, "seed": 0, "note": "256 sequences."}


def analysis(label: str, seed: int) -> dict[str, Any]:
    """The analysis of one run: the three labels differ by a factor, the seeds by a little."""
    rank = LABELS.index(label)
    wobble = 1 + 0.07 * (seed - 2) * (1 + 0.3 * rank)
    trace, exponent = 12.34 * 3**rank * wobble, -0.12 + 0.09 * rank + 0.01 * (seed - 2)
    steps = [float(m) for m in range(65)]
    spread = 30 * 3**rank * wobble
    eigenvalues = [-0.1 * spread + 1.1 * spread * i / 199 for i in range(200)]
    radii = [i / 20 for i in range(21)]
    factors = [0.0, 0.25, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0]
    width = 0.3 / (1 + rank)
    curvature = {"better": "lower", "note": "256 training sequences"}
    certified = {"kind": "certificate", "confidence": 0.999}
    radius = {"group": "margin", "better": "higher", "unit": "ℓ2"}
    return {
        "settings": {"analysis_seed": 0, "test_sequences": 100, "budget": 30.0},
        "data": {"curvature": "256 training sequences, drawn with seed 0", "margin": "100 test sequences"},
        "quantities": [
            quantity(
                "hessian_trace",
                trace,
                title="Hessian trace",
                kind="estimate",
                standard_error=0.5,
                interval=[trace - 1, trace + 1],
                **curvature,
            ),
            quantity(
                "largest_eigenvalue", 4.2e6 * 2**rank * wobble, title="Largest eigenvalue", kind="estimate", **curvature
            ),
            quantity("p", -3.1e-6 * wobble, title="P", group="regularizer", note="mean over 100 test sequences"),
            quantity("smoothed_radius", width * wobble, title="Radius by smoothing", **certified, **radius),
            quantity(
                "lipschitz_radius",
                None if rank == 2 else 0.003 / wobble,
                title="Radius by Lipschitz constants",
                kind="certificate",
                **radius,
            ),
            quantity("attack_radius", width * 1.4 * wobble, title="Attacked within", kind="certificate", **radius),
            quantity(
                "largest_exponent",
                exponent,
                title="Largest Lyapunov exponent",
                group="stability",
                kind="estimate",
                interval=[exponent - 0.01, exponent + 0.01],
                unit="per step",
                better="lower",
            ),
        ],
        "curves": {
            "jacobian_norms": curve(
                steps,
                [wobble * (rank - 1) * m / 20 + 0.05 * math.sin(m) for m in steps],
                xlabel="steps before the end",
                ylabel="log10 spectral norm",
                note="Mean over 20 sequences.",
            ),
            "gradient_norms": curve(
                steps,
                [-1 - (2 - rank) * m / 30 * wobble for m in steps],
                xlabel="steps before the end",
                ylabel="log10 gradient norm",
            ),
            "spectral_density": curve(
                eigenvalues,
                [
                    math.exp(-((e / (0.02 * spread)) ** 2)) * 10
                    + 0.01 * math.exp(-(((e - 0.8 * spread) / (0.02 * spread)) ** 2))
                    for e in eigenvalues
                ],
                xlabel="eigenvalue",
                ylabel="density",
                kind="estimate",
            ),
            "certified_accuracy": curve(
                radii,
                [0.95 * math.exp(-((r / width) ** 2)) * min(wobble, 1) for r in radii],
                low=[0.9 * math.exp(-((r / width) ** 2)) for r in radii],
                high=[min(1, math.exp(-((r / width) ** 2))) for r in radii],
                xlabel="ℓ2 radius",
                ylabel="share of sequences",
                note="Smoothed with σ 0.1.",
                **certified,
            ),
            "attack_accuracy": curve(
                radii,
                [0.97 * math.exp(-((r / (1.5 * width)) ** 2)) * min(wobble, 1) for r in radii],
                xlabel="ℓ2 radius",
                ylabel="share of sequences",
                kind="certificate",
            ),
            "stabilization": curve(
                factors,
                [exponent + 0.15 - 0.03 * f * f for f in factors],
                low=[exponent + 0.14 - 0.03 * f * f for f in factors],
                high=[exponent + 0.16 - 0.03 * f * f for f in factors],
                xlabel="noise, as a multiple of the model's own",
                ylabel="exponent per step",
                kind="estimate",
            ),
        },
        "landscapes": {
            "eigen": landscape(0.8 * 4**rank * wobble),
            "filter": landscape(0.3 * 2**rank * wobble, tilt=1.1, directions="filter-normalised random directions"),
        },
        "verdict": f"stable: nearby states approach each other, Λ = {exponent:.3f} per step"
        if exponent < 0
        else "undecided",
        "diagnostics": {
            "curvature": {"status": "done", "seconds": 12.0},
            "margin": {"status": "done", "seconds": 40.0 + seed},
            "smoothing": {"status": "skipped", "reason": "the budget of 30 minutes was used up"}
            if label == "lstm"
            else {"status": "done", "seconds": 3.0},
        },
    }


def write_analysis(folder: Path, content: dict[str, Any]) -> Path:
    """Put `content` into `folder/analysis.json`."""
    write(folder / "analysis.json", content)
    return folder
