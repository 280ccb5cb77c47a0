"""Kills, interruptions and full disks at random moments: a rerun of the same command must give the same results.

    python -m benchmarks.faults --output runs/faults --kills 100 --terms 20 --full 10 --seed 0

Every command is first run once without a fault. Then it is started repeatedly in a copy of its initial folder, and
ended at a random moment: by `kill -9`, by SIGTERM, or by a limit on the size of files, which is what a full disk
looks like. After a fault no process may be left after ten seconds; then the same command is run to its end, and its
results must be those of the run without a fault: the same bytes for weights and results, all trials of a sweep, and no
partly written file. One line is printed for each fault, and `faults.json` in the output folder counts them.
Linux only.
"""

import argparse
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

TRAIN = ["--hidden-size", "8", "--epochs", "6", "--batch-size", "16", "--accelerator", "cpu"]
EVALUATE = ["--strengths", "{white_noise: [0.5], fgsm: [0.1]}", "--draws", "2"]
TIMES = {"seconds", "epoch_seconds", "metrics_sha256", "sha256", "environment"}


def commands(data: Path) -> dict[str, list[str]]:
    """Arguments of `noisyrnn` for each command; `{runs}` stands for the folders of finished runs."""
    quick = ["--checkpoint-seconds", "0"]
    source = ["--dataset", str(data)]
    return {
        "train": ["train", *source, *TRAIN, *quick, "--resume"],
        "train-seeds": ["train", *source, *TRAIN, *quick, "--seeds", "2", "--resume"],
        "train-together": ["train", *source, *TRAIN, *quick, "--seeds", "2", "--batch-seeds", "--resume"],
        "compare": ["compare", "--models", "noisy,lstm", "--seeds", "2", "--workers", "2", *source, *TRAIN, *EVALUATE],
        "sweep": ["sweep", "--trials", "3", "--draws", "1", *source, *TRAIN],
        "evaluate": ["evaluate", "{runs}", *EVALUATE],
        "analyze": ["analyze", "{runs}", "--diagnostics", "margins"],
        "report": ["report", "{runs}"],
    }


def call(words: list[str], folder: Path) -> list[str]:
    """Return the command line for a folder, which contains the runs and receives the output."""
    runs = sorted(str(path.parent) for path in folder.glob("waves-*/config.json"))
    words = [part for word in words for part in (runs if word == "{runs}" else [word])]
    if words[0] not in ("evaluate", "analyze"):
        words += ["--output", str(folder)]
    return [sys.executable, "-m", "noisyrnn", *words]


def start(words: list[str], folder: Path, limit: int | None = None) -> "subprocess.Popen[str]":
    """Start the command in a new session, whose processes can be counted afterwards."""

    def prepare() -> None:
        if limit is not None:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1", "FAULTS_FOLDER": str(folder)}
    return subprocess.Popen(
        call(words, folder),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        preexec_fn=prepare,
        start_new_session=True,
    )


def left_over(folder: Path) -> list[int]:
    """Return the processes that a command in this folder has started, found by an environment variable."""
    mark, found = f"FAULTS_FOLDER={folder}\0".encode(), []
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            state = (path.parent / "stat").read_text().rpartition(")")[2].split()[0]
            if state != "Z" and mark in path.read_bytes():
                found.append(int(path.parent.name))
        except OSError:
            continue
    return found


def without_times(content: Any) -> Any:
    """Remove values that differ from run to run from JSON content."""
    if isinstance(content, dict):
        return {key: without_times(value) for key, value in content.items() if key not in TIMES}
    return [without_times(entry) for entry in content] if isinstance(content, list) else content


def results(folder: Path) -> dict[str, Any]:
    """Return what must not depend on a fault: weights and metrics of every run, and the trials of sweeps."""
    found: dict[str, Any] = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.suffix == ".safetensors":
            found[name] = path.read_bytes()
        elif path.name in ("summary.json", "robustness.json", "analysis.json"):
            found[name] = without_times(json.loads(path.read_text()))
        elif path.name == "metrics.csv":
            found[name] = [line.rsplit(",", 1)[0] for line in path.read_text().splitlines()]
        elif path.name == "sweep.json":
            trials = json.loads(path.read_text())["trials"]
            found[name] = [(trial["values"], trial["score"]) for trial in trials]  # numbers have gaps
        elif path.name in ("table.md", "report.html", "best.yaml", "sweep.html"):
            found[name] = path.stat().st_size > 0
    return found


def differences(folder: Path, expected: dict[str, Any]) -> list[str]:
    """Return the differences from the run without a fault after a rerun."""
    found = results(folder)
    wrong = [name for name in sorted({*found, *expected}) if found.get(name) != expected.get(name)]
    stale = [path.name for path in folder.rglob("*") if ".part" in path.name or path.suffix == ".tmp"]
    return [*(f"differs: {name}" for name in wrong), *(f"stale: {name}" for name in stale)]


