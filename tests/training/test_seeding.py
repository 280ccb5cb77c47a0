"""Initial weights depend on the seed only."""

import threading
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from noisyrnn.models import MODELS, build_layer
from noisyrnn.training.seeding import seeded

DRAWS: dict[str, Callable[[], Tensor]] = {
    "normal_": lambda: torch.empty(40).normal_(),
    "randn": lambda: torch.randn(3, 5),
    "rand": lambda: torch.rand(20),
    "randint": lambda: torch.randint(5, (9,)),
    "randint from": lambda: torch.randint(2, 5, (9,)),
    "randperm": lambda: torch.randperm(7),
    "randn_like": lambda: torch.randn_like(torch.ones(8)),
    "bernoulli": lambda: torch.bernoulli(torch.full((9,), 0.5)),
    "dropout": lambda: nn.functional.dropout(torch.ones(30)),
    "orthogonal": lambda: nn.init.orthogonal_(torch.empty(4, 4)),
}


@pytest.fixture(autouse=True)
def _own_generator() -> object:
    with torch.random.fork_rng():
        yield


@pytest.mark.parametrize("name", DRAWS)
def test_the_draws_are_those_after_manual_seed(name: str) -> None:
    torch.manual_seed(3)
    expected = [DRAWS[name](), DRAWS[name]()]
    before = torch.get_rng_state()
    with seeded(3):
        found = [DRAWS[name](), DRAWS[name]()]
    assert all(torch.equal(one, two) for one, two in zip(found, expected, strict=True))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("name", MODELS)
def test_initial_weights_do_not_depend_on_what_another_thread_draws(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def build() -> dict[str, Tensor]:
        return build_layer(name, 2, 5, {"num_layers": 2}).state_dict()

    torch.manual_seed(3)
    expected = build()
    uniform, normal = nn.init.uniform_, nn.init.normal_

    def disturbed(original: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def draw(*arguments: object, **options: object) -> Tensor:
            thread = threading.Thread(target=torch.rand, args=(5,))  # from the generator that all threads share
            thread.start()
            thread.join()
            return original(*arguments, **options)

        return draw

    monkeypatch.setattr(nn.init, "uniform_", disturbed(uniform))
    monkeypatch.setattr(nn.init, "normal_", disturbed(normal))
    with seeded(3):
        found = build()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[key], expected[key]) for key in expected)
