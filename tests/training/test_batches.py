"""The batches of an epoch, and which sequences a step takes."""

import dataclasses
from collections.abc import Callable

import torch

from noisyrnn.data.split import Split
from noisyrnn.training import TrainConfig
from noisyrnn.training.batches import epoch_batches, select_sequences


def test_batches_of_all_processes_make_up_the_whole(config: TrainConfig) -> None:
    alone = list(epoch_batches(config, 37, 1))
    parts = [list(epoch_batches(config, 37, 1, rank=rank, world=3)) for rank in range(3)]
    for number, batch in enumerate(alone):
        pieces = [part[number] for part in parts]
        assert torch.equal(torch.cat([p.rows for p in pieces if p.share]), batch.rows)
        assert [p.first_row for p in pieces] == [len(batch.rows) * r // 3 for r in range(3)]
        assert {p.count for p in pieces} == {len(batch.rows)}
    assert sorted(torch.cat([b.rows for b in alone]).tolist()) == list(range(37))


def test_each_epoch_and_each_seed_has_an_order_of_its_own(config: TrainConfig) -> None:
    def order(seed: int, epoch: int) -> list[int]:
        parts = epoch_batches(dataclasses.replace(config, seed=seed), 37, epoch)
        return torch.cat([part.rows for part in parts]).tolist()

    orders = [order(1, 1), order(1, 2), order(2, 1)]
    assert all(sorted(rows) == list(range(37)) for rows in orders)
    assert orders[0] != orders[1] and orders[0] != orders[2] and orders[1] != orders[2]
    assert order(1, 2) == orders[1]


def test_a_process_without_sequences_keeps_step(config: TrainConfig) -> None:
    parts = [
        list(epoch_batches(dataclasses.replace(config, batch_size=2), 3, 1, rank=rank, world=2)) for rank in range(2)
    ]
    last = [part[-1] for part in parts]
    assert [p.share for p in last] == [0.0, 1.0]
    assert all(len(p.rows) == 1 for p in last)


def test_sequences_are_cut_after_the_longest(waves: Callable[..., Split]) -> None:
    split = waves(10, 3, unequal=True)
    assert split.lengths is not None
    rows = split.lengths.argsort()[:3]
    inputs, labels, lengths, weights, dt = select_sequences(split, rows)
    assert lengths is not None and weights is None and dt is None
    assert inputs.shape[1] == int(lengths.max()) < 12
    assert torch.equal(labels, split.labels[rows])
