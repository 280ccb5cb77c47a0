import gzip
import io
import zipfile
from pathlib import Path

import numpy as np
import pytest

from noisyrnn.data import load_dataset, sizes
from noisyrnn.data.mnist import parse_idx


def archive(path: Path, shape: tuple[int, ...], stored: int, descr: str = "<f8") -> str:
    """An archive whose X declares a shape and holds so many bytes of zeros."""
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": descr, "fortran_order": False, "shape": shape})
    labels = io.BytesIO()
    np.save(labels, np.arange(10) % 2)
    with zipfile.ZipFile(path / "own.npz", "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("X.npy", header.getvalue() + bytes(stored))
        file.writestr("y.npy", labels.getvalue())
    return str(path / "own.npz")


@pytest.mark.parametrize(("shape", "descr"), [((10**9, 10**6), "<f8"), ((2**70,), "<f8"), ((10**6,), "<U100000000")])
def test_an_array_that_declares_terabytes_is_refused_before_it_is_made(
    tmp_path: Path, shape: tuple[int, ...], descr: str
):
    with pytest.raises(ValueError, match=r"^X in .*own\.npz must take at most .* GB, to fit into memory, got at least"):
        load_dataset(archive(tmp_path, shape, 80, descr))


@pytest.mark.parametrize("stored", [80, 8000])
def test_an_array_of_another_size_than_declared_is_refused(tmp_path: Path, stored: int):
    with pytest.raises(ValueError, match=rf"got damage in X \(800 bytes declared and {stored} stored\)"):
        load_dataset(archive(tmp_path, (10, 10), stored))


@pytest.mark.parametrize("name", ["own.ts.gz", "own.ts", "own.csv"])
def test_a_text_that_is_too_long_is_refused_while_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
):
    monkeypatch.setattr(sizes, "memory", lambda: 8 * 2**20)
    content = bytes(2**24)
    (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    with pytest.raises(ValueError, match=r"must take at most 0\.00105 GB, to fit into memory, got at least"):
        load_dataset(str(tmp_path / name))


def test_the_memory_is_that_of_the_machine_or_less():
    assert 2**28 < sizes.memory() < 2**46


def test_sizes_whose_product_overflows_are_refused():
    header = b"\x00\x00\x08\x03" + (2**31).to_bytes(4, "big") * 2 + (4).to_bytes(4, "big")
    with pytest.raises(ValueError, match=rf"must hold {16 + 2**64} bytes, as its header says, got 16"):
        parse_idx(header, magic=2051, name="images")
