"""Sequences that stay in their files: rows are read when they are asked for, so data may be larger than memory."""

import hashlib
import math
import mmap
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor

from noisyrnn.checks import LARGEST
from noisyrnn.data.sizes import check_size, largest_array
from noisyrnn.padding import valid_steps

T = TypeVar("T")

BLOCK = 2**20
"""Bytes of consecutive rows that stay together when rows are shuffled; a change alters the order of every training."""
WINDOW = 2**28
"""Bytes of the blocks whose rows are mixed. A change alters the order of every training."""
SAMPLE = 2**23
"""Values that quantiles are estimated from; exact where there are no more."""
_AHEAD = 2**26
"""Bytes of rows that the system is asked to fetch at once."""
_SCANNED = 2**22
"""Bytes of the rows that a scan reads at once. A change alters the last bits of means and standard deviations."""
_BLOCK_VALUES = 2**17
"""Values that moments are computed of at once, so that they stay in a cache; as for `_SCANNED`."""
_WIDTH = 2048
"""Values of a row that is summed with the others; as for `_SCANNED`."""


class Piece(Protocol):
    """Consecutive sequences of a data set that one file holds.

    Args:
        path: The file.
        first: Number of its first sequence within the file.
        count: Number of sequences.
        mapped: Whether single rows can be read; else `read` decodes all of them, and the result is kept for a while.
    """

    path: Path
    first: int
    count: int
    mapped: bool

    def read(self) -> np.ndarray:
        """Return all sequences as an array `(count, steps, …)`, which is a view of the file if it is mapped."""
        ...

    def announce(self, rows: np.ndarray) -> None:
        """Have the system fetch rows that will soon be read, if it can; `rows` increase."""
        ...


class MappedArray:
    """An array in a file, mapped into memory: the system reads what is used and may drop it again.

    Args:
        path: The file.
        offset: Bytes in front of the values.
        shape: Of the array; the first axis is that of the sequences.
        dtype: Type of the values.
    """

    mapped = True
    first = 0

    def __init__(self, path: Path, offset: int, shape: tuple[int, ...], dtype: np.dtype) -> None:
        self.path, self.count, self._offset = path, shape[0], offset
        self._row = math.prod(shape[1:]) * dtype.itemsize
        with path.open("rb") as file:
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self._array: np.ndarray = np.ndarray(shape, dtype, buffer=self._map, offset=offset)

    def read(self) -> np.ndarray:
        """Return the array, whose values are read when they are used."""
        return self._array

    def announce(self, rows: np.ndarray) -> None:
        """Have the system read the pages of these rows in the background."""
        if not hasattr(mmap, "MADV_WILLNEED"):  # on Windows
            return
        breaks = np.flatnonzero(np.diff(rows) > 1) + 1
        for run in np.split(rows, breaks):
            start = (self._offset + int(run[0]) * self._row) // mmap.PAGESIZE * mmap.PAGESIZE
            end = self._offset + (int(run[-1]) + 1) * self._row
            self._map.madvise(mmap.MADV_WILLNEED, start, end - start)


class DecodedArray:
    """Sequences that can only be decoded together, such as those of a compressed array.

    Args:
        path: The file.
        first: Number of the first sequence within the file.
        count: Number of sequences.
        decode: Returns them, `(count, steps, …)`.
    """

    mapped = False

    def __init__(self, path: Path, first: int, count: int, decode: Callable[[], np.ndarray]) -> None:
        self.path, self.first, self.count, self.read = path, first, count, decode

    def announce(self, rows: np.ndarray) -> None:
        """Do nothing: the sequences are decoded when they are used."""


@dataclass(frozen=True, eq=False)
class Scan:
    """What one pass over the valid values of all sequences finds.

    Args:
        digest: SHA-256 of type, shape, blocks and values.
        mean: Mean of each channel, float64 `(channels,)`.
        std: Standard deviation of each channel; 0 where all values are equal.
        low: Smallest value of each channel.
        high: Largest value of each channel.
        sample: Values of sequences that are spread evenly over all, float64 `(k, channels)`.
    """

    digest: str
    mean: Tensor
    std: Tensor
    low: Tensor
    high: Tensor
    sample: Tensor


