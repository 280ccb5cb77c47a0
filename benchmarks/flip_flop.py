"""Writes the flip-flop task as an `.npz` file: outputs that hold the last sign seen by each of several channels.

    python -m benchmarks.flip_flop flipflop.npz --sequences 1000 --steps 40 --probability 0.1 --seed 0
    noisyrnn train --model noisy --dataset flipflop.npz --hidden-size 64 --epochs 60

Each channel of `X` `(sequences, steps, bits)` is 0 but for rare pulses of 1 or -1, with a given probability per step.
The target of a channel is the sign of its last pulse. `mask` is false until every channel has had its first one: there
is nothing to hold before. With `--targets values`, `y` is `(sequences, steps, bits)` of 1 and -1, a regression; with
`--targets classes` it is `(sequences, steps)`, the state of all channels as one of 2^bits classes. A channel without
a pulse gets one at a random step, so that each sequence has a step that counts.

Reference:
    Sussillo, Barak, Opening the Black Box: Low-Dimensional Dynamics in High-Dimensional Recurrent Neural Networks,
    Neural Computation 2013 (the 3-bit flip-flop).
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from noisyrnn.checks import check_choice, check_integer, check_number

TARGETS = ("classes", "values")


def flip_flop(
    *,
    sequences: int = 1000,
    steps: int = 40,
    bits: int = 3,
    probability: float = 0.1,
    targets: str = "values",
    seed: int = 0,
) -> dict[str, np.ndarray]:
    """Return the arrays `X`, `y` and `mask` of the task.

    Args:
        sequences: Number of sequences, at least 1.
        steps: Steps of each, at least 1.
        bits: Channels, 1 to 10.
        probability: Probability of a pulse per step and channel, in (0, 1].
        targets: "values" for one target of 1 or -1 for each channel, or "classes" for the state of all channels.
        seed: Seed of the draws, at least 0.

    Raises:
        TypeError: If a number has the wrong type.
        ValueError: If a number is out of range.
    """
    check_integer("sequences", sequences, minimum=1)
    check_integer("steps", steps, minimum=1)
    check_integer("bits", bits, minimum=1, maximum=10)
    check_number("probability", probability, above=0.0)
    check_number("probability", probability, maximum=1.0)
    check_choice("targets", targets, TARGETS)
    check_integer("seed", seed, minimum=0)
    rng = np.random.default_rng(seed)
    shape = (sequences, steps, bits)
    pulses = np.where(rng.random(shape) < probability, rng.choice((-1, 1), shape), 0)
    silent = ~pulses.any(axis=1)
    rows, channels = np.nonzero(silent)
    pulses[rows, rng.integers(steps, size=len(rows)), channels] = rng.choice((-1, 1), len(rows))
    last = np.maximum.accumulate(np.where(pulses != 0, np.arange(steps)[:, None], -1), axis=1)
    state = np.take_along_axis(pulses, np.maximum(last, 0), axis=1)
    mask = (last >= 0).all(axis=2)
    if targets == "classes":
        return {"X": pulses.astype(np.float32), "y": (state > 0) @ (1 << np.arange(bits)), "mask": mask}
    return {"X": pulses.astype(np.float32), "y": state.astype(np.float32), "mask": mask}


def main(argv: Sequence[str] | None = None) -> int:
    """Write the file, and print what it holds."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.flip_flop", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("file", type=Path, help="File to write, ending in .npz.")
    parser.add_argument("--sequences", type=int, default=1000, help="Number of sequences (default: %(default)s).")
    parser.add_argument("--steps", type=int, default=40, help="Steps of each sequence (default: %(default)s).")
    parser.add_argument("--bits", type=int, default=3, help="Number of channels, 1 to 10 (default: %(default)s).")
    parser.add_argument(
        "--probability", type=float, default=0.1, help="Probability of a pulse per step (default: %(default)s)."
    )
    parser.add_argument("--targets", choices=TARGETS, default="values", help="Form of y (default: %(default)s).")
    parser.add_argument("--seed", type=int, default=0, help="Seed of the draws (default: %(default)s).")
    arguments = vars(parser.parse_args(argv))
    file = arguments.pop("file")
    try:
        if file.suffix != ".npz":
            raise ValueError(f"file must end in .npz, got {str(file)!r}.")
        arrays = flip_flop(**arguments)
    except (TypeError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    np.savez(file, **arrays)
    counted = int(arrays["mask"].sum())
    print(
        f"Written: {file}: X {arrays['X'].shape}, y {arrays['y'].shape}, {counted} of {arrays['mask'].size} steps count"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
