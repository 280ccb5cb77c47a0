"""`bf16-mixed` where the processor makes no products of bf16: refused before anything is written."""

from pathlib import Path

import pytest

from noisyrnn import NoisyRNN, SequenceClassifier
from noisyrnn.data import load_dataset
from noisyrnn.pipeline import CompareConfig, RunContext, SweepConfig, compare, sweep, train_run, train_seeds
from noisyrnn.training import TrainConfig, fit, fit_seeds

SETTINGS = {"hidden_size": 4, "epochs": 1, "precision": "bf16-mixed"}
CONFIG = TrainConfig(model="noisy", dataset="digits", **SETTINGS)


def model() -> SequenceClassifier:
    return SequenceClassifier(NoisyRNN(1, 4), classes=10)


WAYS = {
    "train": lambda context: train_run(CONFIG, context),
    "seeds": lambda context: train_seeds([CONFIG], context, batch_seeds=True),
    "compare": lambda context: compare(CompareConfig(models=["noisy"], train=SETTINGS), context),
    "sweep": lambda context: sweep(SweepConfig(train={"precision": "bf16-mixed"}), context),
    "fit": lambda _: fit(model(), load_dataset("digits"), CONFIG),
    "fit_seeds": lambda _: fit_seeds([model()], load_dataset("digits"), [CONFIG]),
}


@pytest.mark.parametrize("way", WAYS)
def test_every_way_to_train_refuses_it_first(way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOISYRNN_CPU_LEVEL", "portable")
    with pytest.raises(ValueError, match="precision must be '32-true' on this processor, got 'bf16-mixed': the proc"):
        WAYS[way](RunContext(output=tmp_path, show_progress=False))
    assert list(tmp_path.iterdir()) == []
