"""From a finished and evaluated run to a file with its figures and its model card."""

import json
import shlex
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from tests.waves import write_waves

import noisyrnn
from noisyrnn.cli import main
from noisyrnn.export import export_run
from noisyrnn.export.pretrained import describe_run, evaluate_command, model_card, shown_figure, train_command
from noisyrnn.pipeline import EvaluateConfig, RunContext, evaluate_run, train_run
from noisyrnn.robustness import default_strengths
from noisyrnn.run_folder import RunFolder
from noisyrnn.training import TrainConfig
from noisyrnn.training.pretrained import read_pretrained
from noisyrnn.training.settings import read_experiment, recommended

STRENGTHS = {"white_noise": [0.1, 0.5], "fgsm": [0.2]}


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    folder = tmp_path_factory.mktemp("evaluated")
    config = TrainConfig(
        dataset=str(write_waves(folder, ["slow", "fast"])),
        label="small one",
        seed=3,
        hidden_size=4,
        epochs=2,
        input_noise=(0.0, 0.1),
    )
    run = train_run(config, RunContext(output=folder / "runs"))
    return evaluate_run(run, EvaluateConfig(strengths=STRENGTHS, draws=2, attack_draws=3, attack_sequences=7))


@pytest.fixture
def run(evaluated: RunFolder, tmp_path: Path) -> RunFolder:
    """A copy that a test may change."""
    return RunFolder(Path(shutil.copytree(evaluated.path, tmp_path / evaluated.path.name)))


def test_the_file_has_the_figures_of_the_run(evaluated: RunFolder, tmp_path: Path) -> None:
    paths = export_run(evaluated, output=tmp_path / "out", format="pretrained")
    stem = f"{Path(evaluated.read_config()['config']['dataset']).stem}-small_one-seed3"
    assert paths == [tmp_path / "out" / f"{stem}.safetensors", tmp_path / "out" / f"{stem}.md"]
    stored = read_pretrained(paths[0])
    assert stored.stem == stem and stored.evaluation == json.loads(evaluated.robustness.read_text())["settings"]
    for figure, column in zip(stored.figures, json.loads(evaluated.robustness.read_text())["columns"], strict=True):
        assert figure["value"] == column["accuracy"] and figure["interval"] == column["interval"]
        for name in ("perturbation", "strength", "unit", "norm", "settings", "sequences"):
            assert figure[name] == column[name]
    assert [figure["perturbation"] for figure in stored.figures] == [
        "clean",
        "white_noise",
        "white_noise",
        "fgsm",
        "worst_linf",
    ]
    assert stored.summary["best_epoch"] == evaluated.read_summary()["best_epoch"]
    assert stored.config["dataset"] == evaluated.read_config()["dataset"]
    original, again = noisyrnn.load(evaluated.model), noisyrnn.load(paths[0])
    assert all(torch.equal(a, b) for a, b in zip(original.parameters(), again.parameters(), strict=True))


def test_nothing_in_the_file_or_card_names_a_machine(evaluated: RunFolder, tmp_path: Path) -> None:
    paths = export_run(evaluated, output=tmp_path, format="pretrained")
    assert "platform" in evaluated.read_config()["environment"]
    for path in paths:
        content = path.read_bytes()
        for secret in (str(evaluated.path.parent), evaluated.read_config()["environment"]["platform"]):
            assert secret.encode() not in content


def test_the_card_of_a_run(evaluated: RunFolder, tmp_path: Path) -> None:
    path, card = export_run(evaluated, output=tmp_path, format="pretrained")
    text, stored = card.read_text(encoding="utf-8"), read_pretrained(path)
    assert text == model_card(stored)
    assert text.startswith("---\nlicense: apache-2.0\n") and yaml.safe_load(text.split("---")[1])["datasets"] == [
        stored.config["dataset"]["name"]
    ]
    best = stored.summary["best_epoch"]
    assert f"epoch {best} of 2, the best on validation data: accuracy " in text
    assert "Noise: mean over 2 draws. Attacks: worst case over 3 random starts." in text
    assert "in standard deviations of each channel" in text
    clean = stored.figures[0]
    low, high = (f"{100 * end:.2f}" for end in clean["interval"])
    assert f"| Clean | {100 * clean['value']:.2f} % | [{low}, {high}] | {clean['sequences']} |\n" in text
    assert "| White noise σ 0.5 standard deviations |" in text or "| White noise σ 0.5 " in text
    assert "| `input_noise` | [0.0, 0.1] |" in text and "| `seed` | 3 |" in text
    assert f"torch {torch.__version__}" in text and "32-true in training, float32 in evaluation" in text
    assert f"'--strengths={json.dumps(STRENGTHS)}' --draws=2 --attack-draws=3 --attack-sequences=7" in text


