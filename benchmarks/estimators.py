"""The estimators with their defaults on two sets of the UCR/UEA archive: the official parts.

`python -m benchmarks.estimators` trains every model with five seeds and prints a table: test accuracy, mean over
seeds with the half-width of Student's 95 % interval over them, then every seed.
"""

import argparse
from pathlib import Path

import joblib
import numpy as np
import torch
from scipy import stats

from noisyrnn.data.folders import data_folders, find
from noisyrnn.data.ts import read_ts
from noisyrnn.estimators import NoisyRNNClassifier

SETS = ("JapaneseVowels", "Epilepsy")
MODELS = ("noisy", "gru", "lstm")


def sequences(name: str, part: str, folder: Path | None) -> tuple[list[np.ndarray], np.ndarray]:
    """Each sequence as `(channels, time)`, and the labels."""
    path = find(data_folders(folder), [f"{name}_{part}.ts.gz", f"{name}_{part}.ts"], ["ucr_uea"])
    if path is None:
        raise FileNotFoundError(f"{name}_{part}.ts must be in a data folder, got none. Set NOISYRNN_DATA.")
    cases = read_ts(path)
    lengths = torch.full((len(cases.labels),), cases.inputs.shape[1]) if cases.lengths is None else cases.lengths
    inputs = [one[:length].T.numpy() for one, length in zip(cases.inputs, lengths.tolist(), strict=True)]
    return inputs, np.array(cases.labels)


def accuracy(name: str, model: str, seed: int, folder: Path | None) -> float:
    """Test accuracy of one training."""
    torch.set_num_threads(1)
    fitted = NoisyRNNClassifier(model, random_state=seed).fit(*sequences(name, "TRAIN", folder))
    return float(fitted.score(*sequences(name, "TEST", folder)))


def main() -> None:
    """Train all, print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--data-dir", type=Path)
    given = parser.parse_args()
    work = [(name, model, seed) for name in SETS for model in MODELS for seed in range(given.seeds)]
    parallel = joblib.Parallel(n_jobs=given.workers, verbose=5)
    found = dict(zip(work, parallel(joblib.delayed(accuracy)(*one, given.data_dir) for one in work), strict=True))
    print("| data set | " + " | ".join(MODELS) + " |\n|---|" + "---:|" * len(MODELS))
    for name in SETS:
        cells = []
        for model in MODELS:
            values = np.array([found[name, model, seed] for seed in range(given.seeds)])
            half = stats.t.ppf(0.975, given.seeds - 1) * values.std(ddof=1) / given.seeds**0.5
            cells.append(f"{values.mean():.3f} ± {half:.3f} ({', '.join(f'{value:.3f}' for value in values)})")
        print(f"| {name} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
