import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from noisyrnn.data import Split, stored
from noisyrnn.data.stored import DecodedArray, MappedArray, Storage, StoredSequences, read_ahead


def mapped(path: Path, values: np.ndarray) -> MappedArray:
    np.save(path, values)
    return MappedArray(path, path.stat().st_size - values.nbytes, values.shape, values.dtype)


def sequences(folder: Path, *arrays: np.ndarray, **options: object) -> StoredSequences:
    pieces = [mapped(folder / f"{k}.npy", array) for k, array in enumerate(arrays)]
    _, steps, *channels = arrays[0].shape
    sizes = {"steps": steps, "channels": channels[0] if channels else 1, "dtype": torch.float32}
    return StoredSequences(Storage(pieces, **{**sizes, **options}))


def numbered(*shape: int) -> np.ndarray:
    return np.arange(np.prod(shape), dtype=np.float32).reshape(shape)


@pytest.mark.parametrize("parts", [[11], [4, 1, 6]])
def test_rows_are_those_of_the_files_in_any_order_and_shape(tmp_path: Path, parts: list[int]) -> None:
    whole = numbered(11, 3, 2)
    found = sequences(tmp_path, *np.split(whole, np.cumsum(parts)[:-1]))
    expected = torch.from_numpy(whole)
    assert found.shape == (11, 3, 2) and len(found) == 11
    for rows in (torch.tensor([[7, 0], [10, 7]]), torch.arange(11), torch.tensor([3, 4, 5]), torch.tensor([9, 2, 3])):
        assert torch.equal(found[rows], expected[rows])
    assert torch.equal(found[2:9:3], expected[2:9:3])
    subset = found.subset(torch.tensor([8, 1, 5]))
    assert torch.equal(subset[:], expected[[8, 1, 5]])
    assert torch.equal(subset[torch.tensor([2, 0])], expected[[5, 8]])
    with pytest.raises(IndexError):
        found[torch.tensor([11])]


@pytest.mark.parametrize("kind", ["<i2", ">f4", "<f2", "<f8"])
def test_types_are_converted(tmp_path: Path, kind: str) -> None:
    values = numbered(5, 4).astype(kind)
    dtype = torch.float64 if kind == "<f8" else torch.float32
    found = sequences(tmp_path, values, dtype=dtype)
    assert torch.equal(found[:], torch.from_numpy(values.astype(float)).to(dtype).unsqueeze(-1))


def test_channels_first_are_turned_and_padding_is_zero(tmp_path: Path) -> None:
    values = numbered(4, 2, 3) + 1
    values[1, :, 2:] = np.nan
    lengths = torch.tensor([3, 2, 1, 3])
    found = sequences(tmp_path, values, steps=3, channels=2, time_last=True, lengths=lengths)
    expected = torch.from_numpy(values).transpose(1, 2).clone()
    expected[1, 2:], expected[2, 1:] = 0, 0
    assert torch.equal(found[:], expected)
    valid = torch.cat([row[:length] for row, length in zip(expected, lengths, strict=True)]).double()
    torch.testing.assert_close(found.scan.mean, valid.mean(0))
    torch.testing.assert_close(found.scan.std, valid.std(0, correction=0))
    assert torch.equal(found.scan.low, valid.amin(0)) and torch.equal(found.scan.high, valid.amax(0))
    assert torch.equal(found.scan.sample.sort(0).values, valid.sort(0).values)


