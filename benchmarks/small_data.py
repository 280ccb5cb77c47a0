"""Measures the default settings on three small data sets next to baselines, and writes docs/results/small-data.md.

`python -m benchmarks.small_data` trains the noisy RNN, the GRU and the LSTM with five seeds each on ECGFiveDays,
Epilepsy and JapaneseVowels, with the settings that `noisyrnn compare --dataset NAME` uses. Results are kept in a
folder, so that an interrupted benchmark continues. With `--baselines` it measures the baselines only, which in an
environment with aeon adds ROCKET to them.

`python -m benchmarks.small_data --settings FOLDER` shows how the number of optimizer steps and the learning rate in
`experiments/tuned/general.toml` were chosen: on other data, the sets that aeon installs in its folder `datasets/data`,
and beats of the training part of ECG5000.
"""

import argparse
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

import torch

from noisyrnn.data import Dataset, load_dataset
from noisyrnn.files import write_json
from noisyrnn.robustness import baselines, evaluate, seeds_interval, seeds_test

SETS = ("ECGFiveDays", "Epilepsy", "JapaneseVowels")
MODELS = ("noisy", "gru", "lstm")
SEEDS = (1, 2, 3, 4, 5)
PAGE = Path(__file__).parents[1] / "docs" / "results" / "small-data.md"
BEGIN, END = "<!-- begin of the tables -->", "<!-- end of the tables -->"
OTHER_SETS = ("GunPoint", "ArrowHead", "ItalyPowerDemand", "BasicMotions")
OTHER_SEEDS = (101, 102)
CANDIDATES: dict[str, dict[str, Any]] = {
    "the defaults": {},
    "2,000 steps": {"min_steps": 2000},
    "batches of a quarter": {"batch_size": None},
    "batches of a quarter, learning rate 0.01": {"batch_size": None, "learning_rate": 0.01},
}
"""Settings to compare; a batch size of `None` is a quarter of the sequences."""


def correct(dataset: Dataset, model: str, settings: dict[str, Any], seed: int) -> dict[str, Any]:
    """Train once and return 1 for each test sequence that is classified correctly, else 0; and what was trained."""
    from noisyrnn.pipeline.train import build_model  # more packages than an environment with aeon needs
    from noisyrnn.training import TrainConfig, fit

    config = TrainConfig.from_dict({**settings, "model": model, "dataset": dataset.name, "seed": seed})
    network = build_model(config, dataset)
    result = fit(network, dataset, config, show_progress=False)
    found = evaluate(network.eval(), dataset.test, show_progress=False)
    return {
        "correct": list(found.main.sequences),
        "epochs": len(result.history),
        "adapted": result.adapted,
        "validation": result.validation_sequences,
        "seconds": result.seconds,
    }


def kept(file: Path, settings: dict[str, Any]) -> dict[str, Any] | None:
    """Return a result in a file; `None` if it has other settings or is missing."""
    if not file.is_file():
        return None
    content: dict[str, Any] = json.loads(file.read_text())
    return content if content["settings"] == settings else None


def trained(name: str, model: str, seed: int, output: Path) -> dict[str, Any]:
    """Return the result of a training with the recommended settings, from its file where it has one."""
    from noisyrnn.training.settings import recommended

    settings = recommended(name, model)
    file = output / f"{name}-{model}-{seed}.json"
    found = kept(file, settings)
    if found is None:
        found = {"settings": settings, **correct(load_dataset(name), model, settings, seed)}
        write_json(file, found)
        print(f"{name} {model} {seed}: {fmean(found['correct']):.3f}, {found['seconds']:.0f} s", flush=True)
    return found


def measure_baselines(name: str, output: Path) -> dict[str, list[float]]:
    """Return 1 or 0 for each test sequence by baseline, and keep them: those of another environment are added."""
    file = output / f"{name}-baselines.json"
    before = json.loads(file.read_text())["baselines"] if file.is_file() else {}
    dataset = load_dataset(name)
    fitted = {**baselines(dataset), "1-NN of raw values": baselines(replace(dataset, standardize=False))["1-NN"]}
    measured = {
        key: list(evaluate(model, dataset.test, show_progress=False).main.sequences) for key, model in fitted.items()
    }
    write_json(file, {"baselines": {**before, **measured}})
    return {**before, **measured}