def test_a_regression_has_its_main_metric(tmp_path: Path) -> None:
    X = np.random.default_rng(0).standard_normal((80, 5, 1))
    np.savez(tmp_path / "sums.npz", X=X, y=X.sum(1)[:, 0])
    folder = train_run(
        TrainConfig(dataset=str(tmp_path / "sums.npz"), hidden_size=4, epochs=1), RunContext(output=tmp_path)
    )
    evaluate_run(folder, EvaluateConfig(strengths={"white_noise": [0.1]}, draws=2))
    _, card = export_run(folder, output=tmp_path / "out", format="pretrained")
    run, text = describe_run(folder), card.read_text(encoding="utf-8")
    assert run.figures[0]["metric"] == "r2" and ": loss " in text
    value = json.loads(folder.robustness.read_text())["columns"][0]["scores"]["r2"]["mean"]
    assert run.figures[0]["value"] == value and f"| Clean | {value:.4f} |" in text
    assert shown_figure(run.figures[0]) == ("Clean", f"{value:.4f}")
    assert run.description.endswith(f"test r2 {value:.3g}")


@pytest.mark.parametrize(
    ("spoil", "text"),
    [
        (lambda run: run.robustness.unlink(), "run must be evaluated, got .*, one without test results"),
        (
            lambda run: noisyrnn.save(noisyrnn.load(run.model), run.model),
            "run must be evaluated, got .*, one where model.safetensors changed since",
        ),
        (lambda run: run.summary.unlink(), "run must be finished"),
    ],
)
def test_what_is_refused(spoil: Any, text: str, run: RunFolder, tmp_path: Path) -> None:
    spoil(run)
    with pytest.raises(ValueError, match=text):
        export_run(run, output=tmp_path / "out", format="pretrained")
    assert not (tmp_path / "out").exists()


def test_weights_of_another_origin_are_refused(run: RunFolder, tmp_path: Path) -> None:
    noisyrnn.save(noisyrnn.load(run.model), run.model)
    with pytest.warns(UserWarning, match="is not the file that the training of this run wrote"):
        evaluate_run(run, EvaluateConfig(strengths=STRENGTHS, draws=1))
    with pytest.raises(ValueError, match="run must hold the weights of its training"):
        export_run(run, output=tmp_path / "out", format="pretrained")


def test_a_single_step_file_is_for_other_formats(evaluated: RunFolder, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^streaming must be False with format 'pretrained', got True\."):
        export_run(evaluated, output=tmp_path, format="pretrained", streaming=True)
    with pytest.raises(ValueError, match=r"^format must be one of onnx, pretrained, torch, got 'card'\."):
        export_run(evaluated, output=tmp_path, format="card")


def row(name: str, **changes: Any) -> TrainConfig:
    return TrainConfig.from_dict({**read_experiment(name).train, **changes})


@pytest.mark.parametrize(
    ("config", "command"),
    [
        (
            TrainConfig.from_dict({**recommended("digits", "noisy"), "model": "noisy"}),
            "noisyrnn train --dataset=digits --model=noisy --seed=1",
        ),
        (
            row("smnist-noisy-high", seed=2, precision="bf16-mixed"),
            "noisyrnn train --experiment=smnist-noisy-high --seed=2 --precision=bf16-mixed",
        ),
        (row("smnist-exprnn", epochs=3), None),
        (
            TrainConfig(
                dataset="smnist",
                values_per_step=16,
                label="two words",
                decay_epochs=(3, 5),
                clip_norm=None,
                input_noise=(0.0, 0.3),
                options={"learn_step": False, "damping_w": 0.1, "skew_symmetry": 1.0},
            ),
            None,
        ),
        (TrainConfig(model="lstm", dataset="digits", learning_rate=0.01), None),
    ],
)
def test_the_command_trains_with_these_settings(
    config: TrainConfig, command: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    found = train_command(config)
    assert command is None or found == command
    with pytest.raises(SystemExit):
        main([*shlex.split(found)[1:], "--print-config"])
    printed = yaml.safe_load(capsys.readouterr().out)
    names = set(config.to_dict())
    again = TrainConfig.from_dict({name: value for name, value in printed.items() if name in names})
    assert replace(again, label=config.label) == config and again.shown_label == config.shown_label


def test_the_evaluation_command_states_what_is_not_a_default(evaluated: RunFolder) -> None:
    run = replace(describe_run(evaluated), name="a", seed=4)
    assert shlex.split(evaluate_command(run)) == [
        *("noisyrnn", "evaluate", "a-seed4"),
        f"--strengths={json.dumps(STRENGTHS)}",
        *("--draws=2", "--attack-draws=3", "--attack-sequences=7"),
    ]
    digits = noisyrnn.pretrained_models()["digits-noisy"][1]
    strengths = {name: list(values) for name, values in default_strengths((0.0, 1.0)).items()}
    digits = replace(digits, evaluation={**digits.evaluation, "strengths": strengths})
    assert evaluate_command(digits) == "noisyrnn evaluate digits-noisy-seed1"
    clipped = replace(digits, evaluation={**digits.evaluation, "clip": True, "test_limit": 10})
    assert evaluate_command(clipped) == "noisyrnn evaluate digits-noisy-seed1 --clip --test-limit=10"
