"""From a trained run to robustness.json."""

import dataclasses
import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from noisyrnn.cli import main
from noisyrnn.data import load_dataset
from noisyrnn.pipeline import EvaluateConfig, RunContext, evaluate_run, train_run
from noisyrnn.pipeline.evaluate import gradient_notes, load_noise_free
from noisyrnn.report import write_report
from noisyrnn.robustness import Square, WhiteNoise, evaluate
from noisyrnn.training import RunFolder, TrainConfig, load


@pytest.fixture
def run(waves_file: Path, tmp_path: Path) -> RunFolder:
    config = TrainConfig(
        dataset=str(waves_file), hidden_size=6, epochs=8, batch_size=8, learning_rate=0.02, options={"step_size": 0.3}
    )
    return train_run(config, RunContext(output=tmp_path / "runs"))


QUICK = EvaluateConfig(strengths={"white_noise": [0.5], "pgd_linf": [0.3]}, draws=2)


def test_default_strengths_are_in_units_of_the_stated_range() -> None:
    digits = load_dataset("digits")
    plain = EvaluateConfig().for_data(digits).strengths
    wide = EvaluateConfig().for_data(dataclasses.replace(digits, value_range=(-5.0, 250.0))).strengths
    assert plain is not None and wide is not None
    assert list(plain["white_noise"]) == [0.1, 0.2, 0.3] and list(plain["pgd_l2"]) == [0.2, 0.5]
    assert wide.keys() == plain.keys()
    for name, values in plain.items():
        factor = 1 if name in ("multiplicative_noise", "salt_and_pepper") else 255
        assert wide[name] == pytest.approx([factor * value for value in values])
    given = EvaluateConfig(strengths={"white_noise": [0.1]})
    assert given.for_data(dataclasses.replace(digits, value_range=(0.0, 255.0))).strengths == {"white_noise": [0.1]}


def test_figures_are_those_of_the_library(run: RunFolder) -> None:
    evaluate_run(run, QUICK)
    written = json.loads(run.robustness.read_text())
    dataset = load_dataset(json.loads(run.config.read_text())["config"]["dataset"])
    model, test = load(run.model), dataset.test
    noise = WhiteNoise(0.5, scale=dataset.scale)
    columns = {column["perturbation"]: column for column in written["columns"]}
    assert columns["clean"]["accuracy"] == evaluate(model, test).accuracy
    assert columns["white_noise"] == evaluate(model, test, noise, draws=2, seed=0).to_dict()
    assert columns["pgd_linf"]["accuracy"] <= columns["clean"]["accuracy"]
    assert columns["worst_linf"]["correct"] == columns["pgd_linf"]["correct"]
    assert (columns["white_noise"]["unit"], columns["worst_linf"]["unit"]) == ("s", "s")
    assert {e["perturbation"] for e in written["examples"]} == {"clean", "white_noise", "pgd_linf"}
    assert len(written["examples"]) == 12


def test_the_same_settings_give_the_same_file_and_are_not_computed_again(run: RunFolder) -> None:
    first = evaluate_run(run, QUICK).robustness.read_bytes()
    stamp = run.robustness.stat().st_mtime_ns
    evaluate_run(run, QUICK)
    assert run.robustness.stat().st_mtime_ns == stamp
    run.robustness.unlink()
    torch.manual_seed(3)
    assert evaluate_run(run, QUICK).robustness.read_bytes() == first


def test_other_files_of_the_run_are_not_touched(run: RunFolder) -> None:
    before = {path.name: path.read_bytes() for path in run.path.iterdir()}
    evaluate_run(run, QUICK)
    written = (run.robustness, run.baselines)
    assert {path.name: path.read_bytes() for path in run.path.iterdir() if path not in written} == before


