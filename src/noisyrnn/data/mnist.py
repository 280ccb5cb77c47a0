"""MNIST as a sequence of pixels, in reading order (`smnist`) or under one fixed permutation (`psmnist`)."""

import base64
import hashlib
import math
import struct
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from noisyrnn.checks import check_integer
from noisyrnn.data.dataset import Dataset
from noisyrnn.data.folders import cache_folder, check_sha256, download, find_file, placement_advice, read_bytes
from noisyrnn.data.parts import stratified_draw
from noisyrnn.data.split import Split

MIRRORS = ("https://ossci-datasets.s3.amazonaws.com/mnist/", "https://storage.googleapis.com/cvdf-datasets/mnist/")
SHA256 = {
    "train-images-idx3-ubyte.gz": "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
    "train-labels-idx1-ubyte.gz": "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
    "t10k-images-idx3-ubyte.gz": "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
    "t10k-labels-idx1-ubyte.gz": "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
}
PIXELS = 784
VALIDATION = 2000
IMAGES_MAGIC, LABELS_MAGIC = 2051, 2049

# torch.randperm(784, generator=torch.Generator().manual_seed(12008)), the usual permutation, as base64 of int16 little
# endian: it stays the same whatever becomes of torch's generator.
PERMUTATION = (
    "WwBhANcBqgGdAMMBOAHGAHUAxgFlAWACxwKhARYA8gHPAPwAEgAdArkCtQEJA9AAJgGtAMEBjQADAgwCiALqAdQCOAB7AhMCuAIHAHQAIwIfAAcB"
    "pQE2AIcCOgF8AbsACALdAl0AyQAQApMAxgJgAakCrwBEAuUAfwEoAJMB/QA8AqwAHgCgAh4BIQIQAHsBxADhAlAC9wJfAnwAGADlAXgCYgB3ABUC"
    "ugICAcwCRADmApwAGwIJAuoAjQJLAikCpgFnAm0BnALrAcABvADnAqQA7gKeAKMCZAJvATcAaQBSApsByQItAg0AfgL9AvwCtABQAWsA8wKlABMB"
    "PgJWAuwB0QF1AXYBBAKFAh8CLgFmAHEC5gFhAZICLQCLAm4ClQI/AGQAegIBADYClwEvAqkBNwHWADEARQAkAgUBugCJAh8BJwFDAM0AKQCAAmMC"
    "KwI9AIIBsgIKAacAUgDlAooC0wCdAb0CrQJwANQAsgGgAN8BVQL0ANkAMgBrARMAmgCpALACAwDMAasAQgG5AFgCogKOATICLABWAEEBegCKAKwB"
    "3wDQAQ0BywLkAEkBGgD4AAoCBQK3AFsBbwIgARoBrQFoAP8B+QDdAAwDhADBAmsCZQJxALQB6AGcAcwAdALDACoAIgJ+AYwB2AJmAhcB2ABKAkoB"
    "bAG8AdUCxAIOAy4CVwC8Ak8AeQKGAGkBegGVAPQCBwNJAn8AvQBwAssBLALPAg8C/AGFAe8AtgAxAUcA9gHOAUwCTADyAiUCzQKUAuoCoQDOALEB"
    "0wEMAI4AEQB4AN4CeAGZAbUAXAEjANIBmAIVAZECEgL5ARcCBAMuAHQB+QK/ArYBCACkAjMCvQGxAKYC6AIIAdECcgA0AdoCCgNpAu4AnQL+AJYC"
    "JgDKAsgAcgJuANoBZwHCAdIAdwILAq8CigEBAvgCKwA8ARwASQCuAckBuwJGAJ8B1QAUAU0CjgIlAO0BkADQAjQAfgCDAUgCmwCzALYCmQCgAeAA"
    "sADxAJUBygHIAgsA+gAvAE4B7QJHAdwBBQBqAq4AfQEwAFUAWAFqAF0BWgFKADMAywAaAiAALAEYAjwAmABLANwAcQEGAsUCGQHNAaMBhwB3AU4A"
    "mgINAyIA6AAWAucBJQHYAbsBKgI1AF4AHQB8AocBwQCBAlQARQHPASEB2wG/AA4BYgGRAYUAEQHEASACMgH7AgcCAAGrAe8BkQAUAPsARwLeAUQB"
    "gAGPAcoAiQGnAuEAVAE9AbECmgGPAvMBtwFRAggD1wI7AJIApQKnAUgAjwD7ATMBTAFuASYCtAIjAWMBwgBOAgUDQgAEAT8BDQI6AEICGwD2ANkC"
    "XACuAtwCqAAMAboBWQAvAfcABgH1AD4AwALrAuMCMAKMADYBFgGyAL4A4gGBAdIC/wISAWoBXwE7AZcCbwDkAvUB4QEnApsCVwEUAgYDngKUAe4B"
    "8wA6AloC1gJBABkC1AGDAnYCNQLsAJcAeQG5AaMAkwIVAAkBTQCzAfABVAIRAlEB5gAEAMcBAwEcAVMAOQAkAGYBwABZArUC8QHjAIgBhgJkAWcA"
    "jQGkAU8C4gLRAA8BqAL9AQMDqgC4ARwCnwIYATECRQJlAA4C+AFzAP4BQAAqAb4BbQA1AYsBUQBeAnMCWwIrAYkA7AKQAoIAGQDtAPUC1gEiAQkA"
    "lgDFAKYA9gIPA1cCqgInAMMCYADpATsC+gJsAs4CXAICA00B6QCDADkBqAGiAZQAAAAOAOIAAgBLAd4A1QHxAtMChAGWAS0BEAFoAnMBCwOfANkB"
    "GwHXAJgBTwGAAF0CWgDkAasC+gGvAQEDPQJQAGMAAAJTAogA/gJhAgoA4wGQATkCuACGAUMB7wKSAdsCNwJ9AEgBDwCCAvAC/wDrAFMBUgG/AT8C"
    "NAJWAbcCiwDfAnkA8AAwAZ4B3QHCAvcBogBiAnYAKQHpAkABWQGzAhcAvgJDAlgAhALyAMcAVQEBAaECrAJGAucAcgH0AWgBxQFsAAYAcAF9AnUC"
    "XwBtAtsARgECAgADmQKMAkACXgHgAR4CfwIdAUECewDaADgCKAKBACEA4AI+AcgBJAGwASgBCwE="
)
PERMUTATION_SHA256 = "f4113bc8ae78902146fba54feaff34c7de185249d3b85ce9584e3d76ca98b3bd"  # of int64 little endian


