"""How sequence models meet missing values."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import noisyrnn
from noisyrnn.missing import hold_last
from noisyrnn.models import GRU, NoisyRNN, SequenceClassifier, SequenceModel, SequenceToSequence, build_layer
from noisyrnn.models.missing import add_mask, layer_channels, skip_steps
from noisyrnn.models.prediction import predict
from noisyrnn.training.saving import read_header

NAN = float("nan")
MEAN, STD = torch.tensor([2.0, -1.0], dtype=torch.float64), torch.tensor([3.0, 0.5], dtype=torch.float64)


def sequences(batch: int = 5, steps: int = 8, seed: int = 0) -> Tensor:
    """Sequences with missing values; the first step of row 0, all of row 1 and all of one channel of row 2 are so."""
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(batch, steps, 2, generator=generator, dtype=torch.float64)
    values[torch.rand(values.shape, generator=generator) < 0.3] = NAN
    values[0, :2], values[1], values[2, :, 1] = NAN, NAN, NAN
    values[3, -2:] = NAN
    return values


def classifier(missing: str | None, kind: str = "noisy", **options: object) -> SequenceClassifier:
    torch.manual_seed(1)
    layer = build_layer(kind, layer_channels(2, missing), 6, options).double()
    return SequenceClassifier(layer, 3, mean=MEAN, std=STD, missing=missing).double().eval()


def test_hold_is_the_same_as_values_held_before() -> None:
    """Held in the units of the data, with the mean before the first value."""
    inputs = sequences()
    assert torch.allclose(classifier("hold")(inputs), classifier(None)(hold_last(inputs, MEAN)), atol=1e-12)


def test_mask_channels_say_what_was_measured() -> None:
    inputs = sequences()
    model = classifier("mask")
    values, lengths, dt = model.prepare(inputs)
    assert values.shape == (5, 8, 4) and lengths is None and dt is None
    assert torch.equal(values[..., 2:], (~inputs.isnan()).double())
    assert torch.allclose(values[..., :2], (hold_last(inputs, MEAN) - MEAN) / STD, atol=1e-12)
    states, _ = model.layer(values)
    assert torch.equal(model(inputs), model.readout(states[:, -1]))
    assert model.input_size == 2 and model.layer.input_size == 4


@pytest.mark.parametrize("lengths", [None, torch.tensor([8, 3, 7, 8, 1])])
@pytest.mark.parametrize("timed", [False, True])
def test_skip_takes_the_kept_steps_with_their_summed_lengths(lengths: Tensor | None, timed: bool) -> None:
    """Row by row: the steps with a value, and the first, without the others, each as long as until the next one."""
    inputs = sequences()
    dt = 0.5 + torch.rand(5, 8, generator=torch.Generator().manual_seed(2), dtype=torch.float64) if timed else None
    model, plain = classifier("skip"), classifier(None)
    found = model(inputs, lengths=lengths, dt=dt)
    for row in range(5):
        length = 8 if lengths is None else int(lengths[row])
        held = hold_last(inputs[row : row + 1], MEAN)[0, :length]
        sizes = torch.ones(8, dtype=torch.float64) if dt is None else dt[row]
        kept = [k for k in range(length) if k == 0 or not bool(inputs[row, k].isnan().all())]
        ends = [*kept[1:], length]
        summed = torch.stack([sizes[k:end].sum() for k, end in zip(kept, ends, strict=True)])
        assert float(summed.sum()) == pytest.approx(float(sizes[:length].sum()))
        expected = plain(held[kept][None], dt=summed[None])
        assert torch.allclose(found[row], expected[0], atol=1e-10)


def test_skip_is_hold_in_the_limit_of_short_steps() -> None:
    """Both integrate the same input: with a small step size they agree, and not with the length left out."""
    inputs = sequences()
    skipped, held = classifier("skip", step_size=1e-4), classifier("hold", step_size=1e-4)
    assert torch.allclose(skipped(inputs), held(inputs), atol=1e-6)
    values, lengths, _ = skipped.prepare(inputs)
    h_n = skipped.layer(values, lengths=lengths)[1]
    assert not torch.allclose(skipped.readout(h_n[0]), held(inputs), atol=1e-6)


@pytest.mark.parametrize("missing", ["mask", "hold", "skip"])
def test_rows_are_independent_and_padding_has_no_effect(missing: str) -> None:
    inputs, lengths = sequences(), torch.tensor([8, 3, 7, 8, 1])
    model = classifier(missing)
    whole = model(inputs, lengths=lengths)
    for row in range(5):
        alone = model(inputs[row : row + 1, : int(lengths[row])])
        assert torch.allclose(whole[row], alone[0], atol=1e-10)
    padded = torch.where((torch.arange(8) < lengths[:, None])[..., None], inputs, 7.0)
    assert torch.equal(model(padded, lengths=lengths), whole)
    assert torch.isfinite(whole).all()


@pytest.mark.parametrize("missing", ["mask", "hold", "skip"])
def test_steps_first_gives_the_same(missing: str) -> None:
    inputs, lengths = sequences(), torch.tensor([8, 3, 7, 8, 1])
    model = classifier(missing)
    expected = model(inputs, lengths=lengths)
    model.layer.batch_first = False
    assert torch.equal(model(inputs.transpose(0, 1), lengths=lengths), expected)
    assert torch.equal(model.as_batch_first()(inputs, lengths=lengths), expected)


@pytest.mark.parametrize("missing", ["mask", "hold", "skip"])
def test_complete_sequences_are_as_without_the_setting(missing: str) -> None:
    inputs = torch.randn(3, 6, 2, dtype=torch.float64)
    model, plain = classifier(missing), classifier(None)
    if missing == "mask":
        expected = model.readout(model.layer(torch.cat([model.standardize(inputs), torch.ones(3, 6, 2)], 2))[0][:, -1])
    else:
        expected = plain(inputs)
    assert torch.allclose(model(inputs), expected, atol=1e-12)


def test_float32_is_rounded_after_standardizing() -> None:
    """A held value far from zero keeps the digits that it has in float64."""
    inputs = torch.tensor([[[1e9 + 1.0], [NAN], [1e9 + 2.0]]], dtype=torch.float64)
    layer = NoisyRNN(1, 4)
    model = SequenceClassifier(layer, 2, mean=torch.tensor([1e9]).double(), missing="hold").eval()
    assert model.prepare(inputs)[0].flatten().tolist() == [1.0, 1.0, 2.0]


@pytest.mark.parametrize("bidirectional", [False, True])
def test_answers_at_every_step(bidirectional: bool) -> None:
    inputs, lengths = sequences(), torch.tensor([8, 3, 7, 8, 1])
    torch.manual_seed(0)
    model = SequenceToSequence(NoisyRNN(4, 5, bidirectional=bidirectional).double(), 2, missing="mask").eval()
    answers = model(inputs, lengths=lengths)
    assert answers.shape == (5, 8, 2) and bool((answers[1, 3:] == 0).all())
    assert torch.isfinite(answers).all()


@pytest.mark.parametrize("missing", ["mask", "hold", "skip"])
@pytest.mark.parametrize("kind", ["noisy", "cornn", "lipschitz"])
def test_gradients_reach_every_parameter_and_only_measured_values(missing: str, kind: str) -> None:
    model = classifier(missing, kind, bidirectional=True, num_layers=2).train()
    inputs = sequences().requires_grad_()
    model.losses(model(inputs), torch.tensor([0, 1, 2, 0, 1])).sum().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters())
    assert inputs.grad is not None
    assert bool((inputs.grad[inputs.isnan()] == 0).all()) and bool((inputs.grad[~inputs.isnan()] != 0).any())


@pytest.mark.parametrize("missing", ["mask", "hold", "skip"])
def test_the_file_of_a_model_records_it(missing: str, tmp_path: Path) -> None:
    model = classifier(missing)
    noisyrnn.save(model, tmp_path / "m.safetensors")
    loaded = noisyrnn.load(tmp_path / "m.safetensors")
    assert read_header(tmp_path / "m.safetensors").missing == loaded.missing == missing
    assert torch.equal(loaded(sequences()), model(sequences()))
    assert torch.equal(predict(loaded, sequences()), model(sequences()).softmax(dim=1))


def test_a_model_without_it_predicts_no_missing_values(tmp_path: Path) -> None:
    noisyrnn.save(classifier(None), tmp_path / "m.safetensors")
    assert read_header(tmp_path / "m.safetensors").missing is None
    with pytest.raises(ValueError, match=r"^inputs must be finite, got \d+ NaN values, .* Give missing='hold'"):
        predict(classifier(None), sequences())
    with pytest.raises(ValueError, match=r"^inputs must be finite, got 1 NaN or infinite"):
        predict(classifier("hold"), torch.tensor([[[NAN, torch.inf]]]).double())


def test_predictions_with_lengths_of_steps() -> None:
    model, inputs = classifier("hold"), sequences()
    dt = 0.5 + torch.rand(5, 8, dtype=torch.float64)
    expected = model(inputs, dt=dt).softmax(dim=1)
    assert torch.allclose(predict(model, inputs, dt=dt, sequences_per_pass=2), expected, atol=1e-12)
    assert not torch.allclose(predict(model, inputs), expected, atol=1e-6)


def test_skip_steps_of_a_number_and_of_one_row() -> None:
    values = torch.tensor([[[1.0], [NAN], [2.0]]])
    for dt in (2.0, torch.full((3,), 2.0), torch.full((1, 3), 2.0)):
        moved, lengths, sizes = skip_steps(values, None, dt)
        assert (moved.flatten().tolist(), lengths.tolist(), sizes.tolist()) == ([1.0, 2.0], [2], [[4.0, 2.0]])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"lengths": torch.tensor([8, 8, 8, 8, 9])}, r"lengths must lie in \[1, 8\], the number of steps, got 9\."),
        ({"lengths": torch.ones(1).long()}, r"lengths must have shape \(5,\), got \(1,\)\."),
        ({"lengths": torch.ones(5).bool()}, r"lengths must be integers, got torch\.bool\."),
        ({"lengths": [8] * 5}, r"lengths must be a tensor, got list\."),
        ({"dt": torch.ones(5, 1)}, r"dt must be a number or have shape \(8,\) or \(5, 8\), got \(5, 1\)\."),
        (
            {"dt": torch.ones(5, 8).index_put((torch.tensor([3]), torch.tensor([7])), torch.tensor(-0.5))},
            r"dt must be positive, got -0\.5 as ",
        ),
        ({"dt": True}, r"dt must be a number or a tensor, got True\."),
    ],
)
def test_what_skip_is_given_is_checked_as_the_layer_does(arguments: dict[str, Any], message: str) -> None:
    """The layer sees its results only: a length of a skipped step may be hidden in that of the step before."""
    for missing in ("hold", "skip"):
        with pytest.raises((TypeError, ValueError), match=rf"^{message}"):
            classifier(missing)(sequences(), **arguments)


def test_it_runs_under_vmap() -> None:
    stacked = torch.stack([sequences(), sequences(seed=1)])
    masked = torch.func.vmap(add_mask)(stacked)
    assert torch.equal(masked[1], add_mask(stacked[1]))
    moved, lengths, sizes = torch.func.vmap(lambda values: skip_steps(values, None, None))(stacked)
    for row, each in enumerate(stacked):
        values, counts, dt = skip_steps(each, None, None)
        longest = values.shape[1]
        assert torch.equal(moved[row, :, :longest], values) and torch.equal(lengths[row], counts)
        assert torch.equal(sizes[row, :, :longest], dt)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: SequenceClassifier(GRU(2, 4), 2, missing="skip"),
            r"^missing must be 'mask' or 'hold' for GRU, whose steps have no length, got 'skip'\. Only a step with",
        ),
        (
            lambda: SequenceToSequence(NoisyRNN(2, 4), 2, missing="skip"),
            r"^missing must be 'mask' or 'hold' for answers at every step, got 'skip'\. A skipped step",
        ),
        (
            lambda: SequenceClassifier(NoisyRNN(3, 4), 2, missing="mask"),
            r"^layer must have input_size twice the channels of the inputs for missing='mask', got 3\.$",
        ),
        (
            lambda: SequenceClassifier(NoisyRNN(2, 4), 2, missing="held"),
            r"^missing must be one of hold, mask, skip, got 'held'\. Did you mean 'hold'\?$",
        ),
    ],
)
def test_settings_that_a_model_cannot_have(make: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()  # type: ignore[operator]


def test_inputs_in_another_form_are_refused() -> None:
    inputs = sequences()
    packed = torch.nn.utils.rnn.pack_padded_sequence(inputs, torch.tensor([8, 7, 6, 5, 4]), batch_first=True)
    for other in (packed, inputs[0]):
        with pytest.raises(ValueError, match=r"^inputs must be a tensor with a batch axis for missing='hold'"):
            classifier("hold")(other)
    with pytest.raises(ValueError, match=r"^inputs must have shape .* 2\)"):
        classifier("mask")(torch.zeros(3, 4, 4, dtype=torch.float64))
    with pytest.raises(ValueError, match=r"^mask must be None for missing='skip'"):
        classifier("skip")(inputs, mask=torch.ones(5, 8, dtype=torch.bool))


def test_no_setting_is_the_default() -> None:
    assert SequenceModel(NoisyRNN(2, 4), 2, loss="cross_entropy").missing is None
