"""What the layer itself decides: which noise a pass sees."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from noisyrnn.kernels import reference
from noisyrnn.models import SequenceClassifier
from noisyrnn.sde import BrownianPath, derive_seed

Make = Callable[..., Any]


@pytest.fixture
def paths(monkeypatch: pytest.MonkeyPatch) -> list[BrownianPath | None]:
    """The path of every pass of the loop, in order."""
    seen: list[BrownianPath | None] = []
    run = reference.run

    def spy(*arguments: Any, path: BrownianPath | None = None, **options: Any) -> Any:
        seen.append(path)
        return run(*arguments, path=path, **options)

    monkeypatch.setattr(reference, "run", spy)
    return seen


def test_every_pass_has_its_own_path(make_layer: Make, make_inputs: Make, paths: list[BrownianPath]) -> None:
    layer = make_layer("noisy", noise_seed=4)
    for _ in range(3):
        layer(make_inputs())
    assert paths == [BrownianPath(seed=derive_seed(4, 0, count)) for count in (1, 2, 3)]


def test_ranks_have_their_own_paths(
    make_layer: Make, make_inputs: Make, paths: list[BrownianPath], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    for rank in (0, 1):
        monkeypatch.setattr(torch.distributed, "get_rank", lambda rank=rank: rank)
        make_layer("noisy", noise_seed=4)(make_inputs())
    assert paths == [BrownianPath(seed=derive_seed(4, rank, 1)) for rank in (0, 1)]


def test_passes_without_noise_take_no_path(make_layer: Make, make_inputs: Make, paths: list[BrownianPath]) -> None:
    layer = make_layer("noisy", noise_seed=4)
    layer.eval()(make_inputs())
    layer.train()(make_inputs(), owner_training=False)
    layer.noise = "off"
    layer.last_output(make_inputs())
    make_layer("lipschitz")(make_inputs())
    assert paths == [None] * 4
    layer.noise = "on"
    layer.eval()(make_inputs(), owner_training=False)
    assert paths[4] == BrownianPath(seed=derive_seed(4, 0, 1))  # the silent passes used none up


def test_the_owner_is_the_classifier(make_layer: Make, make_inputs: Make, paths: list[BrownianPath]) -> None:
    model = SequenceClassifier(make_layer("noisy", noise_seed=4), classes=2).double()
    model(make_inputs())
    model.eval()
    model.layer.train()
    model(make_inputs())
    assert paths == [BrownianPath(seed=derive_seed(4, 0, 1)), None]


def test_a_wrong_h_0_is_refused_before_any_work(make_layer: Make, make_inputs: Make, paths: list[BrownianPath]) -> None:
    with pytest.raises(ValueError, match=r"^h_0 must have shape \(1, 4, 10\), got \(1, 4, 5\)\.$"):
        make_layer("cornn")(make_inputs(), torch.zeros(1, 4, 5))
    assert paths == []


def test_step_lengths_may_differ_between_replicas(make_layer: Make, make_inputs: Make) -> None:
    layer, inputs = make_layer("lipschitz").double(), make_inputs().double()
    dt = torch.rand(2, inputs.shape[1], dtype=torch.float64) + 0.5
    together = torch.func.vmap(lambda sizes: layer.last_output(inputs, dt=sizes))(dt)
    alone = torch.stack([layer.last_output(inputs, dt=sizes) for sizes in dt])
    torch.testing.assert_close(together, alone, rtol=1e-12, atol=1e-12)
    with pytest.raises(ValueError, match=r"dt must be a number or have shape"):
        torch.func.vmap(lambda sizes: layer.last_output(inputs, dt=sizes))(dt[:, 1:])