class Storage:
    """The sequences of one or several files, one after the other.

    Args:
        pieces: In order; all sequences have the same shape and type.
        steps: Steps of a sequence.
        channels: Channels of a step.
        dtype: Type of the values that are returned: float32 if it represents those of the files exactly, else float64.
        time_last: Whether the files hold `(n, channels, steps)`.
        lengths: Int64 `(n,)`, valid steps of each sequence; values behind them are ignored and read as zeros. `None`:
            all have `steps`.
        largest: Largest size of a value.
    """

    def __init__(
        self,
        pieces: Sequence[Piece],
        *,
        steps: int,
        channels: int,
        dtype: torch.dtype,
        time_last: bool = False,
        lengths: Tensor | None = None,
        largest: float = LARGEST,
    ) -> None:
        self.largest = largest
        self.pieces, self.steps, self.channels, self.dtype = list(pieces), steps, channels, dtype
        self.edges = np.cumsum([0, *(piece.count for piece in pieces)])
        self.row_bytes = steps * channels * dtype.itemsize
        self._time_last, self._lengths = time_last, lengths
        self._decoded: OrderedDict[int, np.ndarray] = OrderedDict()

    def state(self) -> tuple[tuple[int, int], ...]:
        """Return size and time of change of each file."""
        found = (piece.path.stat() for piece in self.pieces)
        return tuple((stat.st_size, stat.st_mtime_ns) for stat in found)

    def valid(self, rows: np.ndarray) -> Tensor | None:
        """Return the mask of the valid steps of some rows, bool `(k, steps)`; `None` if all are."""
        return None if self._lengths is None else valid_steps(self._lengths[torch.from_numpy(rows)], self.steps)

    def read(self, rows: np.ndarray) -> Tensor:
        """Return sequences by their numbers, in any order, `(k, steps, channels)`."""
        size = len(rows) * self.row_bytes
        check_size(f"{len(rows)} sequences of {self.pieces[0].path.parent}", size, largest_array())
        found = torch.empty(len(rows), self.steps, self.channels, dtype=self.dtype, device="cpu")
        target = found.numpy()
        whole = self.pieces[0].read() if len(self.pieces) == 1 and self.pieces[0].mapped else None
        if whole is not None and whole.dtype == target.dtype and not self._time_last:
            # The rows exist, so "clip" changes none; "raise" would copy them twice.
            np.take(whole.reshape(-1, self.steps, self.channels), rows, axis=0, out=target, mode="clip")
            return self._without_padding(found, rows)
        increasing = bool((np.diff(rows) > 0).all())
        order = None if increasing else np.argsort(rows, kind="stable")
        for number, places, local in self._by_piece(rows if order is None else rows[order]):
            values = self._array(number)
            values = values[int(local[0]) : int(local[-1]) + 1] if (np.diff(local) == 1).all() else values[local]
            values = values[..., None] if values.ndim == 2 else values
            target[places if order is None else order[places]] = (
                values.transpose(0, 2, 1) if self._time_last else values
            )
        return self._without_padding(found, rows)

    def _without_padding(self, found: Tensor, rows: np.ndarray) -> Tensor:
        valid = self.valid(rows)
        return found if valid is None else found.masked_fill_(~valid.unsqueeze(-1), 0.0)

    def announce(self, rows: np.ndarray) -> None:
        """Have the system fetch rows that will soon be read."""
        for number, _, local in self._by_piece(np.sort(rows)):
            self.pieces[number].announce(local)

    def place(self, row: int) -> str:
        """Return where a sequence is, such as `row 3 of X.npy`."""
        number = int(np.searchsorted(self.edges, row, side="right")) - 1
        piece = self.pieces[number]
        return f"row {piece.first + row - int(self.edges[number])} of {piece.path}"

    def _by_piece(self, rows: np.ndarray) -> Iterator[tuple[int, slice, np.ndarray]]:
        """Yield number of the piece, place within `rows` and number within the piece, for rows that increase."""
        cuts = np.searchsorted(rows, self.edges)
        for number in np.flatnonzero(np.diff(cuts)):
            places = slice(int(cuts[number]), int(cuts[number + 1]))
            yield int(number), places, rows[places] - self.edges[number]

    def _array(self, number: int) -> np.ndarray:
        """Return the sequences of a piece; decoded ones are kept while they fit into two windows."""
        piece = self.pieces[number]
        if piece.mapped:
            return piece.read()
        array = self._decoded.pop(number, None)
        if array is None:
            while self._decoded and self._held() + piece.count * self.row_bytes > 2 * WINDOW:
                self._decoded.popitem(last=False)
            array = piece.read()
        self._decoded[number] = array
        return array

    def _held(self) -> int:
        return sum(self.pieces[number].count for number in self._decoded) * self.row_bytes