def test_examples_are_made_where_the_model_is(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    from noisyrnn.robustness import examples

    module = sys.modules["noisyrnn.pipeline.evaluate"]
    seen: list[Any] = []

    def record(*arguments: Any, **named: Any) -> Any:
        seen.append(named["device"])
        return examples(*arguments, **named)

    monkeypatch.setattr(module, "examples", record)
    evaluate_run(run, QUICK, RunContext(accelerator="cpu"))
    assert seen == ["cpu"]


def test_the_strongest_of_each_perturbation_is_shown(run: RunFolder) -> None:
    evaluate_run(run, EvaluateConfig(strengths={"white_noise": [0.9, 0.1]}, draws=2))
    shown = json.loads(run.robustness.read_text())["examples"]
    assert {example["strength"] for example in shown} == {None, 0.9}


def test_limits_take_the_first_sequences(run: RunFolder) -> None:
    limited = EvaluateConfig(strengths={"white_noise": [0.1], "fgsm": [0.1]}, test_limit=10, attack_sequences=4)
    written = json.loads(evaluate_run(run, limited).robustness.read_text())
    assert {c["perturbation"]: c["sequences"] for c in written["columns"]} == {
        "clean": 10,
        "white_noise": 10,
        "fgsm": 4,
        "worst_linf": 4,
    }


def test_gradient_free_attacks_see_the_first_of_the_attacked_sequences_once(
    run: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, int]] = []

    def record(model: Any, split: Any, perturbation: Any, *, draws: int, **named: Any) -> Any:
        asked.append(("clean" if perturbation is None else perturbation.name, draws))
        return evaluate(model, split, perturbation, draws=draws, **named)

    monkeypatch.setattr(sys.modules["noisyrnn.pipeline.evaluate"], "evaluate", record)
    config = EvaluateConfig(
        strengths={"pgd_linf": [0.5], "square_linf": [0.5]},
        attack_draws=2,
        attack_sequences=9,
        gradient_free_sequences=4,
    )
    written = json.loads(evaluate_run(run, config).robustness.read_text())
    columns = {column["perturbation"]: column for column in written["columns"]}
    assert {name: column["sequences"] for name, column in columns.items() if name != "clean"} == {
        "pgd_linf": 9,
        "square_linf": 4,
        "worst_linf": 9,
    }
    dataset = load_dataset(json.loads(run.config.read_text())["config"]["dataset"])
    first = dataset.test.subset(torch.arange(4))
    once = evaluate(load(run.model), first, Square(0.5, scale=dataset.scale), draws=1)
    assert columns["square_linf"] == once.to_dict()
    assert [draws for name, draws in asked if name == "square_linf"] == [1]
    assert [draws for name, draws in asked if name == "pgd_linf"] == [2]
    pgd, square, worst = (columns[name]["correct"] for name in ("pgd_linf", "square_linf", "worst_linf"))
    assert worst == "".join(map(min, pgd[:4], square)) + pgd[4:]
    assert columns["worst_linf"]["settings"].endswith("on the first 4 sequences")
    (check,) = written["gradient_checks"]
    assert (check["attack"], check["against"], check["sequences"]) == ("square_linf", ["pgd_linf"], 4)
    assert not check["masked"] and gradient_notes(run) == []
    assert {example["perturbation"] for example in written["examples"]} == {"clean", "pgd_linf"}


def test_strong_attacks(run: RunFolder) -> None:
    dataset = load_dataset(json.loads(run.config.read_text())["config"]["dataset"])
    settings = EvaluateConfig(strengths={"white_noise": [0.5], "fgsm": [0.3]}, attacks="strong", attack_draws=1)
    config = settings.for_data(dataset)
    assert config.for_data(dataset) == config
    written = json.loads(evaluate_run(run, settings).robustness.read_text())
    names = [column["perturbation"] for column in written["columns"]]
    strong = ["pgd_linf", "apgd_linf", "apgd_ratio_linf", "square_linf"]
    assert names == ["clean", "white_noise", *strong, "worst_linf"]
    assert written["settings"]["attacks"] == "strong"
    values: Any = SimpleNamespace(value_range=None, test=SimpleNamespace(classes=0))  # a regression
    chosen = settings.for_data(values).strengths
    assert chosen is not None and list(chosen) == ["white_noise", "pgd_linf", "apgd_linf", "square_linf"]
    everything = EvaluateConfig(attacks="strong").for_data(load_dataset("digits")).strengths
    assert everything is not None and "fgsm" not in everything and list(everything["square_l2"]) == [0.2, 0.5]


