import itertools
from pathlib import Path

import numpy as np
import pytest
from benchmarks.noise_at_test_time import FACTORS, LEVELS, PLACES, Training, measured, table

from noisyrnn.analysis import scores_with_noise
from noisyrnn.data import load_dataset
from noisyrnn.models import SequenceToSequence
from noisyrnn.pipeline import RunContext
from noisyrnn.pipeline.train import train_run
from noisyrnn.robustness.statistics import mean_interval
from noisyrnn.training import load


def test_the_table_has_means_over_seeds_and_paired_changes() -> None:
    rng = np.random.default_rng(0)
    results = {}
    for place, level, seed in itertools.product(PLACES, LEVELS, (1, 2, 3, 4)):
        errors = rng.random(len(FACTORS)) + 1.0
        errors[2 if seed < 4 else 0] = 0.1  # the best at 0.5 for three seeds, at 0 for one
        scores = {"mean_squared_error": errors.tolist(), "sign_accuracy": [0.5 + 0.1 * seed] * len(FACTORS)}
        results[Training("tanh", place, level, seed)] = scores
    lines = table(results, "tanh")
    assert len(lines) == 2 + len(PLACES) * len(LEVELS)
    rows = [results[Training("tanh", "inside", 0.2, seed)]["mean_squared_error"] for seed in (1, 2, 3, 4)]
    (line,) = (line for line in lines if line.startswith("| inside | 0.2 |"))
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert cells[2:10] == [f"{mean:.4f}" for mean in np.mean(rows, axis=0)]
    change = mean_interval([row[4] - row[0] for row in rows])
    assert cells[10] == f"{change.mean:+.4f} [{change.low:+.4f}, {change.high:+.4f}]"
    assert cells[11:] == ["0.5× (3), 0× (1)", "75.0 %"]


@pytest.mark.slow
def test_a_measurement_is_kept_with_its_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from benchmarks.flip_flop import flip_flop

    file = tmp_path / "flipflop.npz"
    np.savez(file, **flip_flop(sequences=60, steps=10, probability=0.2, seed=1))
    training = Training("tanh", "inside", 0.1, 1)
    scores = measured(training, file, tmp_path)
    folder = train_run(training.config(file), RunContext(output=tmp_path, resume=True))
    model, test = load(folder.model, SequenceToSequence).eval(), load_dataset(str(file)).test
    found = scores_with_noise(model, test, levels=FACTORS, draws=5, seed=0)
    assert scores["mean_squared_error"] == [one["mean_squared_error"].mean for one in found]
    monkeypatch.setattr("benchmarks.noise_at_test_time.scores_with_noise", None)  # not computed again
    assert measured(training, file, tmp_path) == scores
