"""The trained models of the package: their files, their cards, and figures that are measured again."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tests.test_setup import PROJECT

import noisyrnn
from noisyrnn.data import Dataset, Split, load_dataset
from noisyrnn.export.pretrained import model_card
from noisyrnn.pipeline import EvaluateConfig
from noisyrnn.robustness import Perturbation, WhiteNoise, evaluate
from noisyrnn.training.pretrained import PretrainedModel, figure_of, read_pretrained
from noisyrnn.training.saving import read_header

FOLDER = Path(__file__).parents[2] / "src" / "noisyrnn" / "pretrained"
MODELS = [model for seeds in noisyrnn.pretrained_models().values() for model in seeds.values()]
LARGEST_FILE, LARGEST_FOLDER = 250_000, 2_000_000
"""Bytes of one model file, and of all files together, as docs/pretrained.md states them."""

each = pytest.mark.parametrize("model", MODELS, ids=lambda model: model.stem)
Require = Callable[[str], Path]


def data_of(model: PretrainedModel, require_data: Require) -> Dataset:
    settings = model.config["config"]
    if "mnist" in settings["dataset"]:
        require_data("mnist")
    return load_dataset(settings["dataset"], values_per_step=settings["values_per_step"])


def check_figures(model: PretrainedModel, dataset: Dataset, chosen: Callable[[Perturbation | None], bool]) -> int:
    """Measure the chosen perturbations again and compare each with the card; return their number."""
    evaluation = EvaluateConfig(**model.evaluation)
    perturbations = [p for p in (None, *evaluation.perturbations(dataset)) if chosen(p)]
    loaded = noisyrnn.load_pretrained(model.name, seed=model.seed).requires_grad_(False)
    for perturbation in perturbations:
        (stated,) = (
            f for f in model.figures if f["settings"] == ("clean" if perturbation is None else repr(perturbation))
        )
        rows = torch.arange(stated["sequences"])
        attack = perturbation is not None and perturbation.is_attack
        draws = evaluation.attack_draws if attack else evaluation.draws
        found = figure_of(
            evaluate(
                loaded, dataset.test.subset(rows), perturbation, draws=draws, seed=evaluation.evaluation_seed
            ).to_dict()
        )
        # Kernels round differently: one sequence in 300 may change sides, at least one.
        tolerance = max(1, len(rows) / 300) / len(rows)
        assert found["value"] == pytest.approx(stated["value"], abs=tolerance), stated["settings"]
        assert found["interval"] == pytest.approx(stated["interval"], abs=2 * tolerance)
        assert {**found, "value": 0, "interval": 0} == {**stated, "value": 0, "interval": 0}
    return len(perturbations)


@each
def test_figures_of_the_card_are_measured_again(model: PretrainedModel, require_data: Require) -> None:
    dataset = data_of(model, require_data)
    quick = len(dataset.test) * dataset.steps < 10**6

    def chosen(perturbation: Perturbation | None) -> bool:
        return (perturbation is None and quick) or (perturbation is not None and perturbation.name == "fgsm")

    fgsm = sum(figure["perturbation"] == "fgsm" for figure in model.figures)
    assert check_figures(model, dataset, chosen) == fgsm + quick > 0


@pytest.mark.slow
@each
def test_all_figures_of_the_card_are_measured_again(model: PretrainedModel, require_data: Require) -> None:
    dataset = data_of(model, require_data)
    count = sum(not figure["perturbation"].startswith("worst_") for figure in model.figures)
    assert check_figures(model, dataset, lambda perturbation: True) == count > 10


@each
def test_the_card_is_that_of_the_file(model: PretrainedModel) -> None:
    with model.file() as path:
        assert model_card(read_pretrained(path)) == model.card == path.with_suffix(".md").read_text(encoding="utf-8")
        assert path.parent == FOLDER and path.name == f"{model.name}-seed{model.seed}.safetensors"
        header = read_header(path)
    settings = model.config["config"]
    recorded = header.notes["training"]
    assert {**recorded, "label": settings["label"]} == settings
    assert model.seed == settings["seed"] and header.model == settings["model"]
    assert model.summary["status"] == "finished" and 1 <= model.summary["best_epoch"] <= settings["epochs"]
    assert list(header.class_names) == model.config["dataset"]["class_names"]
    for figure in model.figures:
        assert f" {100 * figure['value']:.2f} % |" in model.card and figure["metric"] == "accuracy"


def test_files_and_cards_come_in_pairs_and_are_small() -> None:
    names = sorted(path.name for path in FOLDER.iterdir())
    assert names == sorted(f"{model.stem}{suffix}" for model in MODELS for suffix in (".md", ".safetensors"))
    sizes = [path.stat().st_size for path in FOLDER.iterdir()]
    assert max(sizes) <= LARGEST_FILE and sum(sizes) <= LARGEST_FOLDER
    page = (Path(__file__).parents[2] / "docs" / "pretrained.md").read_text(encoding="utf-8")
    assert f"{LARGEST_FILE // 1000} kB" in page and f"{LARGEST_FOLDER // 10**6} MB" in page


@each
def test_the_licence_is_stated(model: PretrainedModel) -> None:
    licence = PROJECT["project"]["license"]
    front = model.card.split("---\n")[1]
    assert re.search(r"^license: (.*)$", front, flags=re.MULTILINE)[1] == licence.lower()
    assert f"## Licence\n\n{licence}, " in model.card


@each
def test_a_loaded_model_is_noise_free_and_trainable(model: PretrainedModel) -> None:
    loaded = noisyrnn.load_pretrained(model.name, seed=model.seed)
    assert not any(module.training for module in loaded.modules())
    assert all(p.requires_grad and p.device.type == "cpu" for p in loaded.parameters())
    inputs = torch.rand(3, 20, loaded.layer.input_size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(loaded(inputs), loaded(inputs))
        loaded.train()
        noisy = model.config["config"].get("additive", 0) > 0
        assert torch.equal(loaded(inputs), loaded(inputs)) != noisy  # its noise is that of its training
    with model.file() as path:
        again = noisyrnn.load(path)
    assert all(torch.equal(a, b) for a, b in zip(loaded.parameters(), again.parameters(), strict=True))


def test_a_figure_is_the_mean_over_draws_and_its_interval() -> None:
    split = Split(inputs=torch.linspace(-1, 1, 40)[:, None, None], labels=(torch.arange(40) >= 20).long(), classes=2)
    result = evaluate(lambda x: torch.cat([-x[:, 0], x[:, 0]], dim=1), split, WhiteNoise(0.8), draws=3)
    assert len(set(result.draw_accuracies)) > 1
    figure = figure_of(result.to_dict())
    assert figure["value"] == result.accuracy and tuple(figure["interval"]) == result.interval
    assert (figure["metric"], figure["strength"], figure["sequences"]) == ("accuracy", 0.8, 40)


def test_an_unknown_name_or_seed() -> None:
    with pytest.raises(
        ValueError, match=r"^name must be one of .*, got 'digit-noisy'\. Did you mean 'digits-noisy'\?$"
    ):
        noisyrnn.load_pretrained("digit-noisy")
    with pytest.raises(ValueError, match=r"^seed must be one of 1 for 'digits-noisy', got 7\. Train it"):
        noisyrnn.load_pretrained("digits-noisy", seed=7)
    with pytest.raises(TypeError, match="seed must be an integer"):
        noisyrnn.load_pretrained("digits-noisy", seed="1")  # type: ignore[arg-type]


def test_seeds_of_a_name_are_kept_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (one,) = (model for model in MODELS if model.name == "digits-noisy" and model.seed == 1)
    with one.file() as path:
        notes = dict(read_header(path).notes)
        model = noisyrnn.load(path)
        names = read_header(path).class_names
        shutil.copy(path, tmp_path)
    with torch.no_grad():
        model.readout.bias.add_(1.0)
    for seed in (10, 2):
        notes["run"] = {**notes["run"], "seed": seed}
        noisyrnn.save(model, tmp_path / f"digits-noisy-seed{seed}.safetensors", class_names=names, notes=notes)
    monkeypatch.setattr("noisyrnn.training.pretrained._FOLDER", tmp_path)
    assert {name: list(seeds) for name, seeds in noisyrnn.pretrained_models().items()} == {"digits-noisy": [1, 2, 10]}
    assert repr(noisyrnn.pretrained_models()["digits-noisy"][10]) == "PretrainedModel(name='digits-noisy', seed=10)"
    biases = [noisyrnn.load_pretrained("digits-noisy", seed=seed).readout.bias.detach() for seed in (1, 2)]
    torch.testing.assert_close(biases[1], biases[0] + 1.0)
    assert torch.equal(noisyrnn.load_pretrained("digits-noisy").readout.bias, biases[0])
    with pytest.raises(ValueError, match=r"^seed must be one of 1, 2, 10 for 'digits-noisy', got 3\."):
        noisyrnn.load_pretrained("digits-noisy", seed=3)


def test_a_file_without_its_run_is_refused(tmp_path: Path) -> None:
    noisyrnn.save(noisyrnn.load_pretrained("digits-noisy"), tmp_path / "m.safetensors")
    with pytest.raises(ValueError, match=r"^path must be a file of .* without its run\.$"):
        read_pretrained(tmp_path / "m.safetensors")
