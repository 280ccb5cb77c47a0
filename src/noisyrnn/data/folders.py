"""Finds, downloads and reads data files: folders in order, checked downloads, complete files only."""

import gzip
import io
import os
import re
import zlib
from collections.abc import Sequence
from pathlib import Path

import pooch

from noisyrnn.checks import check_file_path
from noisyrnn.data.sizes import check_size, largest_text

_BLOCK = 2**20


def cache_folder() -> Path:
    """Return the platform's cache folder, where downloads go."""
    return Path(pooch.os_cache("noisyrnn"))


def data_folders(data_dir: str | Path | None = None) -> list[Path]:
    """Return the folders that are searched for data files, in order: the user's, `NOISYRNN_DATA`, the platform's cache.

    Args:
        data_dir: Folder that the user names; `None` if there is none.

    Returns:
        One to three folders; `NOISYRNN_DATA` and the cache need not exist.

    Raises:
        ValueError: If the user's is not a folder.
    """
    folders = []
    if data_dir is not None:
        check_file_path("data_dir", data_dir)
        chosen = Path(data_dir).expanduser()
        if not chosen.is_dir():
            raise ValueError(f"data_dir must be an existing folder, got {str(data_dir)!r}. Correct the path.")
        folders.append(chosen)
    if os.environ.get("NOISYRNN_DATA"):
        folders.append(Path(os.environ["NOISYRNN_DATA"]).expanduser())
    return [*folders, cache_folder()]


def find_file(folders: Sequence[Path], names: Sequence[str], subfolders: Sequence[str]) -> Path | None:
    """Find the first existing `folder/subfolder/name`: folders in order, then subfolders (`"."`: none), then names."""
    paths = (folder / sub / name for folder in folders for sub in subfolders for name in names)
    return next((path for path in paths if path.is_file()), None)


def placement_advice(names: Sequence[str], folders: Sequence[Path]) -> str:
    """Return the advice of a message about missing files."""
    return f"Put {' and '.join(names)} into {folders[0]}, or set NOISYRNN_DATA to the folder that holds them."


def check_sha256(path: Path, expected: str) -> None:
    """Raise `ValueError` unless the file has this checksum, in hexadecimal digits."""
    got = pooch.file_hash(str(path))
    if got != expected:
        raise ValueError(f"{path} must have sha256 {expected}, got {got}. Delete it and fetch or copy it again.")


def read_bytes(path: Path) -> bytes:
    """Read a file, decompressed if its name ends in `.gz`.

    Raises:
        ValueError: If the compressed file is cut short or damaged, or the content would not fit into memory.
    """
    largest = largest_text()
    size = path.stat().st_size
    check_size(str(path), size, largest)
    if path.suffix.lower() != ".gz":
        return path.read_bytes()
    content = io.BytesIO()
    try:
        with gzip.open(path) as file:  # a few kilobytes may decompress to terabytes
            while block := file.read(_BLOCK):
                content.write(block)
                check_size(f"{path}, decompressed,", content.tell(), largest)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ValueError(
            f"{path} must be a complete gzip file, got {size} bytes that do not decompress ({error}). "
            "Fetch or copy it again."
        ) from None
    return content.getvalue()


def read_text(path: Path) -> str:
    """Read a file as text.

    Raises:
        ValueError: If it is not UTF-8, or the compressed file is damaged.
    """
    try:
        return read_bytes(path).decode("utf-8-sig")  # a spreadsheet's byte order mark is not part of the first cell
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} must be UTF-8 text, got byte {error.object[error.start]} at {error.start}.") from None


def download(name: str, *, sha256: str, mirrors: Sequence[str], folder: Path, advice: str) -> Path:
    """Download a file from the first mirror that has it; pooch moves it into `folder` once its checksum is right.

    Args:
        name: File name, the same on each mirror.
        sha256: Checksum in hexadecimal digits. A file in `folder` that has it is not downloaded again.
        mirrors: Addresses ending in `/`, tried in order.
        folder: Where it goes; created if missing.
        advice: End of the message if no mirror answers.

    Raises:
        ValueError: If no mirror sent it and the last one that answered sent something else.
        FileNotFoundError: If no mirror answered.
    """
    damaged = ""
    reasons = []
    for mirror in mirrors:
        try:
            return Path(pooch.retrieve(mirror + name, known_hash=f"sha256:{sha256}", fname=name, path=folder))
        except ValueError as error:
            digests = re.findall(r"\b[0-9a-f]{64}\b", str(error))
            damaged = f"{name} must have sha256 {sha256}, got {digests[-1] if digests else error} from {mirror}."
        except OSError as error:  # the exceptions of requests are OSErrors
            reasons.append(error.strerror or type(error).__name__)
    if damaged:
        raise ValueError(f"{damaged} Try again later, or copy the file into {folder} yourself.")
    raise FileNotFoundError(
        f"{name} must be in a data folder or be downloaded, got no answer from {len(mirrors)} mirrors "
        f"({', '.join(reasons)}). {advice}"
    )
