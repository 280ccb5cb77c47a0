"""Training on data that are larger than memory: memory, time, resumption and two processes.

`python -m benchmarks.large_data FOLDER --gib 20` writes sequences of that size into FOLDER, measures, writes the page
`docs/results/large-data.md` and deletes the data. It needs Linux, and the time of five epochs. What was
measured is kept in FOLDER/measured.json, and the same command continues after an interruption.
"""

import argparse
import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from noisyrnn.data import Dataset, load_dataset
from noisyrnn.data.stored import StoredSequences
from noisyrnn.files import file_digest, write_atomically
from noisyrnn.pipeline.context import RunContext
from noisyrnn.pipeline.train import build_model, train_run
from noisyrnn.threads import reproducible_threads
from noisyrnn.training import TrainConfig
from noisyrnn.training.trainer import Trainer

STEPS, CHANNELS, CLASSES = 256, 64, 4
ROW = STEPS * CHANNELS * 4
"""Bytes of a sequence in float32."""
OTHERS = 2048
"""Sequences for validation and for the test, each."""
IN_MEMORY = 2**29
"""Bytes of the sequences that the training from memory uses over and over."""
TURN = 16
"""Steps that each of two trainings takes before the other one is timed."""
PAGE = Path(__file__).parents[1] / "docs" / "results" / "large-data.md"


def settings(data: Path) -> TrainConfig:
    """One epoch of a small noisy RNN, whose steps take little time, so that reading is not hidden behind them."""
    return TrainConfig(
        model="noisy", dataset=str(data), hidden_size=16, epochs=1, batch_size=256, learning_rate=0.003, decay_epochs=()
    )


def write_data(folder: Path, count: int) -> None:
    """Write sequences of four classes: a wave for each class under uniform noise, float32 `(count, 256, 64)`.

    Raises:
        ValueError: If the disk has no room for them.
    """
    needed, free = (count + 2 * OTHERS) * ROW, shutil.disk_usage(folder.parent).free
    if free < 1.1 * needed:
        raise ValueError(f"--gib must leave room on the disk, got {needed / 2**30:.3g} with {free / 2**30:.3g} free.")
    folder.mkdir()
    rng = np.random.default_rng(0)
    noise = rng.random(2**24 + STEPS * CHANNELS, dtype=np.float32)
    phase = np.arange(STEPS)[:, None] * (1 + np.arange(CLASSES)[:, None, None]) / 20 + np.arange(CHANNELS)
    waves = (0.1 * np.sin(phase)).astype(np.float32)
    for part, size in (("validation", OTHERS), ("test", OTHERS), ("train", count)):
        labels = rng.integers(CLASSES, size=size)
        np.save(folder / f"y_{part}.npy", labels)
        with (folder / f"X_{part}.npy").open("wb") as file:
            header = {"descr": "<f4", "fortran_order": False, "shape": (size, STEPS, CHANNELS)}
            np.lib.format.write_array_header_1_0(file, header)
            for label, offset in zip(labels, rng.integers(2**24, size=size), strict=True):
                row = noise[offset : offset + STEPS * CHANNELS].reshape(STEPS, CHANNELS) + waves[label]
                file.write(row.tobytes())


def memory_of(process: int) -> dict[str, int]:
    """Return the bytes of memory of a process by kind: `RssAnon` is its own, `RssFile` pages of files in the cache."""
    lines = (Path("/proc") / str(process) / "status").read_text().splitlines()
    fields = dict(line.split(":", 1) for line in lines)
    return {name: int(fields[name].split()[0]) * 1024 for name in ("RssAnon", "RssFile") if name in fields}


def watch(command: Sequence[str], *, stop: Callable[[], bool] = lambda: False) -> dict[str, float]:
    """Run a command; return its time and the peaks of its memory. Once `stop` is true, it is killed."""
    start, peaks = time.monotonic(), {"RssAnon": 0, "RssFile": 0}
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    killed = False
    while process.poll() is None:
        try:
            for name, size in memory_of(process.pid).items():
                peaks[name] = max(peaks[name], size)
        except OSError:  # it has just ended
            break
        if stop():
            process.send_signal(signal.SIGKILL)
            killed = True
            break
        time.sleep(0.05)
    _, shown = process.communicate()
    if process.returncode and not killed:
        raise RuntimeError(f"{' '.join(command)} failed:\n{shown[-3000:]}")
    return {**peaks, "seconds": time.monotonic() - start}


def train_command(data: Path, output: Path) -> list[str]:
    """Return the command of a training."""
    config = settings(data)
    flags = {
        "--model": config.model,
        "--dataset": config.dataset,
        "--hidden-size": config.hidden_size,
        "--epochs": config.epochs,
        "--batch-size": config.batch_size,
        "--learning-rate": config.learning_rate,
        "--decay-epochs": "[]",
        "--output": output,
    }
    words = [str(word) for pair in flags.items() for word in pair]
    return [sys.executable, "-m", "noisyrnn", "train", *words, "--checkpoint-seconds", "10", "--resume"]


