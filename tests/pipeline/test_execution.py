"""What is executed together."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from noisyrnn.pipeline import execution
from noisyrnn.pipeline.context import RunContext
from noisyrnn.pipeline.evaluate import EvaluateConfig
from noisyrnn.pipeline.execution import ExecutionConfig, RunGroup, execute_runs
from noisyrnn.pipeline.seeds import train_seeds
from noisyrnn.training import TrainConfig

CLEAN = EvaluateConfig(strengths={}, draws=1)


def group(model: str, evaluation: EvaluateConfig = CLEAN, **changes: Any) -> RunGroup:
    config = TrainConfig(model=model, hidden_size=4, epochs=1, batch_size=500, **changes)
    return RunGroup(configs=[config, replace(config, seed=2)], evaluations=[evaluation])


@pytest.fixture
def together(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The labels of the runs of each call that trains."""
    calls: list[list[str]] = []

    def spy(configs: Sequence[TrainConfig], context: RunContext, **options: Any) -> dict[Path, str | None]:
        calls.append([f"{config.model} {config.seed}" for config in configs])
        return train_seeds(configs, context, **options)

    monkeypatch.setattr(execution, "train_seeds", spy)
    return calls


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_a_gpu_trains_all_models_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, together: list[list[str]], device: str
) -> None:
    monkeypatch.setattr(execution, "resolve_accelerator", lambda accelerator: device)  # the trainings run on the CPU
    context = RunContext(output=tmp_path, accelerator="cpu")
    outcome = execute_runs([group("noisy"), group("gru")], ExecutionConfig(batch_seeds=True), context)
    assert not outcome.failures
    assert len(outcome.usable) == 4
    found = [["noisy 1", "noisy 2"], ["gru 1", "gru 2"]]
    assert together == (found if device == "cpu" else [[*found[0], *found[1]]])


def test_only_what_can_be_trained_and_measured_alike_is_joined() -> None:
    groups = [
        group("noisy"),
        group("gru", precision="64-true"),
        group("lstm", EvaluateConfig(strengths={}, draws=2)),
        group("rnn"),
        group("cornn", values_per_step=8),
        group("exprnn", precision="64-true"),
    ]
    joined = [[config.model for config in one.configs[::2]] for one in execution._merged(groups)]
    assert joined == [["noisy", "rnn"], ["gru", "exprnn"], ["lstm"], ["cornn"]]