@pytest.mark.parametrize("shape", [(1, 1, 1), (37, 5, 3), (301, 70, 1), (53, 11, 2500)])
def test_moments_are_those_of_numpy(tmp_path: Path, shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stored, "_SCANNED", 5000)
    monkeypatch.setattr(stored, "_BLOCK_VALUES", 3000)
    generator = np.random.default_rng(0)
    values = generator.normal(size=shape) * (1 + np.arange(shape[2])) + 1e8  # far from zero
    values[..., 0] = 7.3
    scan = sequences(tmp_path, values, dtype=torch.float64).scan
    flat = values.reshape(-1, shape[2]).astype(np.longdouble)
    np.testing.assert_allclose(scan.mean.numpy(), flat.mean(0).astype(float), rtol=1e-14)
    np.testing.assert_allclose(scan.std.numpy()[1:], flat.std(0).astype(float)[1:], rtol=1e-9)
    assert scan.std[0] == 0  # exactly, although the mean is rounded
    assert np.array_equal(scan.low.numpy(), values.min((0, 1))) and np.array_equal(
        scan.high.numpy(), values.max((0, 1))
    )


def test_sample_is_spread_over_all_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stored, "SAMPLE", 8)
    monkeypatch.setattr(stored, "_SCANNED", 40)
    scan = sequences(tmp_path, numbered(40, 2)).scan
    assert scan.sample.flatten().tolist() == [0, 1, 20, 21, 40, 41, 60, 61]


@pytest.mark.parametrize("value", [np.nan, np.inf, -1e200])
def test_values_that_are_not_finite_are_named_by_file_and_row(tmp_path: Path, value: float) -> None:
    first, second = numbered(3, 4, 2).astype(float), numbered(6, 4, 2).astype(float)
    second[4, 2, 1] = value
    found = sequences(tmp_path, first, second, dtype=torch.float64)
    rule = "finite" if not np.isfinite(value) else "within"
    with pytest.raises(ValueError, match=rf"X must be {rule}.* row 4 of .*1\.npy, at step 2, channel 1"):
        Split(inputs=found, labels=torch.zeros(9, dtype=torch.int64), classes=2)
    found.subset(torch.arange(7)).scan  # noqa: B018 (without that row)