def tables(output: Path, seeds: Sequence[int]) -> str:
    """Train what is missing and return the tables in Markdown."""
    rows, differences, trainings = [], [], []
    names: dict[str, None] = {}
    every = {name: measure_baselines(name, output) for name in SETS}
    for found in every.values():
        names |= dict.fromkeys(found)
    for name, found in every.items():
        by_model = {model: [trained(name, model, seed, output) for seed in seeds] for model in MODELS}
        cells, gaps = [], []
        for results in by_model.values():
            answers = [result["correct"] for result in results]
            interval = seeds_interval(answers)
            cells.append(f"{100 * interval.mean:.1f} [{100 * interval.low:.1f}, {100 * interval.high:.1f}]")
            test = seeds_test(answers, [found["1-NN"]] * len(answers))
            gaps.append(f"{100 * test.difference:+.1f} [{100 * test.low:+.1f}, {100 * test.high:+.1f}]")
        for key in names:
            if key not in found:
                cells.append("–")
                continue
            interval = seeds_interval([found[key]])
            cells.append(f"{100 * interval.mean:.1f} [{100 * interval.low:.1f}, {100 * interval.high:.1f}]")
        rows.append([name, *cells])
        differences.append([name, *gaps])
        for model, results in by_model.items():
            each = ", ".join(f"{100 * fmean(result['correct']):.1f}" for result in results)
            first = results[0]
            validation = f"{first['validation']}" if first["validation"] else "none"
            trainings.append([name, model, each, f"{first['epochs']:,}", validation])
    parts = [
        markdown(["data set", *MODELS, *names], rows),
        "Test accuracy in %. In brackets: for the networks the 95 % interval over trainings and test sequences "
        f"({len(seeds)} seeds), for the baselines over test sequences.",
        markdown(["data set", *MODELS], differences),
        "Difference from 1-NN in points, with its 95 % interval over trainings and test sequences, paired by test "
        "sequence.",
        markdown(["data set", "model", "accuracy of each seed", "epochs", "validation sequences"], trainings),
    ]
    return "\n\n".join(parts)


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def write_page(text: str, page: Path) -> None:
    """Put the tables in their place on a page."""
    before, _, rest = page.read_text(encoding="utf-8").partition(BEGIN)
    _, _, after = rest.partition(END)
    page.write_text(f"{before}{BEGIN}\n\n{text}\n\n{END}{after}", encoding="utf-8")


def other_sets(folder: Path) -> Iterator[tuple[str, Dataset]]:
    """Yield small data sets that the benchmark does not report: those in aeon's folder, and a few beats of ECG5000."""
    for name in OTHER_SETS:
        yield name, load_dataset(str(folder / name / f"{name}_TRAIN.ts"))
    beats = load_dataset("ecg5000")
    order = torch.randperm(len(beats.train), generator=torch.Generator().manual_seed(1))
    for count in (20, 60):
        train, rest = beats.train.subset(order[: count - 10]), beats.train.subset(order[count:])
        validation = beats.train.subset(order[count - 10 : count])
        part = replace(beats, train=train, validation=validation, read_test=lambda rest=rest: rest, standardize=True)
        yield f"{count} beats of ECG5000", part


def settings_table(folder: Path) -> str:
    """Return the mean accuracies of candidate settings on other data."""
    from noisyrnn.training.settings import recommended

    rows = []
    for name, dataset in other_sets(folder):
        nearest = evaluate(baselines(dataset, rocket=False)["1-NN"], dataset.test, show_progress=False).accuracy
        for model in MODELS[:2]:
            cells = []
            for candidate in CANDIDATES.values():
                quarter = -(-(len(dataset.train) + len(dataset.validation)) // 4)
                point = {name: quarter if value is None else value for name, value in candidate.items()}
                runs = [correct(dataset, model, {**recommended("", model), **point}, seed) for seed in OTHER_SEEDS]
                cells.append(f"{100 * fmean(fmean(run['correct']) for run in runs):.1f}")
            rows.append([name, model, f"{100 * nearest:.1f}", *cells])
            print(rows[-1], flush=True)
    return markdown(["data set", "model", "1-NN", *CANDIDATES], rows)


def main() -> None:
    """Measure what the options name."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("runs/small-data"), help="Folder of the results.")
    parser.add_argument("--baselines", action="store_true", help="Measure the baselines only.")
    parser.add_argument("--settings", type=Path, metavar="FOLDER", help="Compare settings on data of aeon in FOLDER.")
    words = parser.parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    words.output.mkdir(parents=True, exist_ok=True)
    if words.settings is not None:
        print(settings_table(words.settings))
    elif words.baselines:
        for name in SETS:
            for key, answers in measure_baselines(name, words.output).items():
                print(f"{name} {key}: {fmean(answers):.4f}")
    else:
        text = tables(words.output, SEEDS)
        write_page(text, PAGE)
        print(text)


if __name__ == "__main__":
    main()
