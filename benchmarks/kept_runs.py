"""Archives measured runs of the published tables in `docs/results/runs/`, so that a page grows without training again.

    python -m benchmarks.kept_runs unpack runs/ordered-mnist
    noisyrnn reproduce ordered-mnist --seeds 3 --precision bf16-mixed --finished-only --output runs/ordered-mnist
    python -m benchmarks.kept_runs pack runs/ordered-mnist

`unpack` writes the archived runs as run folders, unless a folder exists already; `pack` archives each run that has
finished training and was evaluated. An archive holds the settings, the metrics of each epoch, both files of weights,
the result of each test sequence, and the diagnostics where they were computed: all that tables and figures read. It
omits the checkpoint and the environment.
"""

import argparse
import io
import lzma
import sys
import tarfile
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from noisyrnn.files import check_writable, read_json, to_json, write_atomically
from noisyrnn.run_folder import RunFolder

ARCHIVES = Path(__file__).parents[1] / "docs" / "results" / "runs"
"""Default folder of the archives."""


def contents(folder: RunFolder) -> Iterator[tuple[str, bytes]]:
    """Yield the name and the content of each file that an archive of this run holds."""
    config = {name: value for name, value in read_json(folder.config).items() if name not in ("environment", "sha256")}
    yield folder.config.name, to_json(config).encode()
    files = (folder.metrics, folder.summary, folder.model, folder.last_model, *_results(folder))
    for file in files:
        if file.is_file():
            yield file.name, file.read_bytes()


def pack(runs: Path, archives: Path) -> list[Path]:
    """Archive each run of a folder that has finished training and was evaluated.

    Args:
        runs: Folder of run folders.
        archives: Folder of the archives; it is made if it is missing.

    Returns:
        The archives that are new or changed.

    Raises:
        ValueError: If a file is damaged, or a result belongs to other weights than those in its folder.
    """
    archives.mkdir(parents=True, exist_ok=True)
    written = []
    for config in sorted(runs.glob("*/config.json")):
        folder = RunFolder.open(config.parent)
        if not folder.finished or not folder.robustness.is_file():
            continue
        for file in _results(folder):
            if stale := folder.read_result(file).stale:
                raise ValueError(f"{file} must belong to its run, but {stale}. Evaluate the run again.")
        archive, content = archives / f"{folder.path.name}.tar.xz", _archive(folder)
        if not archive.is_file() or archive.read_bytes() != content:
            write_atomically(archive, content)
            written.append(archive)
    return written


def _results(folder: RunFolder) -> tuple[Path, ...]:
    """Return the files of what was measured of a run; some may be missing."""
    return folder.robustness, folder.last_robustness, folder.analysis


def _archive(folder: RunFolder) -> bytes:
    """Return the archive of a run: the same bytes for the same files."""
    plain = io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name, content in contents(folder):
            entry = tarfile.TarInfo(f"{folder.path.name}/{name}")
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return lzma.compress(plain.getvalue(), preset=9)


def unpack(runs: Path, archives: Path) -> list[Path]:
    """Write the folder of each archived run, unless it exists already.

    Args:
        runs: Folder of run folders; it is made if it is missing.
        archives: Folder of the archives.

    Returns:
        The new run folders.
    """
    runs.mkdir(parents=True, exist_ok=True)
    check_writable(runs)
    new = []
    for archive in sorted(archives.glob("*.tar.xz")):
        folder = runs / archive.name.removesuffix(".tar.xz")
        if not folder.exists():
            with tempfile.TemporaryDirectory(dir=runs) as part, tarfile.open(archive) as tar:
                tar.extractall(part, filter="data")
                (Path(part) / folder.name).rename(folder)  # whole or not at all
            new.append(folder)
    return new


def main(argv: Sequence[str] | None = None) -> int:
    """Pack or unpack."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.kept_runs",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("stage", choices=("pack", "unpack"), help="Archive runs, or restore archived ones.")
    parser.add_argument("runs", type=Path, help="Folder of the run folders.")
    parser.add_argument(
        "--archives", type=Path, default=ARCHIVES, help="Folder of the archives (default: docs/results/runs)."
    )
    words = parser.parse_args(argv)
    try:
        done = (pack if words.stage == "pack" else unpack)(words.runs, words.archives)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    print("\n".join(map(str, done)) or "Nothing new.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
