"""Two CPU processes do what one does with the whole batch, under torchrun or with the environment that it sets."""

import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tests.forked import Forked
from tests.training import ranks
from tests.training.ranks import train_rank


def under_torchrun(folder: Path) -> None:
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [sys.executable, *launch, ranks.__file__, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=180, check=False)
    assert done.returncode == 0, done.stderr[-3000:]


def side_by_side(folder: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    shared |= {"GROUP_RANK": "0", "TORCHELASTIC_RUN_ID": "none"}
    processes = [
        Forked(folder, train_rank, folder, environment={**shared, "RANK": rank, "LOCAL_RANK": rank}) for rank in "01"
    ]
    for process in processes:
        _, shown = process.communicate(timeout=180)
        assert process.returncode == 0, shown[-3000:]


@pytest.fixture(scope="module", params=[side_by_side, pytest.param(under_torchrun, marks=pytest.mark.slow)])
def results(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, dict[str, torch.Tensor]]:
    folder = tmp_path_factory.mktemp("ranks")
    alone = Forked(folder, train_rank, folder)
    _, shown = alone.communicate()
    assert alone.returncode == 0, shown[-3000:]
    request.param(folder)
    return {path.stem: torch.load(path, weights_only=True) for path in folder.glob("*.pt")}


def test_gradients_equal_those_of_one_process(results: dict[str, dict[str, torch.Tensor]]) -> None:
    one, first, second = results["1-0"], results["2-0"], results["2-1"]
    assert one["gradients"].shape[0] == 3
    for rank in (first, second):
        torch.testing.assert_close(rank["gradients"], one["gradients"], rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(rank["weights"], one["weights"], rtol=1e-9, atol=1e-11)


def test_noise_differs_by_rank_and_makes_up_that_of_one_process(results: dict[str, dict[str, torch.Tensor]]) -> None:
    for whole, first, second in zip(
        results["1-0"]["noise"], results["2-0"]["noise"], results["2-1"]["noise"], strict=True
    ):
        assert torch.equal(torch.cat([first, second], dim=1), whole)
        assert not torch.equal(first[:, :3], second[:, :3])


def test_metrics_count_every_sequence(results: dict[str, dict[str, torch.Tensor]]) -> None:
    one, two = results["1-0"]["history"][0], results["2-0"]["history"][0]
    assert two["train_accuracy"] == one["train_accuracy"]
    # Fabric hands logits back in the default float32, whatever the model's precision.
    assert two["train_loss"] == pytest.approx(one["train_loss"], rel=1e-6)