def run_of(output: Path) -> Path:
    """Return the folder of the only run."""
    return next(path for path in output.iterdir() if path.is_dir())


def epoch_seconds(output: Path) -> float:
    """Return the time of the steps of the epoch of a finished run."""
    with (run_of(output) / "metrics.csv").open() as file:
        return float(next(csv.DictReader(file))["seconds"])


def measure_training(data: Path, folder: Path) -> dict[str, Any]:
    """Train without interruption."""
    output = folder / "whole"
    found = watch(train_command(data, output))
    return {**found, "epoch_seconds": epoch_seconds(output), "model": file_digest(run_of(output) / "model.safetensors")}


def measure_resumption(data: Path, folder: Path, *, epoch_seconds: float) -> dict[str, Any]:
    """Train, kill the process in the middle of the epoch, and resume."""
    output = folder / "killed"
    begun: list[float] = []

    def middle() -> bool:
        if not begun and output.is_dir() and list(output.glob("*/checkpoint.pt")):
            begun.append(time.monotonic())
        return bool(begun) and time.monotonic() - begun[0] > max(1.0, epoch_seconds / 3)

    watch(train_command(data, output), stop=middle)
    unfinished = not (run_of(output) / "model.safetensors").is_file()
    found = watch(train_command(data, output))
    return {**found, "unfinished": unfinished, "model": file_digest(run_of(output) / "model.safetensors")}


def drop_from_cache(dataset: Dataset, data: Path) -> None:
    """Have the system drop what its cache holds of the files, so that they are read from the disk again."""
    import mmap

    assert isinstance(dataset.train.inputs, StoredSequences)
    for piece in dataset.train.inputs._storage.pieces:
        piece._map.madvise(mmap.MADV_DONTNEED)  # type: ignore[attr-defined]
    for path in data.glob("X_*.npy"):
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