def windows(found: StoredSequences, order: torch.Tensor, block: int, window: int) -> list[set[int]]:
    return [set((part // block).tolist()) for part in order.split(window)]


def test_order_keeps_blocks_together_and_has_every_row_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stored, "BLOCK", 4 * 8)  # four rows
    monkeypatch.setattr(stored, "WINDOW", 3 * 4 * 8)  # three blocks
    found = sequences(tmp_path, numbered(60, 2))
    order = found.shuffled(torch.Generator().manual_seed(3))
    assert torch.equal(order.sort().values, torch.arange(60))
    assert all(len(blocks) == 3 for blocks in windows(found, order, 4, 12))
    assert torch.equal(order, found.shuffled(torch.Generator().manual_seed(3)))
    other = found.shuffled(torch.Generator().manual_seed(4))
    assert not torch.equal(order, other)
    assert windows(found, order, 4, 12) != windows(found, other, 4, 12)
    assert any((part.diff() < 0).any() for part in order.split(4))  # rows are mixed within a window


def test_one_window_is_shuffled_uniformly(tmp_path: Path) -> None:
    found = sequences(tmp_path, numbered(3, 2))
    counts = Counter(tuple(found.shuffled(torch.Generator().manual_seed(k)).tolist()) for k in range(600))
    assert len(counts) == 6 and all(abs(count - 100) < 4 * (600 * 5 / 36) ** 0.5 for count in counts.values())


def test_a_change_of_a_file_is_noticed(tmp_path: Path) -> None:
    values = numbered(6, 2)
    found = sequences(tmp_path, values)
    split = Split(inputs=found, labels=torch.zeros(6, dtype=torch.int64), classes=2)
    before = split.fingerprint()
    assert split.fingerprint() == before
    place = tmp_path / "0.npy"
    content = bytearray(place.read_bytes())
    content[-1] ^= 1
    with place.open("r+b") as file:  # the same file, which is still mapped
        file.write(content)
    os.utime(place, ns=(1, 1))
    with pytest.raises(RuntimeError, match="changed while they were used"):
        found.shuffled(torch.Generator())
    after = split.fingerprint()
    assert after["inputs"] != before["inputs"] and after["labels"] == before["labels"]


def test_digest_is_of_values_and_of_the_order_in_which_they_are_read(tmp_path: Path) -> None:
    for name in "abc":
        (tmp_path / name).mkdir()
    values = numbered(6, 2)
    one, same = sequences(tmp_path / "a", values), sequences(tmp_path / "b", values)
    assert one.scan.digest == same.scan.digest
    cut = sequences(tmp_path / "c", values[:2], values[2:])
    assert torch.equal(cut[:], one[:]) and cut.scan.digest != one.scan.digest  # other blocks, another order of batches


def test_each_compressed_piece_is_decoded_once_an_epoch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stored, "WINDOW", 3 * 5 * 8)
    whole, decoded = numbered(60, 2), Counter[int]()

    def piece(k: int) -> DecodedArray:
        def decode() -> np.ndarray:
            decoded[k] += 1
            return whole[5 * k : 5 * k + 5]

        path = tmp_path / f"{k}"
        path.touch()
        return DecodedArray(path, 0, 5, decode)

    storage = Storage([piece(k) for k in range(12)], steps=2, channels=1, dtype=torch.float32)
    found = StoredSequences(storage)
    order = found.shuffled(torch.Generator().manual_seed(0))
    for batch in order.split(7):  # batches reach over the edges of windows
        assert torch.equal(found[batch].squeeze(-1), torch.from_numpy(whole)[batch])
    assert decoded == dict.fromkeys(range(12), 1)
    assert storage._held() <= 2 * stored.WINDOW


@pytest.mark.parametrize("ahead", [0, 100, 10**6])
def test_reading_ahead_changes_nothing_and_announces_every_row_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ahead: int
) -> None:
    monkeypatch.setattr(stored, "_AHEAD", ahead)
    found, announced = sequences(tmp_path, numbered(30, 2)), Counter[int]()
    monkeypatch.setattr(MappedArray, "announce", lambda self, rows: announced.update(rows.tolist()))
    batches = list(torch.randperm(30).split(4))
    used = 0
    for got, batch in zip(read_ahead(batches, lambda rows: rows, found), batches, strict=True):
        used += len(got)
        assert got is batch and all(announced[row] == 1 for row in got.tolist())
        assert announced.total() <= used + 2 * (ahead // 8 + 4)
    assert announced == dict.fromkeys(range(30), 1)


def test_the_system_is_asked_for_the_pages_of_the_rows(tmp_path: Path) -> None:
    piece = mapped(tmp_path / "X.npy", numbered(5000, 10))
    asked: list[tuple[int, int]] = []

    class Map:
        def madvise(self, option: int, start: int, length: int) -> None:
            asked.append((start, length))

    piece._map = Map()  # type: ignore[assignment]
    piece.announce(np.array([7, 8, 4000]))
    assert asked == [(0, 128 + 9 * 40), ((128 + 4000 * 40) // 4096 * 4096, (128 + 4000 * 40) % 4096 + 40)]


@pytest.mark.parametrize(
    "given",
    [{"weights": torch.ones(4)}, {"dt": torch.ones(4, 2)}, {"labels": torch.zeros(4, 2, dtype=torch.int64)}],
)
def test_what_stored_inputs_cannot_have_is_refused(tmp_path: Path, given: dict[str, torch.Tensor]) -> None:
    fields = {"labels": torch.zeros(4, dtype=torch.int64), **given}
    with pytest.raises(ValueError, match=next(iter(given))):
        Split(inputs=sequences(tmp_path, numbered(4, 2)), classes=2, **fields)


def test_too_many_rows_at_once_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = sequences(tmp_path, numbered(40, 2))
    monkeypatch.setattr(stored, "largest_array", lambda: 100)
    assert len(found[torch.arange(12)]) == 12
    with pytest.raises(ValueError, match="fit into memory"):
        found[:]
