"""The search: settings chosen on validation data, with seeds that no measured training uses."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import joblib

from benchmarks.transfer.plan import ROWS, SEARCH_SEEDS, Plan, read_chosen, toml
from benchmarks.transfer.tasks import run_all
from noisyrnn.files import json_ready, read_json, write_atomically, write_json
from noisyrnn.pipeline.train import build_model
from noisyrnn.robustness import build_perturbation, evaluate
from noisyrnn.threads import limit_threads
from noisyrnn.training import TrainConfig, fit


@dataclass(frozen=True, kw_only=True)
class Point:
    """One training of the search.

    Args:
        plan: What it belongs to.
        config: Its settings.
        file: Where its score is kept.
    """

    plan: Plan
    config: TrainConfig
    file: Path


def score(point: Point) -> dict[str, float]:
    """Return the validation accuracies of a training: clean, under white noise and under FGSM; kept in its file.

    The test part is not read.
    """
    if point.file.is_file():
        return dict(read_json(point.file)["accuracies"])
    with limit_threads(1):
        dataset = point.plan.read_data()
        model = build_model(point.config, dataset)
        try:
            fit(model, dataset, point.config)
        except RuntimeError as error:  # it diverged
            warnings.warn(f"{point.config.shown_label} seed {point.config.seed}: {error}", stacklevel=2)
            accuracies = dict.fromkeys(("clean", "white_noise", "fgsm"), 0.0)
        else:
            model.eval().requires_grad_(False)
            model.layer.noise_mode = "off"
            limits = {"value_range": dataset.value_range, "scale": dataset.scale}
            accuracies = {
                "clean": evaluate(model, dataset.validation).accuracy,
                "white_noise": evaluate(
                    model,
                    dataset.validation,
                    build_perturbation("white_noise", point.plan.search_white_noise, **limits),
                    draws=1,
                    seed=1,
                ).accuracy,
                "fgsm": evaluate(
                    model, dataset.validation, build_perturbation("fgsm", point.plan.search_radius, **limits)
                ).accuracy,
            }
    write_json(point.file, {"settings": json_ready(point.config.to_dict()), "accuracies": accuracies})
    return accuracies


def search(
    plan: Plan, models: Sequence[str], rows: Sequence[str], *, output: Path, file: Path, workers: int
) -> dict[str, dict[str, Any]]:
    """Choose settings on validation data, write them to `file`, and print every score.

    The learning rate has the best clean accuracy without any regulariser, for one layer and for two. Each level of a
    regulariser has the best mean of the accuracies that are clean, under white noise and under FGSM. All are means over
    the search's seeds.

    Returns:
        For each model, and each of its rows with a choice, what was chosen.
    """
    chosen = read_chosen(file) if file.is_file() else {}
    folder = output / "search"
    folder.mkdir(parents=True, exist_ok=True)
    kept = [row for row in ROWS if ROWS[row].candidates and (row in rows or row in {ROWS[name].base for name in rows})]
    bases = [row for row in kept if ROWS[row].base == row]
    for part in (bases, [row for row in kept if row not in bases]):
        choices = {(model, row): ROWS[row].candidates for row in part for model in models}
        for (model, row), found in _scores(plan, choices, chosen, folder, workers).items():
            best = max(found, key=lambda pair: pair[1]["clean"] if row in bases else sum(pair[1].values()))
            chosen.setdefault(model, {})[row] = dict(best[0])
    write_atomically(file, toml(chosen).encode())
    return chosen


def _scores(
    plan: Plan,
    choices: Mapping[tuple[str, str], Sequence[Mapping[str, Any]]],
    chosen: Mapping[str, Mapping[str, Any]],
    folder: Path,
    workers: int,
) -> dict[tuple[str, str], list[tuple[Mapping[str, Any], dict[str, float]]]]:
    """Train every candidate with every seed, and print and return its mean accuracies."""
    points: dict[tuple[str, str, int, int], Point] = {}
    for (model, row), candidates in choices.items():
        for number, candidate in enumerate(candidates):
            for seed in SEARCH_SEEDS:
                base = {} if row == ROWS[row].base else chosen[model][ROWS[row].base]
                config = plan.config(model, row, seed, base, candidate, plan.shortened())
                name = f"{model}-{row}-{joblib.hash(json_ready(config.to_dict()))}.json"
                points[model, row, number, seed] = Point(plan=plan, config=config, file=folder / name)
    run_all(score, list(points.values()), workers=workers)
    found: dict[tuple[str, str], list[tuple[Mapping[str, Any], dict[str, float]]]] = {}
    for (model, row), candidates in choices.items():
        found[model, row] = []
        for number, candidate in enumerate(candidates):
            each = [score(points[model, row, number, seed]) for seed in SEARCH_SEEDS]
            means = {name: sum(one[name] for one in each) / len(each) for name in each[0]}
            found[model, row].append((candidate, means))
            shown = "  ".join(f"{name} {100 * value:.1f}" for name, value in means.items())
            print(f"{model:6} {row:13} {dict(candidate)}  {shown}", flush=True)
    return found
