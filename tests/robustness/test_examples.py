import json
import math

import pytest
import torch

from noisyrnn.data.split import Split
from noisyrnn.robustness import FGSM, WhiteNoise, examples


@pytest.fixture
def split(make_inputs):
    lengths = torch.tensor([5, 4, 3, 2, 1, 5])
    return Split(inputs=make_inputs(), labels=torch.tensor([0, 1, 1, 0, 1, 0]), lengths=lengths, classes=2)


def test_records(split, linear):
    records = examples(linear, split, [WhiteNoise(0.5), FGSM(0.1)], indices=[4, 2])
    keys = [(r["perturbation"], r["strength"], r["index"], r["label"]) for r in records]
    assert keys == [
        *(("clean", None, 4, 1), ("clean", None, 2, 1)),
        *(("white_noise", 0.5, 4, 1), ("white_noise", 0.5, 2, 1)),
        *(("fgsm", 0.1, 4, 1), ("fgsm", 0.1, 2, 1)),
    ]
    assert json.loads(json.dumps(records)) == records


def test_clean_record_by_hand(split, linear):
    record = examples(linear, split, [], indices=[2])[0]
    margin = float((split.inputs[2, :3] * linear.weight.detach()[:3]).sum())
    assert record["prediction"] == int(margin > 0)
    assert record["confidence"] == pytest.approx(1 / (1 + math.exp(-abs(margin))), rel=1e-9)
    assert record["inputs"] == [[round(v, 4) for v in step] for step in split.inputs[2, :3].tolist()]


def test_perturbed_inputs_are_what_the_model_saw(split, linear):
    clean, attacked = examples(linear, split, [FGSM(0.1)], indices=[0])
    moved = torch.tensor(attacked["inputs"]) - torch.tensor(clean["inputs"])
    torch.testing.assert_close(moved.abs(), torch.full((5, 2), 0.1), rtol=0, atol=2e-4)  # four digits each
    worse = attacked["confidence"] if attacked["prediction"] == 0 else 1 - attacked["confidence"]
    better = clean["confidence"] if clean["prediction"] == 0 else 1 - clean["confidence"]
    assert worse < better


def test_draw_depends_on_the_seed_alone(split, linear):
    def noisy(model, seed):
        return examples(model, split, [WhiteNoise(0.5)], indices=[1], seed=seed)[1]["inputs"]

    assert noisy(linear, 1) == noisy(lambda x, lengths: x[:, 0], 1) != noisy(linear, 2)


def test_messages(split, linear):
    with pytest.raises(ValueError, match=r"^indices must lie in \[0, 5\], got 6\.$"):
        examples(linear, split, [], indices=[0, 6])
    with pytest.raises(ValueError, match=r"^indices must hold at least one index, got 0\.$"):
        examples(linear, split, [], indices=[])
    with pytest.raises(ValueError, match="model"):
        examples(linear.train(), split, [], indices=[0])