def permutation() -> Tensor:
    """Return the order in which `psmnist` reads the pixels, int64 `(784,)`.

    Raises:
        RuntimeError: If the constant no longer has its checksum.
    """
    order = np.frombuffer(base64.b64decode(PERMUTATION), dtype="<i2").astype("<i8")
    got = hashlib.sha256(order.tobytes()).hexdigest()
    if got != PERMUTATION_SHA256:
        raise RuntimeError(
            f"psmnist's permutation must have sha256 {PERMUTATION_SHA256}, got {got}. Reinstall noisyrnn."
        )
    return torch.from_numpy(order.astype(np.int64))


def parse_idx(data: bytes, *, magic: int, name: str) -> Tensor:
    """Parse an IDX file: big-endian magic number and sizes, then one byte per value.

    Args:
        data: The file, decompressed.
        magic: 2049 for labels, 2051 for images; its last byte is the number of sizes.
        name: Name of the file, for messages.

    Returns:
        Uint8 tensor with the sizes of the header.

    Raises:
        ValueError: If the magic number or the number of bytes differs.
    """
    header = 4 + 4 * (magic & 0xFF)
    if len(data) < header:
        raise ValueError(f"{name} must begin with {header} bytes of header, got {len(data)}. Fetch or copy it again.")
    got, *sizes = struct.unpack(f">{header // 4}I", data[:header])
    if got != magic:
        raise ValueError(f"{name} must begin with the magic number {magic}, got {got}. Is it the right file?")
    expected = header + math.prod(sizes)
    if len(data) != expected:
        raise ValueError(f"{name} must hold {expected} bytes, as its header says, got {len(data)}. Fetch it again.")
    return torch.from_numpy(np.frombuffer(data, dtype=np.uint8, offset=header).reshape(sizes).copy())


