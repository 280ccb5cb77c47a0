"""Flips random bits and bytes in the files of run folders: each must be detected, or change no table.

    python -m benchmarks.flips --output runs/flips --flips 500 --seed 0

Two models with two seeds each are trained, evaluated and analysed on a small data set, and a sweep of two trials is
made. Then one bit, or one byte, of one file is changed at a time: `config.json`, `summary.json`, `metrics.csv`,
`robustness.json` and `analysis.json` of the runs, the tables of the report, and `sweep.json`. After each, the tables
are rebuilt by `noisyrnn report` and by the same `noisyrnn compare`. Both must be those of the undamaged folder, or name
the run that is damaged. `flips.json` in the output folder counts the outcomes by file. The exit status is 1 if a table
changed without an error.
"""

import argparse
import json
import random
import shutil
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from noisyrnn.analysis.diagnostics import AnalysisSettings
from noisyrnn.pipeline import (
    AnalyzeConfig,
    CompareConfig,
    EvaluateConfig,
    RunContext,
    SweepConfig,
    analyze_run,
    compare,
    sweep,
)
from noisyrnn.report import split_readable, write_report
from noisyrnn.run_folder import RunFolder

RUN_FILES = ("config.json", "summary.json", "metrics.csv", "robustness.json", "analysis.json")
TABLES = ("table.md", "analysis.md", "comparison.json")
TRAIN: dict[str, Any] = {"hidden_size": 4, "epochs": 3, "batch_size": 16, "learning_rate": 0.02}
EVALUATION = EvaluateConfig(strengths={"white_noise": [0.5], "fgsm": [0.1]}, draws=2, attack_draws=2)
ANALYSIS = AnalyzeConfig(
    diagnostics=["margins"], settings=AnalysisSettings(test_sequences=20, curvature_sequences=20, smoothing_draws=50)
)


def two_frequencies() -> dict[str, np.ndarray]:
    """Return the arrays of a small data set of two frequencies, with a test part."""
    rng, t = np.random.default_rng(0), np.arange(12)

    def part(n: int) -> tuple[np.ndarray, np.ndarray]:
        y = np.arange(n) % 2
        return np.sin((1 + 0.8 * y)[:, None] * t / 2 + rng.random((n, 1))) + rng.normal(0, 0.1, (n, 12)), y

    (X, y), (X_test, y_test) = part(60), part(40)
    return {"X": X, "y": y, "X_test": X_test, "y_test": y_test}


def comparison(data: Path) -> CompareConfig:
    """Settings of the comparison whose folder is damaged."""
    return CompareConfig(models=["lstm", "gru"], seeds=2, train={"dataset": str(data), **TRAIN}, evaluation=EVALUATION)


def make_folder(folder: Path) -> Path:
    """Create a complete output folder, and return the path of its data set."""
    data = folder.parent / "two.npz"
    np.savez(data, **two_frequencies())  # type: ignore[arg-type]
    compare(comparison(data), RunContext(output=folder, accelerator="cpu"))
    for run in runs_of(folder):
        analyze_run(RunFolder(run), ANALYSIS)
    write_report(runs_of(folder), folder, title="Flips")
    train = {"dataset": str(data), **{name: value for name, value in TRAIN.items() if name != "learning_rate"}}
    sweep(SweepConfig(model="lstm", trials=2, draws=1, train=train), RunContext(output=folder, accelerator="cpu"))
    return data


def runs_of(folder: Path) -> list[Path]:
    """Return the runs in a folder, without those of the sweep."""
    return sorted(path.parent for path in folder.glob("*/config.json") if (path.parent / "robustness.json").exists())


def tables(folder: Path) -> dict[str, str]:
    """Read the tables in a folder, without the digest at the end of one, which depends on other content."""
    tables = {name: (folder / name).read_text() for name in TABLES if (folder / name).is_file()}
    tables["comparison.json"] = json.dumps({**json.loads(tables["comparison.json"]), "sha256": None}, sort_keys=True)
    return tables


