"""Draws results of `robustness.evaluate` for a notebook: a metric against strength, with intervals."""

from collections.abc import Mapping, Sequence

import matplotlib
from matplotlib.figure import Figure

from noisyrnn.report.columns import perturbation_title, symbol
from noisyrnn.report.figures import STYLE, colour, grid, legend, literal
from noisyrnn.robustness import METRICS, ModelComparison, RobustnessResult

Results = Sequence[RobustnessResult]


def plot(results: Results | Mapping[str, Results] | ModelComparison, *, metric: str | None = None) -> Figure:
    """Draw a metric against strength, one panel per perturbation, with 95 % intervals as bars.

    Args:
        results: Results of one model, of several by name, or what `compare_models` returns. A clean result is drawn at
            strength 0 of every panel.
        metric: Key of the results' `scores`; by default their main metric.

    Returns:
        A matplotlib figure: a notebook shows it, `figure.savefig("robustness.pdf")` writes it.

    Raises:
        ValueError: If there is no result of a perturbation, or a result lacks the metric.

    Example:
        >>> import torch
        >>> from noisyrnn.data import Split
        >>> from noisyrnn.robustness import WhiteNoise, evaluate
        >>> split = Split(inputs=torch.tensor([[[1.0]], [[-1.0]]]), labels=torch.tensor([1, 0]), classes=2)
        >>> def model(inputs):
        ...     return torch.cat([-inputs[:, 0], inputs[:, 0]], dim=1)
        >>> figure = plot([evaluate(model, split, noise) for noise in (None, WhiteNoise(0.5), WhiteNoise(1.0))])
        >>> figure.axes[0].get_title(loc="left")
        'White noise'
    """
    if isinstance(results, ModelComparison):
        results = {name: [r for r in found.values() if r is not None] for name, found in results.results.items()}
    by_name = dict(results) if isinstance(results, Mapping) else {"": results}
    every = [result for found in by_name.values() for result in found]
    panels = list(dict.fromkeys((r.perturbation, r.unit) for r in every if r.strength is not None))
    if not panels:
        raise ValueError(f"results must hold a result of a perturbation, got {len(every)} without one.")
    metric = every[0].metric if metric is None else metric
    lacking = next((result for result in every if metric not in result.scores), None)
    if lacking is not None:
        raise ValueError(f"metric must be one of {', '.join(lacking.scores)}, got {metric!r}.")
    shown = METRICS[metric]
    with matplotlib.rc_context(STYLE):
        figure, axes = grid(len(panels), across=3)
        for axis, (perturbation, unit) in zip(axes, panels, strict=True):
            for position, (name, found) in enumerate(by_name.items()):
                at = {
                    result.strength or 0.0: result.scores[metric]
                    for result in found
                    if result.strength is None or (result.perturbation, result.unit) == (perturbation, unit)
                }
                strengths = sorted(at)
                means = [shown.factor * at[strength].mean for strength in strengths]
                ends = [[shown.factor * end for end in at[strength].interval] for strength in strengths]
                below = [max(mean - low, 0.0) for mean, (low, _) in zip(means, ends, strict=True)]
                above = [max(high - mean, 0.0) for mean, (_, high) in zip(means, ends, strict=True)]
                label = literal(name) if name else None
                axis.errorbar(
                    strengths, means, [below, above], color=colour(position), marker="o", capsize=2, label=label
                )
            axis.set_title(perturbation_title(perturbation))
            axis.set_xlabel(f"strength {symbol(perturbation)} {unit}".strip())
            if shown.unit == "%":
                axis.set_ylim(0, 103)
            if axis in axes[::3]:
                axis.set_ylabel(f"test {shown.title}" + (" (%)" if shown.unit == "%" else ""))
        if any(by_name):
            legend(figure, axes)
    return figure
