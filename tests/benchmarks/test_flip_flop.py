from pathlib import Path
from typing import Any

import numpy as np
import pytest
from benchmarks.flip_flop import flip_flop, main

from noisyrnn.data import load_dataset


@pytest.mark.parametrize("targets", ["values", "classes"])
def test_outputs_hold_the_last_sign_of_each_channel(targets: str) -> None:
    arrays = flip_flop(sequences=50, steps=12, bits=3, probability=0.2, targets=targets, seed=1)
    pulses, found, mask = arrays["X"], arrays["y"], arrays["mask"]
    assert pulses.shape == (50, 12, 3) and set(np.unique(pulses)) == {-1, 0, 1}
    for i in range(50):
        state = [0.0, 0.0, 0.0]
        for t in range(12):
            state = [old if new == 0 else float(new) for old, new in zip(state, pulses[i, t], strict=True)]
            assert mask[i, t] == (0.0 not in state)
            if mask[i, t]:
                number = sum((sign > 0) << bit for bit, sign in enumerate(state))
                assert found[i, t] == number if targets == "classes" else found[i, t].tolist() == state
    assert mask.any(axis=1).all()


def test_pulses_are_as_frequent_and_as_often_positive_as_stated() -> None:
    pulses = flip_flop(sequences=400, steps=50, probability=0.1, seed=2)["X"]
    share = np.sqrt(0.1 * 0.9 / pulses.size)
    assert abs((pulses != 0).mean() - 0.1) < 4 * share + 0.001  # a channel without a pulse gets one: 0.5 % of channels
    assert abs(pulses.sum()) < 4 * np.sqrt((pulses != 0).sum())
    again = flip_flop(sequences=400, steps=50, probability=0.1, seed=2)["X"]
    assert np.array_equal(again, pulses) and not np.array_equal(flip_flop(sequences=400, steps=50, seed=3)["X"], pulses)


@pytest.mark.parametrize("targets", ["values", "classes"])
def test_the_file_is_read_as_it_is_meant(tmp_path: Path, targets: str, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "flip.npz"
    assert main([str(path), "--sequences", "40", "--steps", "9", "--targets", targets, "--probability", "0.3"]) == 0
    assert capsys.readouterr().out.startswith(f"Written: {path}: X (40, 9, 3), y (40, 9")
    dataset = load_dataset(str(path))
    assert dataset.every_step and dataset.outputs == (3 if targets == "values" else 8)
    assert dataset.classes == (0 if targets == "values" else 8)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"probability": 0.0}, r"^probability must be finite|^probability must be greater than 0, got 0\.$"),
        ({"probability": 1.5}, r"^probability must be at most 1, got 1\.5\.$"),
        ({"bits": 11}, r"^bits must be at most 10, got 11\.$"),
        ({"sequences": 0}, r"^sequences must be at least 1, got 0\.$"),
        ({"targets": "sign"}, r"^targets must be one of classes, values, got 'sign'\.$"),
    ],
)
def test_wrong_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        flip_flop(**options)


def test_a_wrong_option_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path / "flip.csv")]) == 2
    assert capsys.readouterr().err == f"error: file must end in .npz, got '{tmp_path / 'flip.csv'}'.\n"
    assert main([str(tmp_path / "flip.npz"), "--steps", "0"]) == 2
    assert not list(tmp_path.iterdir())