@reproducible_threads()
def time_steps(data: Path) -> dict[str, Any]:
    """Time an epoch from the files and as many steps from memory, which take turns: the machine is equally busy."""
    start = time.monotonic()
    stored = load_dataset(str(data))
    loaded = time.monotonic() - start
    count = min(len(stored.train), IN_MEMORY // ROW)
    few = stored.train.subset(torch.arange(count)).in_memory()
    memory = replace(stored, train=few)
    drop_from_cache(stored, data)
    trainers = {
        name: Trainer(build_model(settings(data), one), one, settings(data))
        for name, one in (("files", stored), ("memory", memory))
    }
    splits = {name: trainer.to_device(trainer.dataset.train) for name, trainer in trainers.items()}

    def parts(name: str) -> Any:
        while True:
            yield from trainers[name].batches(len(splits[name]))

    streams = {name: parts(name) for name in trainers}
    seconds, processor = dict.fromkeys(trainers, 0.0), dict.fromkeys(trainers, 0.0)
    steps = -(-len(stored.train) // settings(data).batch_size)
    for first in range(0, steps, TURN):
        for name in sorted(trainers, reverse=first // TURN % 2 == 1):
            wall, used = time.monotonic(), time.process_time()
            for _ in range(min(TURN, steps - first)):
                trainers[name].take_step(splits[name], next(streams[name]))
            seconds[name] += time.monotonic() - wall
            processor[name] += time.process_time() - used
    return {"load_seconds": loaded, "steps": steps, "seconds": seconds, "processor_seconds": processor}


def measure_time(folder: Path) -> dict[str, Any]:
    """Time an epoch and as many steps from memory in a process of their own."""
    command = [sys.executable, "-m", "benchmarks.large_data", str(folder), "--phase", "time"]
    found = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[-1]
    return dict(json.loads(found))


def train_rank(data: Path, folder: Path) -> None:
    """Train as one process of several, and write how often each training sequence was read in the epoch."""
    read, counts = StoredSequences.__getitem__, dict[int, np.ndarray]()

    def noting(self: StoredSequences, rows: Any) -> torch.Tensor:
        if isinstance(rows, torch.Tensor):
            np.add.at(counts.setdefault(id(self), np.zeros(len(self), dtype=np.int64)), rows.numpy().reshape(-1), 1)
        return read(self, rows)

    StoredSequences.__getitem__ = noting  # type: ignore[method-assign]
    context = RunContext(output=folder / "ranks", resume=True)
    config = settings(data)
    train_run(config, context)
    np.save(folder / f"rows-{os.environ['RANK']}.npy", counts[id(context.read_data(config).train.inputs)])


def measure_ranks(data: Path, folder: Path) -> dict[str, Any]:
    """Train with two processes."""
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "benchmarks.large_data"]
    watch([sys.executable, *launch, str(folder), "--phase", "rank"])
    counts = np.stack([np.load(folder / f"rows-{rank}.npy") for rank in range(2)])
    return {
        "each_once": bool((counts.sum(axis=0) == 1).all()),
        "rows": counts.sum(axis=1).tolist(),
        "epoch_seconds": epoch_seconds(folder / "ranks"),
    }


def page(found: dict[str, Any]) -> str:
    """Return the text of the page."""
    whole, timed, resumed, ranks = (found[name] for name in ("whole", "time", "resumed", "ranks"))
    ratio = timed["seconds"]["files"] / timed["seconds"]["memory"]
    processor = timed["processor_seconds"]["files"] / timed["processor_seconds"]["memory"]
    same = resumed["model"] == whole["model"] and resumed["unfinished"]
    rows = [
        (
            "training data",
            f"{found['gib']:.3g} GiB, {found['count']:,} sequences of {STEPS} steps × {CHANNELS} channels",
        ),
        ("peak of anonymous memory (`RssAnon`) of the resumed training", f"{resumed['RssAnon'] / 2**30:.2f} GiB"),
        ("first pass over all values, with their digest", f"{timed['load_seconds']:.0f} s"),
        ("an epoch from the files, nothing in the cache at its start", f"{timed['seconds']['files']:.0f} s"),
        (f"as many steps ({timed['steps']:,}) from memory", f"{timed['seconds']['memory']:.0f} s"),
        ("ratio of these times", f"{ratio:.3f}"),
        ("ratio of the processor times", f"{processor:.3f}"),
        ("weights after `kill -9` and `--resume`", "the same bits" if same else "other bits"),
        (
            "two processes under `torchrun`: sequences read in the epoch",
            f"{ranks['rows'][0]:,} and {ranks['rows'][1]:,}, "
            + ("each sequence once" if ranks["each_once"] else "not each once"),
        ),
    ]
    table = "\n".join(f"| {name} | {value} |" for name, value in rows)
    paragraphs = [
        "# Data larger than memory",
        "For readers who want to know what training on [files that are read while they are used]"
        "(../tutorials/sensor_data.md#data-larger-than-memory) costs: memory, time, and whether an interrupted run "
        "ends in the same bits.",
        "| | |\n|---|---|\n" + table,
        "A pair of `.npy` files in float32, a noisy RNN with 16 units, batches of 256, one thread, on a CPU that other "
        f"programs used too. The steps from memory use {IN_MEMORY / 2**30:.2g} GiB of the same sequences over and "
        f"over; both trainings take turns of {TURN} steps in one process, so that other work slows both alike. "
        "`RssAnon` is the memory that a process cannot give back; pages of the files in the system's cache, up to "
        f"{resumed['RssFile'] / 2**30:.1f} GiB here, are dropped when memory is needed.",
        "## Repeat the measurement",
        f"```sh\npython -m benchmarks.large_data FOLDER --gib {found['gib']:g}\n```",
        "It writes the data into the folder and deletes them at the end. Measured with torch "
        f"{torch.__version__.split('+')[0]} in November 2026.",
    ]
    return "\n\n".join(paragraphs) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the data, measure, write the page, delete the data."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="A folder with room for the data.")
    parser.add_argument("--gib", type=float, default=20.0, help="Size of the training data (default: 20).")
    parser.add_argument("--page", type=Path, default=PAGE, help="Where the page is written.")
    parser.add_argument("--phase", choices=("all", "time", "rank"), default="all", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    folder, file = options.folder, options.folder / "measured.json"
    data = folder / "data"
    torch.set_num_threads(1)
    if options.phase == "rank":
        train_rank(data, folder)
        return 0
    if options.phase == "time":
        print(json.dumps(time_steps(data)))
        return 0
    folder.mkdir(parents=True, exist_ok=True)
    found: dict[str, Any] = json.loads(file.read_text()) if file.is_file() else {}
    phases: dict[str, Callable[[], dict[str, Any]]] = {
        "whole": lambda: measure_training(data, folder),
        "time": lambda: measure_time(folder),
        "resumed": lambda: measure_resumption(data, folder, epoch_seconds=found["whole"]["epoch_seconds"]),
        "ranks": lambda: measure_ranks(data, folder),
    }
    if not data.is_dir() and not phases.keys() <= found.keys():
        count = int(options.gib * 2**30) // ROW
        write_data(data, count)
        found |= {"gib": options.gib, "count": count}
    for name, measure in phases.items():
        if name not in found:
            found[name] = measure()
            write_atomically(file, json.dumps(found, indent=2).encode())
            print(f"{name}: {found[name]}", flush=True)
    shutil.rmtree(data, ignore_errors=True)
    write_atomically(options.page, page(found).encode())
    print(f"Written: {options.page}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