def test_masked_gradients_are_noted_in_the_file_the_table_the_page_and_the_terminal(
    run: RunFolder, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The model's logits are rounded, so their gradient is zero."""
    module = sys.modules["noisyrnn.pipeline.evaluate"]
    settings = EvaluateConfig(
        strengths={"fgsm": [1.0], "pgd_linf": [1.0], "square_linf": [1.0]}, attack_draws=1, gradient_free_sequences=1000
    )
    assert not json.loads(evaluate_run(run, settings).robustness.read_text())["gradient_checks"][0]["masked"]
    run.robustness.unlink()
    monkeypatch.setattr(module, "load_noise_free", lambda *place: _Rounded(load_noise_free(*place)).eval())
    (check,) = json.loads(evaluate_run(run, settings).robustness.read_text())["gradient_checks"]
    assert check["masked"] and check["only_gradient_free"] >= 3
    label, seed = (json.loads(run.config.read_text())["config"][name] for name in ("label", "seed"))
    count = f"{check['only_gradient_free']} of {check['sequences']} sequences"
    note = f"{label}, seed {seed}: Gradients may be masked, or the gradient attacks are too weak: square_linf at ϵ 1 s"
    assert gradient_notes(run) == [f"{label}, seed {seed}: {check['note']}"]
    page = write_report([run.path], run.path.parent, title="One model")
    table = (page.parent / "table.md").read_text().replace("\\", "")
    comparison = json.loads((page.parent / "comparison.json").read_text())
    for text in (table, page.read_text(), *comparison["notes"][:1]):
        assert note in text and count in text
    flags = ["--strengths", "{fgsm: [1.0], pgd_linf: [1.0], square_linf: [1.0]}", "--attack-draws", "1"]
    assert main(["evaluate", str(run.path), *flags, "--gradient-free-sequences", "1000"]) == 0
    shown = " ".join(capsys.readouterr().err.split())
    assert f"Note: {note}" in shown and count in shown


class _Rounded(torch.nn.Module):
    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, inputs: torch.Tensor, lengths: torch.Tensor | None = None) -> torch.Tensor:
        logits = self.model(inputs, lengths=lengths)
        return logits + ((4 * logits).round() / 4 - logits).detach() - (logits - logits.detach())


def test_an_unfinished_run_is_refused(run: RunFolder) -> None:
    run.summary.unlink()
    with pytest.raises(ValueError, match=r"run must be finished, got .*seed1-.*Resume it: noisyrnn train --resume"):
        evaluate_run(run, QUICK)


@pytest.mark.parametrize(
    ("settings", "error", "sentence"),
    [
        (
            {"strengths": {"white_noise": 0.1}},
            TypeError,
            r"strengths must be a list of numbers, got 0\.1\. Write \[0\.1\]",
        ),
        ({"strengths": {"white_noise": [-0.1]}}, ValueError, r"must be at least 0, got -0\.1"),
        ({"strengths": {"salt_and_pepper": [1.5]}}, ValueError, r"strength must lie in \[0, 1\], got 1\.5"),
        ({"strengths": {"white_nose": [0.1]}}, ValueError, r"got 'white_nose'\. Did you mean 'white_noise'\?"),
        (
            {"strengths": [0.1]},
            TypeError,
            r"strengths must map perturbations to lists of numbers, got \[0\.1\]\. Write",
        ),
        ({"draws": 36}, ValueError, r"draws must be at most 35, got 36"),
        ({"attack_draws": 50}, ValueError, r"attack_draws must be at most 35, got 50"),
        ({"draws": 0}, ValueError, r"draws must be at least 1, got 0"),
        ({"attack_draws": 0}, ValueError, r"attack_draws must be at least 1, got 0"),
        ({"attack_sequences": 0}, ValueError, r"attack_sequences must be at least 1, got 0"),
        ({"gradient_free_sequences": 0}, ValueError, r"gradient_free_sequences must be at least 1, got 0"),
        ({"attacks": "all"}, ValueError, r"attacks must be one of standard, strong, got 'all'"),
        ({"test_limit": 0}, ValueError, r"test_limit must be at least 1, got 0"),
        ({"evaluation_seed": -1}, ValueError, r"evaluation_seed must be at least 0, got -1"),
    ],
)
def test_bad_settings(settings: dict[str, Any], error: type[Exception], sentence: str) -> None:
    with pytest.raises(error, match=sentence):
        EvaluateConfig(**settings)