def by_report(folder: Path, runs: list[Path], data: Path) -> tuple[dict[str, str], set[str]]:
    """Return the tables of `noisyrnn report`, and the runs that it reports as damaged."""
    readable, failures = split_readable(runs)
    with tempfile.TemporaryDirectory() as output:
        write_report(readable, Path(output), title="Flips", failures=failures)
        return tables(Path(output)), {path.name for path in failures}


def by_compare(folder: Path, runs: list[Path], data: Path) -> tuple[dict[str, str], set[str]]:
    """Return the tables of the same comparison, and the runs that it reports as damaged."""
    _, failures = compare(comparison(data), RunContext(output=folder, accelerator="cpu"))
    return tables(folder), {path.name for path in failures}


def damage(content: bytes, draw: random.Random) -> bytes:
    """Change one bit or one byte of the content."""
    place = draw.randrange(len(content))
    new = content[place] ^ (1 << draw.randrange(8) if draw.random() < 0.5 else draw.randrange(1, 256))
    return content[:place] + bytes([new]) + content[place + 1 :]


def campaign(output: Path, *, flips: int, seed: int, tell: Callable[[str], None] = print) -> dict[str, Counter[str]]:
    """Count for each file the flips that were detected, changed nothing, or changed a table without an error."""
    output.mkdir(parents=True, exist_ok=True)
    whole, now = output / "whole", output / "now"
    for folder in (whole, now):
        shutil.rmtree(folder, ignore_errors=True)
    draw, counts = random.Random(seed), dict[str, Counter[str]]()
    page = mock.patch("noisyrnn.report.page.build_page", return_value="")  # figures take most of the time
    with page, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        data = make_folder(whole)
        names = [run.name for run in runs_of(whole)]
        files = [f"{run}/{file}" for run in names for file in RUN_FILES]
        files += [*TABLES, *(str(path.relative_to(whole)) for path in whole.rglob("sweep.json"))]
        expected: dict[str, dict[str, str]] = {}
        for k in range(-1, flips):  # the first time nothing is damaged
            shutil.rmtree(now, ignore_errors=True)
            shutil.copytree(whole, now)
            name = files[k % len(files)]
            file = now / name
            if k >= 0:
                file.write_bytes(damage(file.read_bytes(), draw))
            for way, make in (("report", by_report), ("compare", by_compare)):
                try:
                    found, named = make(now, [now / run for run in names], data)
                except (ValueError, RuntimeError) as error:
                    found, named = {}, {Path(name).parts[0]} if Path(name).parts[0] in str(error) else set()
                if k < 0:
                    assert not named, named
                    expected[way] = found
                    continue
                end = "noticed" if Path(name).parts[0] in named else "no effect" if found == expected[way] else "SILENT"
                count = counts.setdefault(Path(name).name, Counter())
                count[f"{way}: {end}"] += 1
                if end == "SILENT":
                    tell(f"{way}: flip {k} of {name} changed a table in silence")
                    shutil.copytree(now, output / f"flip-{k}-{way}", dirs_exist_ok=True)
    return counts


def main() -> int:
    """Run the campaign; return 1 if any flip changed a table without an error."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="Folder of the runs and of flips.json.")
    parser.add_argument("--flips", type=int, default=500, help="Number of changed files (default: %(default)s).")
    parser.add_argument("--seed", type=int, default=0, help="Seed of the changes (default: %(default)s).")
    given = parser.parse_args()
    counts = campaign(given.output.resolve(), flips=given.flips, seed=given.seed)
    (given.output / "flips.json").write_text(json.dumps({"seed": given.seed, "flips": given.flips, **counts}, indent=1))
    for file, count in counts.items():
        print(f"{file}: {', '.join(f'{end} {number}' for end, number in sorted(count.items()))}")
    return 1 if any("SILENT" in end for count in counts.values() for end in count) else 0


if __name__ == "__main__":
    sys.exit(main())
