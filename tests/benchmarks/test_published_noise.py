"""The readings of a published strength: what they do to values, what is measured of them, and how they are compared."""

from pathlib import Path

import pytest
import torch
from benchmarks.published_noise import READINGS, Salt, SaltThenPepper, columns, measured, table

from benchmarks import published_noise
from noisyrnn.data import load_dataset
from noisyrnn.pipeline import RunContext, train_run
from noisyrnn.robustness import SaltAndPepper, WhiteNoise, evaluate
from noisyrnn.training import TrainConfig, load

GREY = torch.full((4, 5000, 1), 0.5)


def shares(noise: SaltAndPepper | Salt | SaltThenPepper) -> tuple[float, float]:
    """Return the shares of values that have become 1 and 0."""
    labels = torch.zeros(len(GREY), dtype=torch.int64)
    changed = noise(None, GREY, labels, generator=torch.Generator().manual_seed(1))
    return float((changed == 1).double().mean()), float((changed == 0).double().mean())


@pytest.mark.parametrize(
    ("noise", "ones", "zeros"),
    [
        (Salt(0.2), 0.2, 0.0),
        (SaltThenPepper(0.2), 0.2 * 0.8, 0.2),
        (READINGS["salt_and_pepper"]["applied twice"](0.2), 0.18, 0.18),  # 1 - 0.8² of the values, half of them each
    ],
)
def test_shares_of_values_that_become_one_and_zero(noise: SaltAndPepper, ones: float, zeros: float) -> None:
    assert shares(noise) == (pytest.approx(ones, abs=0.01), pytest.approx(zeros, abs=0.01))  # 3.5 standard errors


def test_white_noise_twice_has_twice_the_variance() -> None:
    assert READINGS["white_noise"]["applied twice"](0.3).strength == pytest.approx((0.3**2 + 0.3**2) ** 0.5)


def test_a_run_is_measured_once_with_each_reading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = TrainConfig(
        dataset="digits", model="gru", hidden_size=16, epochs=4, batch_size=32, learning_rate=0.02, clip_norm=1.0
    )
    folder = train_run(config, RunContext(output=tmp_path, accelerator="cpu"))
    test = load_dataset("digits").test
    found = measured(folder, "kept", test, {"white_noise": [0.1], "salt_and_pepper": [0.1]})
    assert set(found) == {"clean"} | {f"{name} 0.1 {reading}" for name in READINGS for reading in READINGS[name]}
    model = load(folder.model)
    assert found["clean"] == 100 * evaluate(model, test).accuracy > 20
    stated = evaluate(model, test, WhiteNoise(0.1), draws=1).accuracy
    assert found["white_noise 0.1 x + N(0, σ²), as stated"] == 100 * stated
    calls: list[object] = []
    monkeypatch.setattr(
        published_noise, "evaluate", lambda *arguments, **named: calls.append(1) or evaluate(*arguments, **named)
    )
    more = measured(folder, "kept", test, {"white_noise": [0.1, 0.2], "salt_and_pepper": [0.1]})
    assert len(calls) == len(READINGS["white_noise"])
    assert {cell: more[cell] for cell in found} == found


def test_readings_are_compared_over_the_rows_whose_clean_accuracy_is_found_again() -> None:
    published = {"a": {"clean": 99.0, "white_noise 0.1": 90.0}, "b": {"clean": 99.0, "white_noise 0.1": 80.0}}
    assert columns("white_noise", published["a"]) == [0.1]

    def of_run(clean: float, value: float) -> dict[str, float]:
        return {"clean": clean, **{f"white_noise 0.1 {reading}": value for reading in READINGS["white_noise"]}}

    found = {
        "a": {"kept": [of_run(98.5, 93.0), of_run(98.5, 95.0)], "last": [of_run(98.5, 90.0)]},
        "b": {"kept": [of_run(90.0, 10.0)], "last": [of_run(99.0, 77.0)]},
    }
    lines = table("white_noise", published, found)
    assert lines[2] == "| | published | 90.0 | 80.0 | |"
    assert lines[3] == "| kept | x + N(0, σ²), as stated | 94.0 | 10.0 | 4.0 |"  # b's clean accuracy is not found again
    assert lines[6] == "| last | x + N(0, σ²), as stated | 90.0 | 77.0 | 2.1 |"  # √(9 / 2)