def one_fault(
    kind: str, words: list[str], base: Path, folder: Path, expected: dict[str, Any], seconds: float, draw: random.Random
) -> list[str]:
    """Start a command, disturb it, rerun it, and return the differences."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(base, folder)
    wrong = []
    process = start(words, folder, limit=draw.choice([0, 512, 2048, 8192]) if kind == "full" else None)
    if kind == "full":
        _, shown = process.communicate(timeout=600)
        if process.returncode not in (0, 1, 2) or "Traceback" in shown:
            wrong.append(f"full disk: status {process.returncode}: {shown[-300:]}")
    else:
        time.sleep(draw.uniform(0, seconds))
        number = signal.SIGKILL if kind == "kill" else signal.SIGTERM
        process.send_signal(number)
        began = time.monotonic()
        _, shown = process.communicate(timeout=600)
        allowed = (0, -number) if kind == "kill" else (0, 143, -number)  # a signal before Python runs our code
        if process.returncode not in allowed or (kind == "term" and "Traceback" in shown and process.returncode == 143):
            wrong.append(f"{kind}: status {process.returncode}: {shown[-300:]}")
        while left_over(folder) and time.monotonic() - began < 10:
            time.sleep(0.1)
    wrong += [f"process left: {number}" for number in left_over(folder)]
    again = subprocess.run(call(words, folder), capture_output=True, text=True, timeout=900, check=False)
    if again.returncode != 0:
        wrong.append(f"rerun: status {again.returncode}: {again.stderr[-300:]}")
    return wrong + differences(folder, expected)


def main() -> int:
    """Run the campaign; return 1 if any fault changed a result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="Folder of the runs and of faults.json.")
    parser.add_argument("--kills", type=int, default=100, help="Number of `kill -9` (default: %(default)s).")
    parser.add_argument("--terms", type=int, default=20, help="Number of SIGTERM (default: %(default)s).")
    parser.add_argument("--full", type=int, default=10, help="Number of full disks (default: %(default)s).")
    parser.add_argument("--seed", type=int, default=0, help="Seed of the moments (default: %(default)s).")
    parser.add_argument("--at-once", type=int, default=1, help="Faults at the same time, each in its own folder.")
    given = parser.parse_args()
    output = given.output.resolve()
    output.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(0)
    labels = np.arange(120) % 2
    X = np.sin((1 + labels[:, None]) * np.linspace(0, 6.28, 10)) + 0.1 * generator.standard_normal((120, 10))
    data = output / "waves.npz"
    np.savez(data, X=X[..., None], y=np.array(["slow", "fast"])[labels])
    todo = commands(data)
    empty, runs = output / "empty", output / "runs"
    for folder in (empty, runs):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
    subprocess.run(call(todo["train-seeds"], runs), check=True)
    evaluated = output / "evaluated"
    shutil.rmtree(evaluated, ignore_errors=True)
    shutil.copytree(runs, evaluated)
    subprocess.run(call(todo["evaluate"], evaluated), check=True)
    bases = {"evaluate": runs, "analyze": runs, "report": evaluated}
    whole: dict[str, tuple[dict[str, Any], float]] = {}
    for name, words in todo.items():
        folder = output / "now"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(bases.get(name, empty), folder)
        began = time.monotonic()
        subprocess.run(call(words, folder), check=True, capture_output=True)
        whole[name] = results(folder), time.monotonic() - began
        print(f"{name}: {whole[name][1]:.1f} s without a fault", flush=True)
    draw = random.Random(given.seed)
    kinds = ["kill"] * given.kills + ["term"] * given.terms + ["full"] * given.full
    draw.shuffle(kinds)
    names = [list(todo)[k % len(todo)] for k in range(len(kinds))]
    draws = [random.Random(draw.random()) for _ in kinds]
    counts: dict[str, dict[str, int]] = {}
    failed = 0

    def disturb(k: int) -> list[str]:
        expected, seconds = whole[names[k]]
        base = bases.get(names[k], empty)
        folder = output / f"fault-{k + 1}"
        wrong = one_fault(kinds[k], todo[names[k]], base, folder, expected, seconds, draws[k])
        if not wrong:
            shutil.rmtree(folder)
        return wrong

    with ThreadPoolExecutor(given.at_once) as pool:
        for k, wrong in enumerate(pool.map(disturb, range(len(kinds)))):
            failed += bool(wrong)
            count = counts.setdefault(kinds[k], {})
            count[names[k]] = count.get(names[k], 0) + 1
            print(f"{k + 1}/{len(kinds)} {kinds[k]} {names[k]}: {'; '.join(wrong) or 'ok'}", flush=True)
            (output / "faults.json").write_text(json.dumps({"seed": given.seed, "failed": failed, **counts}, indent=1))
    print(f"{failed} of {len(kinds)} left something wrong: {counts}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