class StoredSequences:
    """Floating-point sequences `(n, steps, channels)` in files, which a `Split` may hold in place of a tensor.

    Indexing with integers `(…)` or a slice reads rows and returns a tensor on the device of the indices.

    Args:
        storage: The files.
        rows: Numbers of the sequences within them, int64; `None` for all.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "X.npy"
        >>> np.save(path, np.arange(6.0).reshape(3, 2))
        >>> piece = MappedArray(path, path.stat().st_size - 48, (3, 2), np.dtype(float))
        >>> sequences = StoredSequences(Storage([piece], steps=2, channels=1, dtype=torch.float64))
        >>> sequences[torch.tensor([2, 0])].squeeze(-1)
        tensor([[4., 5.],
                [0., 1.]], dtype=torch.float64)
    """

    ndim = 3
    device = torch.device("cpu")

    def __init__(self, storage: Storage, rows: np.ndarray | None = None) -> None:
        self._storage = storage
        self._rows = np.arange(int(storage.edges[-1])) if rows is None else rows
        self._scan: tuple[object, Scan] | None = None

    @property
    def shape(self) -> torch.Size:
        """`(n, steps, channels)`."""
        return torch.Size((len(self._rows), self._storage.steps, self._storage.channels))

    @property
    def dtype(self) -> torch.dtype:
        """Type of the values that are returned."""
        return self._storage.dtype

    @property
    def row_bytes(self) -> int:
        """Bytes of one sequence in memory."""
        return self._storage.row_bytes

    def __len__(self) -> int:
        return len(self._rows)

    def __repr__(self) -> str:
        """Describe the sequences; no value is read."""
        files = len({piece.path for piece in self._storage.pieces})
        return f"StoredSequences(shape={tuple(self.shape)}, dtype={self.dtype}, files={files})"

    def __getitem__(self, rows: Tensor | slice) -> Tensor:
        """Read sequences.

        Raises:
            ValueError: If they do not fit into memory.
        """
        if isinstance(rows, slice):
            return self._storage.read(self._rows[rows])
        chosen = self._rows[rows.detach().cpu().numpy()]
        found = self._storage.read(chosen.reshape(-1))
        return found.reshape(*rows.shape, *found.shape[1:]).to(rows.device)

    def subset(self, rows: Tensor) -> "StoredSequences":
        """Return the sequences at `rows`, int64 `(k,)`, in that order; nothing is read."""
        return StoredSequences(self._storage, self._rows[rows.cpu().numpy()])

    def announce(self, rows: Tensor) -> None:
        """Have the system fetch sequences that will soon be read, int64 `(k,)` on the CPU."""
        self._storage.announce(self._rows[rows.numpy()])

    @cached_property
    def blocks(self) -> np.ndarray:
        """Edges of the blocks that stay together when rows are shuffled: consecutive rows of one piece of a file."""
        storage, count = self._storage, len(self._rows)
        pieces = np.searchsorted(storage.edges, self._rows, side="right") - 1
        cuts = [0, *(np.flatnonzero(np.diff(pieces)) + 1).tolist(), count]
        size = max(1, BLOCK // storage.row_bytes)
        edges = [0]
        for start, end in pairwise(cuts):
            step = size if storage.pieces[pieces[start]].mapped else end - start
            edges += [*range(start + step, end, step), end]
        return np.array(edges)

    def shuffled(self, generator: torch.Generator) -> Tensor:
        """Return all indices in random order, int64 `(n,)`, so that rows read together are near each other.

        Blocks are shuffled, and then the rows within windows of consecutive blocks, of `WINDOW` bytes at most. The
        order depends on the generator and on the blocks only.

        Raises:
            RuntimeError: If a file has changed since it was read first.
        """
        if self._scan is not None and self._scan[0] != self._storage.state():
            raise RuntimeError(
                f"The files in {self._storage.pieces[0].path.parent} changed while they were used. Restore them, or "
                "train again."
            )
        edges = torch.from_numpy(self.blocks)
        sizes = edges.diff()
        windows: list[list[int]] = [[]]
        rows, most = 0, max(1, WINDOW // self.row_bytes)
        for block in torch.randperm(len(sizes), generator=generator, device="cpu").tolist():
            if rows + int(sizes[block]) > most and windows[-1]:
                windows.append([])
                rows = 0
            windows[-1].append(block)
            rows += int(sizes[block])
        parts = []
        for window in windows:
            together = torch.cat([torch.arange(int(edges[b]), int(edges[b + 1]), device="cpu") for b in window])
            parts.append(together[torch.randperm(len(together), generator=generator, device="cpu")])
        return torch.cat(parts)

    @property
    def scan(self) -> Scan:
        """What one pass over all values finds; it is made once, and again if a file has changed since.

        Raises:
            ValueError: If a value is not finite or too large; the message names the file and the row.
        """
        state = self._storage.state()
        if self._scan is None or self._scan[0] != state:
            self._scan = state, self._scanned()
        return self._scan[1]

    def _scanned(self) -> Scan:
        storage, count = self._storage, len(self._rows)
        header = f"{self.dtype} {tuple(self.shape)} {hashlib.sha256(self.blocks.tobytes()).hexdigest()} "
        digest = hashlib.sha256(header.encode())
        wanted = min(count, max(1, SAMPLE // (storage.steps * storage.channels)))
        sampled = np.arange(wanted) * count // wanted
        moments = _Moments(storage.channels, storage.largest)
        # One buffer: kept between the blocks, a piece for each of them would leave a hole of the size of a block.
        most = wanted * storage.steps
        sample, filled = torch.empty(most, storage.channels, dtype=torch.float64, device="cpu"), 0
        size = max(1, _SCANNED // storage.row_bytes)
        for start in range(0, count, size):
            rows = self._rows[start : start + size]
            block = storage.read(rows)
            if start + size < count:
                storage.announce(self._rows[start + size : start + 2 * size])
            digest.update(block.numpy().data)
            valid = storage.valid(rows)
            values = block.reshape(-1, storage.channels) if valid is None else block[valid]
            if not moments.add(values.numpy()):
                self._refuse(rows, block)
            among = sampled[np.searchsorted(sampled, start) : np.searchsorted(sampled, start + size)] - start
            if len(among):
                some = torch.from_numpy(among)
                chosen = block[some]
                kept = chosen.flatten(0, 1) if valid is None else chosen[valid[some]]
                sample[filled : filled + len(kept)] = kept
                filled += len(kept)
        return Scan(
            digest=digest.hexdigest(),
            mean=torch.from_numpy(moments.mean),
            std=torch.from_numpy(np.where(moments.high > moments.low, np.sqrt(moments.squares / moments.count), 0.0)),
            low=torch.from_numpy(moments.low),
            high=torch.from_numpy(moments.high),
            sample=sample[:filled],
        )

    def _refuse(self, rows: np.ndarray, block: Tensor) -> None:
        """Raise `ValueError` for the first value of a block that is not finite or too large."""
        bad = ~(block.abs() <= self._storage.largest)
        row, step, channel = (int(k) for k in bad.nonzero()[0])
        value = float(block[row, step, channel])
        rule = "finite" if not math.isfinite(value) else f"within ±{self._storage.largest:g}"
        advice = "Remove or impute it." if rule == "finite" else "Give the values in a larger unit."
        place = self._storage.place(int(rows[row]))
        raise ValueError(f"X must be {rule}, got {value:g} in {place}, at step {step}, channel {channel}. {advice}")


class _Moments:
    """Mean, sum of squared deviations and extremes of each channel, from blocks of values, in float64.

    Blocks are combined as by Chan, Golub and LeVeque (1983), so a mean far from zero costs no digits.
    """

    def __init__(self, channels: int, largest: float) -> None:
        self.count, self._largest = 0, largest
        self.mean, self.squares = np.zeros(channels), np.zeros(channels)
        self.low, self.high = np.full(channels, math.inf), np.full(channels, -math.inf)
        self._wide = max(1, _WIDTH // channels)

    def add(self, values: np.ndarray) -> bool:
        """Add values `(k, channels)`; return whether all are finite and not too large."""
        size = max(1, _BLOCK_VALUES // (values.shape[1] * self._wide)) * self._wide
        return all(self._add(values[start : start + size]) for start in range(0, len(values), size))

    def _add(self, values: np.ndarray) -> bool:
        whole = len(values) // self._wide * self._wide
        return all(
            self._add_rows(rows.reshape(-1, width * rows.shape[1]), width)
            for rows, width in ((values[:whole], self._wide), (values[whole:], 1))
            if len(rows)
        )

    def _add_rows(self, rows: np.ndarray, width: int) -> bool:
        """Add rows that hold `width` steps each: long rows are several times faster to sum than short ones."""
        low = rows.min(axis=0).reshape(width, -1).min(axis=0).astype(np.float64)
        high = rows.max(axis=0).reshape(width, -1).max(axis=0).astype(np.float64)
        if not ((low >= -self._largest).all() and (high <= self._largest).all()):  # false for NaN
            return False
        self.low, self.high = np.minimum(self.low, low), np.maximum(self.high, high)
        added = len(rows) * width
        exact = rows.astype(np.float64)
        mean = exact.sum(axis=0).reshape(width, -1).sum(axis=0) / added
        exact -= np.tile(mean, width)
        squares = np.multiply(exact, exact, out=exact).sum(axis=0).reshape(width, -1).sum(axis=0)
        count = self.count + added
        delta = mean - self.mean
        self.squares += squares + delta**2 * (self.count * added / count)
        self.mean += delta * (added / count)
        self.count = count
        return True


def read_ahead(items: Iterable[T], rows_of: Callable[[T], Tensor], stored: StoredSequences) -> Iterator[T]:
    """Yield items unchanged; the rows of the next ones are announced while the rows of earlier ones are used.

    Args:
        items: Such as batches.
        rows_of: Returns the rows of an item, int64 on the CPU.
        stored: What the rows are of.
    """
    ready: list[T] = []
    coming: list[T] = []
    size = 0
    for item in items:
        coming.append(item)
        size += len(rows_of(item)) * stored.row_bytes
        if size > _AHEAD:  # together, since the system reads long runs of a file with less work
            stored.announce(torch.cat([rows_of(one) for one in coming]))
            yield from ready
            ready, coming, size = coming, [], 0
    if coming:
        stored.announce(torch.cat([rows_of(one) for one in coming]))
    yield from ready
    yield from coming