def _find(name: str, folders: list[Path]) -> Path | None:
    return find_file(folders, [name], ["mnist", "."])


def missing_mnist(folders: list[Path]) -> list[str]:
    """Return the files that no data folder has; nothing is downloaded."""
    return [name for name in SHA256 if _find(name, folders) is None]


def locate(name: str, folders: list[Path]) -> Path:
    """Find a file in the data folders, or download it into the cache, and check its checksum."""
    path = _find(name, folders)
    if path is None:
        cache = cache_folder() / "mnist"
        advice = placement_advice(list(SHA256), [folder / "mnist" for folder in folders])
        path = download(name, sha256=SHA256[name], mirrors=MIRRORS, folder=cache, advice=advice)
    check_sha256(path, SHA256[name])
    return path


def read_part(part: str, folders: list[Path]) -> tuple[Tensor, Tensor]:
    """Read pixels, uint8 `(n, 784)`, and labels, int64 `(n,)`, of the part `"train"` or `"t10k"`."""
    names = (f"{part}-images-idx3-ubyte.gz", f"{part}-labels-idx1-ubyte.gz")
    images, labels = (locate(name, folders) for name in names)
    pixels = parse_idx(read_bytes(images), magic=IMAGES_MAGIC, name=names[0]).flatten(1)
    return pixels, parse_idx(read_bytes(labels), magic=LABELS_MAGIC, name=names[1]).long()


def load_mnist(folders: list[Path], values_per_step: int, *, name: str, permuted: bool, white: int = 1) -> Dataset:
    """Load 58,000 / 2,000 / 10,000 sequences of pixels in [0, white], `values_per_step` per step; ten classes.

    Args:
        folders: Folders to search before downloading.
        values_per_step: Pixels per step, consecutive in reading order (or in the permuted order); a divisor of 784.
        name: Name of the data set.
        permuted: Whether the pixels are in the order `permutation()`.
        white: Value of a white pixel: 1, or 255 for the bytes of the files.

    Raises:
        ValueError: If `values_per_step` does not divide 784, or a file is damaged.
        FileNotFoundError: If a file is neither found nor downloaded.
    """
    check_integer("values_per_step", values_per_step, minimum=1)
    if PIXELS % values_per_step:
        raise ValueError(f"values_per_step must divide {PIXELS}, got {values_per_step}. Try 1, 7, 14, 16, 28 or 56.")
    order = permutation() if permuted else None

    def split(pixels: Tensor, labels: Tensor) -> Split:
        if order is not None:
            pixels = pixels[:, order]
        inputs = (pixels.float() / (255 // white)).reshape(len(pixels), PIXELS // values_per_step, values_per_step)
        return Split(inputs=inputs, labels=labels, classes=10)

    pixels, labels = read_part("train", folders)
    validation, train = stratified_draw(labels, VALIDATION)
    return Dataset(
        name=name,
        train=split(pixels[train], labels[train]),
        validation=split(pixels[validation], labels[validation]),
        read_test=lambda: split(*read_part("t10k", folders)),
        class_names=tuple(str(digit) for digit in range(10)),
        value_range=(0.0, float(white)),
        standardize=False,
        test_size=10000,
        image_shape=None if permuted else (28, 28),
        source="MNIST, official test part; validation: 2,000 of the 60,000 training images, stratified and seeded.",
    )


load_smnist = partial(load_mnist, name="smnist", permuted=False)
load_psmnist = partial(load_mnist, name="psmnist", permuted=True)
load_psmnist255 = partial(load_mnist, name="psmnist255", permuted=True, white=255)
