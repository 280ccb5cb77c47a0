"""The transfer matrix: which training makes a model robust to what, trained with × tested with, on MNIST.

    python -m benchmarks.transfer search --output runs/transfer --workers 2
    python -m benchmarks.transfer run --output runs/transfer --workers 2
    python -m benchmarks.transfer table --output runs/transfer --page docs/results/transfer-matrix.md

`search` chooses the learning rate of each model, and the level of each regulariser that has one to choose, on
validation data and with seeds that `run` does not use; it writes them to `chosen.toml`. `run` trains every row of the
matrix with every model and seed, seed by seed, and measures it on the test data: under noise, under attacks, and by
margins and the dynamics of its state. `table` writes the page of the seeds that are complete. Each stage continues
after an interruption with the same command, and SIGTERM stops it after a checkpoint.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.transfer.page import gather, page
from benchmarks.transfer.plan import CHOSEN, MODELS, ROWS, SMNIST, Plan, read_chosen
from benchmarks.transfer.search import search
from benchmarks.transfer.trainings import run, trainings
from noisyrnn.files import write_atomically
from noisyrnn.interruption import interruptible, signal_of


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.transfer", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("stage", choices=("search", "run", "table"), help="What to do.")
    parser.add_argument("--output", type=Path, default=Path("runs/transfer"), help="Folder (default: %(default)s).")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS), help="Default: all.")
    parser.add_argument("--rows", nargs="+", choices=list(ROWS), default=list(ROWS), help="Default: all.")
    parser.add_argument("--seeds", type=int, default=10, help="Trainings of each cell (default: %(default)s).")
    parser.add_argument("--workers", type=int, default=1, help="Processes at the same time (default: %(default)s).")
    parser.add_argument("--chosen", type=Path, default=CHOSEN, help="File of `search` (default: chosen.toml here).")
    parser.add_argument("--page", type=Path, help="File of `table` (default: transfer-matrix.md in the output folder).")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None, plan: Plan = SMNIST) -> int:
    """Do one stage."""
    words = parse(argv)
    output = words.output.resolve()
    output.mkdir(parents=True, exist_ok=True)
    try:
        with interruptible():
            if words.stage == "search":
                search(plan, words.models, words.rows, output=output, file=words.chosen, workers=words.workers)
                print(words.chosen.read_text(encoding="utf-8"))
                return 0
            each = trainings(
                plan,
                read_chosen(words.chosen),
                models=words.models,
                rows=words.rows,
                seeds=words.seeds,
                output=output,
            )
            if words.stage == "run":
                return 1 if run(each, workers=words.workers) else 0
            text = page(plan, read_chosen(words.chosen), [gather(each, model) for model in words.models])
            write_atomically(words.page or output / "transfer-matrix.md", text.encode())
            print(text)
            return 0
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt as error:
        print("Stopped; the same command continues.", file=sys.stderr)
        return 128 + signal_of(error)


if __name__ == "__main__":
    sys.exit(main())
