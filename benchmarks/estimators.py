"""Evaluates the estimators with their defaults on the official parts of two data sets of the UCR/UEA archive.

`python -m benchmarks.estimators` trains every model with five seeds and prints a table: test accuracy, mean over
seeds with its 95 % interval over trainings and test sequences, then every seed.
"""

import argparse
from pathlib import Path

import joblib
import numpy as np
import torch

from noisyrnn.data.folders import data_folders, find_file
from noisyrnn.data.ts import read_ts
from noisyrnn.estimators import NoisyRNNClassifier
from noisyrnn.robustness import seeds_interval

SETS = ("JapaneseVowels", "Epilepsy")
MODELS = ("noisy", "gru", "lstm")


def sequences(name: str, part: str, folder: Path | None) -> tuple[list[np.ndarray], np.ndarray]:
    """Read sequences, each `(channels, time)`, and their labels."""
    path = find_file(data_folders(folder), [f"{name}_{part}.ts.gz", f"{name}_{part}.ts"], ["ucr_uea"])
    if path is None:
        raise FileNotFoundError(f"{name}_{part}.ts must be in a data folder, got none. Set NOISYRNN_DATA.")
    cases = read_ts(path)
    lengths = torch.full((len(cases.labels),), cases.inputs.shape[1]) if cases.lengths is None else cases.lengths
    inputs = [one[:length].T.numpy() for one, length in zip(cases.inputs, lengths.tolist(), strict=True)]
    return inputs, np.array(cases.labels)


def answers(name: str, model: str, seed: int, folder: Path | None) -> list[float]:
    """Train once and return 1 for each test sequence that is classified correctly, else 0."""
    torch.set_num_threads(1)
    fitted = NoisyRNNClassifier(model, random_state=seed).fit(*sequences(name, "TRAIN", folder))
    X, y = sequences(name, "TEST", folder)
    return [float(right) for right in fitted.predict(X) == y]


def main() -> None:
    """Train all, print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5, help="Seeds for each model (default: %(default)s).")
    parser.add_argument("--workers", type=int, default=1, help="Processes at the same time (default: %(default)s).")
    parser.add_argument("--data-dir", type=Path, help="Folder to search for data first.")
    given = parser.parse_args()
    work = [(name, model, seed) for name in SETS for model in MODELS for seed in range(given.seeds)]
    parallel = joblib.Parallel(n_jobs=given.workers, verbose=5)
    found = dict(zip(work, parallel(joblib.delayed(answers)(*one, given.data_dir) for one in work), strict=True))
    print("| data set | " + " | ".join(MODELS) + " |\n|---|" + "---:|" * len(MODELS))
    for name in SETS:
        cells = []
        for model in MODELS:
            rates = [found[name, model, seed] for seed in range(given.seeds)]
            interval = seeds_interval(rates)
            each = ", ".join(f"{np.mean(one):.3f}" for one in rates)
            cells.append(f"{interval.mean:.3f} [{interval.low:.3f}, {interval.high:.3f}] ({each})")
        print(f"| {name} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
