"""One safetensors file for a model."""

import json
import os
import pickle
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

import noisyrnn
from noisyrnn.models import HEADS, MODELS, RecurrentLayer, SequenceClassifier, SequenceRegressor, build_layer
from noisyrnn.noise import BrownianPath
from noisyrnn.training import saving
from noisyrnn.training.saving import check_savable, read_header


def classifier(model: str = "noisy") -> SequenceClassifier:
    torch.manual_seed(0)
    mean, std = torch.tensor([0.1, 0.2]), torch.tensor([2.0, 3.0])
    return SequenceClassifier(build_layer(model, 2, 5, {"additive": 0.3}), 4, mean=mean, std=std)


@pytest.mark.parametrize("model", sorted(MODELS))
def test_round_trip_is_exact(model: str, tmp_path: Path) -> None:
    before = classifier(model).eval()
    noisyrnn.save(before, tmp_path / "m.safetensors")
    after = noisyrnn.load(tmp_path / "m.safetensors")
    inputs = torch.randn(3, 6, 2)
    assert torch.equal(before(inputs), after(inputs))
    assert after.layer.options() == before.layer.options()
    assert not after.training


@pytest.mark.parametrize("head", sorted(HEADS))
@pytest.mark.parametrize("name", ["noisy", "exprnn", "lstm"])
def test_every_head_on_a_stack(head: str, name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    options = {"num_layers": 2, "bidirectional": True, "batch_first": False, "dropout": 0.25, "bias": False}
    layer = MODELS[name].build(2, 5, **options, dtype=torch.float64)
    before = HEADS[head](layer, 4, std=torch.tensor([2.0, 3.0])).double().eval()
    noisyrnn.save(before, tmp_path / "m.safetensors")
    after = noisyrnn.load(tmp_path / "m.safetensors", HEADS[head])
    inputs = torch.randn(6, 3, 2, dtype=torch.float64)
    assert type(after) is HEADS[head] and torch.equal(before(inputs), after(inputs))
    assert after.layer.options() == layer.options() and not after.training


def test_another_head(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    noisyrnn.save(SequenceRegressor(build_layer("gru", 1, 2, {})), path)
    sentence = (
        r"^path must hold a SequenceClassifier, got .*m\.safetensors with a SequenceRegressor\. "
        r"Use load\(path, SequenceRegressor\)\.$"
    )
    with pytest.raises(ValueError, match=sentence):
        noisyrnn.load(path)
    rewrite(path, head="regresser")
    with pytest.raises(
        ValueError, match=r"^head must be one of classifier, regressor, sequence, got 'regresser'\. Did "
    ):
        noisyrnn.load(path)


@pytest.mark.parametrize("model", ["noisy", "exprnn", "gru"])
def test_a_file_of_format_1(model: str, tmp_path: Path) -> None:
    """As they were before there were stacks and heads."""
    before, path = classifier(model).eval(), tmp_path / "m.safetensors"
    tensors = {name.replace("cells.l0.", "cell."): value for name, value in before.state_dict().items()}
    for new, former in ((".free", ".parametrizations.weight.original"), (".start", ".parametrizations.weight.0.base")):
        tensors = {name.replace(new, former): value.contiguous() for name, value in tensors.items()}
    later = {"num_layers", "bidirectional", "batch_first", "dropout", "bias"}
    later |= {"skew_symmetry_w", "damping_w", "recurrent_base"}
    options = {name: value for name, value in before.layer.options().items() if name not in later}
    options["noise_seed"] = 3
    for former, now in (("skewness", "skew_symmetry"), ("parametrisation", "noise_units")):
        if now in options:
            options[former] = options.pop(now)
    if model == "noisy":
        assert options.pop("parametrisation") == "per_step"
        options["parametrisation"] = "published"
    header = {"format": 1, "model": model, "options": options, "classes": 4, "class_names": None}
    save_file(tensors, path, metadata={"noisyrnn": json.dumps(header)})
    inputs, after = torch.randn(3, 6, 2), noisyrnn.load(path)
    assert torch.equal(after(inputs), before(inputs))
    if model == "exprnn":
        assert after.layer.recurrent_base == "initial"  # all that these files knew


def test_the_names_of_options_in_an_older_file(tmp_path: Path) -> None:
    units = {"noise_units": "per_time", "learn_step": False, "noise_level": 0.5}
    layer = build_layer("noisy", 2, 5, {"skew_symmetry": 0.6, "skew_symmetry_w": 0.9, **units})
    before, path = SequenceClassifier(layer, 4).eval(), tmp_path / "m.safetensors"
    noisyrnn.save(before, path)
    options = {name: value for name, value in layer.options().items() if name not in ("skew_symmetry", "noise_units")}
    options["skewness_w"] = options.pop("skew_symmetry_w")
    rewrite(path, options={**options, "skewness": 0.6, "parametrisation": "paper"})
    inputs, after = torch.randn(3, 6, 2), noisyrnn.load(path)
    assert torch.equal(after(inputs), before(inputs))
    assert after.layer.options() == layer.options()


def test_a_matrix_each_with_its_own_skew_symmetry_and_damping(tmp_path: Path) -> None:
    options = {"skew_symmetry": 0.6, "damping": 0.2, "skew_symmetry_w": 0.9, "damping_w": 0.01, "init_std": 3.0}
    before = SequenceClassifier(build_layer("lipschitz", 2, 5, options), 4).eval()
    noisyrnn.save(before, tmp_path / "m.safetensors")
    after, inputs = noisyrnn.load(tmp_path / "m.safetensors"), torch.randn(3, 6, 2)
    assert torch.equal(before(inputs), after(inputs))
    assert {name: getattr(after.layer, name) for name in options} == options
    assert "skew_symmetry_w=0.9, damping_w=0.01" in repr(after.layer)


@pytest.mark.parametrize("noise_seed", [None, 7])
def test_the_noise_seed_of_an_older_file_is_ignored(noise_seed: int | None, tmp_path: Path) -> None:
    """Version 0.1 had this option in format 2 too."""
    before, path = classifier().eval(), tmp_path / "m.safetensors"
    noisyrnn.save(before, path)
    rewrite(path, options={**before.layer.options(), "noise_seed": noise_seed})
    inputs = torch.randn(3, 6, 2)
    assert torch.equal(noisyrnn.load(path)(inputs), before(inputs))
    assert "noise_seed" not in read_header(path).options


def test_double_precision_survives(tmp_path: Path) -> None:
    noisyrnn.save(classifier().double(), tmp_path / "m.safetensors")
    assert noisyrnn.load(tmp_path / "m.safetensors").readout.weight.dtype == torch.float64


def test_class_names_are_in_the_header(tmp_path: Path) -> None:
    noisyrnn.save(classifier(), tmp_path / "m.safetensors", class_names=["a", "b", "c", "d"])
    with safe_open(tmp_path / "m.safetensors", framework="pt") as file:
        assert json.loads(file.metadata()["noisyrnn"])["class_names"] == ["a", "b", "c", "d"]


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(
        FileNotFoundError, match=r"path must be a model file, got .*none\.safetensors, which does not exist"
    ):
        noisyrnn.load(tmp_path / "none.safetensors")


def test_truncated_file(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    noisyrnn.save(classifier(), path)
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(
        ValueError, match=r"path must be a whole safetensors file, got .*m\.safetensors, which is damaged"
    ):
        noisyrnn.load(path)


@pytest.mark.parametrize("write", ["pickle", "torch"])
def test_a_pickle_is_not_opened(write: str, tmp_path: Path) -> None:
    path, marker = tmp_path / "m.safetensors", tmp_path / "ran"

    class Trap:
        def __reduce__(self) -> tuple[object, tuple[Path]]:
            return Path.touch, (marker,)

    if write == "pickle":
        path.write_bytes(pickle.dumps(Trap()))
    else:
        torch.save(Trap(), path)
    sentence = r"^path must be a safetensors file, got .*m\.safetensors, which is a pickle\. A pickle can run code and "
    with pytest.raises(ValueError, match=sentence):
        noisyrnn.load(path)
    assert not marker.exists()


def test_a_file_of_someone_else(tmp_path: Path) -> None:
    save_file({"w": torch.zeros(2)}, tmp_path / "m.safetensors")
    with pytest.raises(ValueError, match=r"path must be a file written by noisyrnn\.save, got "):
        noisyrnn.load(tmp_path / "m.safetensors")


def rewrite(path: Path, changed: dict[str, torch.Tensor | None] | None = None, /, **changes: object) -> None:
    """Change tensors, of which `None` takes one out, and fields of the header."""
    with safe_open(path, framework="pt") as file:
        header = json.loads(file.metadata()["noisyrnn"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    tensors = {name: tensor for name, tensor in (tensors | (changed or {})).items() if tensor is not None}
    text = json.dumps({**header, **changes})
    save_file(tensors, path, metadata={"noisyrnn": text, "sha256": saving._digest(text, tensors)})


def test_the_same_model_gives_the_same_bytes(tmp_path: Path) -> None:
    model = SequenceClassifier(build_layer("gru", 1, 3, {}), 2)
    paths = [tmp_path / f"{i}.safetensors" for i in range(12)]
    for path in paths:
        saving.save(model, path, class_names=["α", "b"])
    assert len({path.read_bytes() for path in paths}) == 1
    assert read_header(paths[0]).class_names == ["α", "b"]
    assert len(saving.load(paths[0]).state_dict()) == len(model.state_dict())


def test_a_newer_format(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    noisyrnn.save(classifier(), path)
    rewrite(path, format=4)
    with pytest.raises(ValueError, match=r"path must be of format 1 or 2 or 3, got 4 in .*Update noisyrnn"):
        noisyrnn.load(path)


def test_weights_of_another_shape(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    noisyrnn.save(classifier(), path)
    rewrite(path, outputs=5)
    sentence = (
        r"^path must hold weights of its header's shapes, got .*m\.safetensors with a size mismatch for readout.*"
    )
    with pytest.raises(ValueError, match=sentence) as caught:
        noisyrnn.load(path)
    assert "[4]" in str(caught.value) and "[5]" in str(caught.value) and "\n" not in str(caught.value)


def test_tensors_too_many_and_too_few(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    noisyrnn.save(classifier(), path)
    rewrite(path, {"readout.more": torch.zeros(1)})
    sentence = r"^path must hold no tensor but those of its header's model, got .*m\.safetensors with readout\.more\.$"
    with pytest.raises(ValueError, match=sentence):
        noisyrnn.load(path)
    rewrite(path, {"readout.more": None, "readout.weight": None, "std": None})
    sentence = (
        r"^path must hold every tensor of its header's model, got .*m\.safetensors without std, readout\.weight\.$"
    )
    with pytest.raises(ValueError, match=sentence):
        noisyrnn.load(path)


@pytest.mark.parametrize(
    "changes", [{"format": 1}, {"format": "2"}, {"format": [2]}, {"options": []}, {"options": {"hidden_size": 3}}]
)
def test_a_header_without_its_fields(changes: dict[str, object], tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    noisyrnn.save(classifier(), path)
    rewrite(path, **changes)  # files of format 1 have their classes instead of outputs
    with pytest.raises(ValueError, match=r"path must be a file written by noisyrnn\.save, got "):
        noisyrnn.load(path)


def test_the_header_alone(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    noisyrnn.save(classifier("gru"), path, class_names=["a", "b", "c", "d"])
    header = read_header(path)
    assert (header.head, header.model, header.outputs) == ("classifier", "gru", 4)
    assert header.options["hidden_size"] == 5 and header.class_names == ["a", "b", "c", "d"]


def test_a_layer_that_is_not_the_librarys(tmp_path: Path) -> None:
    layer = RecurrentLayer(nn.GRUCell, 1, 2)
    with pytest.raises(TypeError, match="layer must be one of the library's, got RecurrentLayer"):
        noisyrnn.save(SequenceClassifier(layer, 2), tmp_path / "m.safetensors")


def test_a_head_that_is_not_the_librarys(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=r"^model must be one of SequenceClassifier, .*, got Linear\.$"):
        noisyrnn.save(nn.Linear(1, 1), tmp_path / "m.safetensors")


def test_class_names_are_counted(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^class_names must have one name for each of 4 outputs, got 2\.$"):
        noisyrnn.save(classifier(), tmp_path / "m.safetensors", class_names=["a", "b"])


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_failed_write_keeps_the_old_file(step: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "m.safetensors"
    noisyrnn.save(classifier(), path)
    before = path.read_bytes()

    def fail(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, step, fail)
    with pytest.raises(OSError, match="No space left"):
        noisyrnn.save(classifier("gru"), path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["m.safetensors"]


def bare() -> SequenceClassifier:
    model = classifier()
    model.readout = nn.Linear(5, 4, bias=False)
    return model


def normed() -> SequenceClassifier:
    model = classifier()
    nn.utils.parametrizations.weight_norm(model.layer.cells.l0.input, "weight")
    return model


def pruned() -> SequenceClassifier:
    model = classifier()
    nn.utils.prune.l1_unstructured(model.layer.cells.l0, "C", 0.5)
    return model


def deep() -> SequenceClassifier:
    model = classifier()
    model.readout = nn.Sequential(nn.Linear(5, 5), nn.ReLU(), nn.Linear(5, 4))
    return model


def extended() -> SequenceClassifier:
    model = classifier()
    model.layer.more = nn.Parameter(torch.zeros(2))
    return model


def resized() -> SequenceClassifier:
    model = classifier()
    model.layer.cells.l0.input = nn.Linear(2, 5, bias=False)
    return model


def tuned() -> SequenceClassifier:
    model = classifier()
    model.layer.cells.l0.damping = 0.5
    return model


def on_meta() -> SequenceClassifier:
    return classifier().to("meta")


def patched() -> SequenceClassifier:
    model = classifier()
    model.readout.forward = lambda inputs: inputs  # type: ignore[method-assign]
    return model


def thresholded() -> SequenceClassifier:
    model = SequenceClassifier(build_layer("exprnn", 2, 5, {"bias": False}), 4)
    model.layer.cells.l0.threshold.fill_(-0.1)
    return model


def hooked() -> SequenceClassifier:
    model = classifier()
    model.readout.register_forward_hook(lambda _, __, logits: 2 * logits)
    return model


@pytest.mark.parametrize(
    "change", [bare, normed, pruned, deep, extended, resized, tuned, on_meta, patched, thresholded, hooked]
)
def test_what_cannot_be_loaded_is_not_saved(change: Callable[[], SequenceClassifier], tmp_path: Path) -> None:
    model = change()
    for save in (lambda: noisyrnn.save(model, tmp_path / "m.safetensors"), lambda: check_savable(model)):
        with pytest.raises(
            ValueError, match=r"^model must have the modules and settings of its class to be saved, got "
        ):
            save()
    assert list(tmp_path.iterdir()) == []


def watched() -> SequenceClassifier:
    model = classifier()
    model.layer.register_forward_hook(lambda *_: None)
    return model


def tied() -> SequenceClassifier:
    model = SequenceClassifier(build_layer("noisy", 2, 5, {"num_layers": 2}), 4)
    model.layer.cells.l1.B = model.layer.cells.l0.B
    return model


def transferred() -> SequenceClassifier:
    model = classifier()
    model.readout = nn.Linear(5, 7)
    return model


def frozen() -> SequenceClassifier:
    return classifier().requires_grad_(False)


def shared() -> SequenceClassifier:
    model = classifier()
    whole = torch.randn(5, 10)
    model.layer.cells.l0.B.data, model.layer.cells.l0.C.data = whole[:, :5], whole[:, 5:]
    return model


@pytest.mark.parametrize("change", [tied, transferred, frozen, shared, watched])
def test_what_is_saved_is_loaded(change: Callable[[], SequenceClassifier], tmp_path: Path) -> None:
    model, inputs = change().eval(), torch.randn(3, 6, 2)
    noisyrnn.save(model, tmp_path / "m.safetensors")
    assert noisyrnn.load(tmp_path / "m.safetensors")(inputs).equal(model(inputs))


@pytest.mark.parametrize(("mode", "scale"), [("on", 1.0), ("off", 1.0), ("auto", 2), ("on", 0.5), ("on", 0)])
@pytest.mark.parametrize("hook", [False, True])
def test_mode_and_scale_of_the_noise_are_saved(hook: bool, mode: str, scale: float, tmp_path: Path) -> None:
    before, inputs = classifier().eval(), torch.randn(3, 6, 2)
    before.layer.noise_mode, before.layer.noise_scale = mode, scale
    if hook:
        before.layer.register_forward_hook(lambda *_: None)  # an observer
    noisyrnn.save(before, tmp_path / "m.safetensors")
    after = noisyrnn.load(tmp_path / "m.safetensors")
    assert (after.layer.noise_mode, after.layer.noise_scale) == (before.layer.noise_mode, before.layer.noise_scale)
    for each in (before, after):
        each.train()
    path = BrownianPath(seed=2)
    assert torch.equal(before(inputs, path=path), after(inputs, path=path))
    assert torch.equal(before.eval()(inputs, path=path), after.eval()(inputs, path=path))
    assert (before.layer.noise_mode, before.layer.noise_scale) == (mode, scale)


def test_noise_that_is_as_built_adds_nothing_to_the_header(tmp_path: Path) -> None:
    noisyrnn.save(classifier(), tmp_path / "m.safetensors")
    with safe_open(tmp_path / "m.safetensors", framework="pt") as file:
        assert not {"noise_mode", "noise_scale"} & json.loads(file.metadata()["noisyrnn"]).keys()


@pytest.mark.parametrize(
    "changes", [{"noise_mode": "loud"}, {"noise_mode": 1}, {"noise_scale": -1.0}, {"noise_scale": "2"}]
)
def test_modes_and_scales_of_the_noise_out_of_range_are_refused(changes: dict[str, Any], tmp_path: Path) -> None:
    path, (name,) = tmp_path / "m.safetensors", changes
    noisyrnn.save(classifier(), path)
    rewrite(path, **changes)
    with pytest.raises(ValueError, match=rf"^path must hold settings that its header's model takes, .*: {name} must "):
        noisyrnn.load(path)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_every_tensor_keeps_its_type(dtype: torch.dtype, tmp_path: Path) -> None:
    model = classifier("exprnn").to(dtype)
    model.readout.float()
    noisyrnn.save(model, tmp_path / "m.safetensors")
    loaded = noisyrnn.load(tmp_path / "m.safetensors")
    for (name, one), other in zip(model.state_dict().items(), loaded.state_dict().values(), strict=True):
        assert one.dtype == other.dtype and one.equal(other), name
    assert all(parameter.requires_grad for parameter in loaded.parameters())


@pytest.mark.parametrize(
    ("wrapped", "name"), [(torch.compile(classifier()), "_orig_mod"), (nn.DataParallel(classifier()), "module")]
)
def test_a_wrapped_model_names_the_one_within(wrapped: nn.Module, name: str, tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=rf"got \w+\. Save the model within it: model\.{name}\.$"):
        noisyrnn.save(wrapped, tmp_path / "m.safetensors")  # type: ignore[arg-type]


@pytest.mark.parametrize("names", ["abcd", [1, 2, 3, 4], ["a", "b", "c", None]])
def test_class_names_are_texts(names: Any, tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=r"^class_names must be a list of texts, got "):
        noisyrnn.save(classifier(), tmp_path / "m.safetensors", class_names=names)


def test_notes_are_json(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=r"^options and notes must hold what JSON can, got "):
        noisyrnn.save(classifier(), tmp_path / "m.safetensors", notes={"when": object()})


def test_every_flipped_bit_is_noticed(tmp_path: Path) -> None:
    path, generator = tmp_path / "m.safetensors", random.Random(1)
    noisyrnn.save(classifier("gru"), path, class_names=["a", "b", "ç", "d"])
    whole = path.read_bytes()
    length = 8 + int.from_bytes(whole[:8], "little")
    places = [generator.randrange(8 * len(whole)) for _ in range(300)]
    places += [generator.randrange(8 * length) for _ in range(200)]
    for place in places:
        damaged = bytearray(whole)
        damaged[place // 8] ^= 1 << place % 8
        path.write_bytes(damaged)
        for read in (noisyrnn.load, read_header):
            with pytest.raises(ValueError, match=r"^(path|head|model) must "):
                read(path)
    path.write_bytes(whole)
    noisyrnn.load(path)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"num_layers": 10**9}, "num_layers"),
        ({"hidden_size": 10**9}, "hidden_size"),
        ({"input_size": 10**12}, "input_size"),
        ({"hidden_size": "5"}, "hidden_size"),
        ({"bias": "False"}, "bias"),
        ({"step_size": -1}, "step_size"),
        ({"unknown": 1}, "unknown"),
    ],
)
def test_absurd_settings_are_refused_at_once(options: dict[str, Any], named: str, tmp_path: Path) -> None:
    path, model = tmp_path / "m.safetensors", classifier()
    noisyrnn.save(model, path)
    rewrite(path, options={**model.layer.options(), **options})
    with pytest.raises(ValueError, match=rf"^path must hold settings that its header's model takes, .*: {named} must "):
        noisyrnn.load(path)
