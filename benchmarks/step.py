"""Measures the speed of a training step, compared with a lower bound and with other libraries.

`python -m benchmarks.step` measures our kernels, the plain loop, torch's networks, a compiled step, JAX and torchsde
in turns, at several sizes, and whole epochs, streamed steps and peak memory; it writes `step.json` and `step.html`.
Without options this takes about an hour; `--extent main` about ten minutes. Ctrl-C keeps what is measured, and
`--resume` continues from there. `--before src` takes another version of this library into the same rounds.
"""

import argparse
import json
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

from benchmarks.speed.cases import MODES, Case, Size, sizes
from benchmarks.speed.machine import describe_machine, shown_command
from benchmarks.speed.networks import NETWORKS
from benchmarks.speed.page import build_page, write_documentation
from benchmarks.speed.peers import CONTESTANTS
from benchmarks.speed.rates import RATES
from benchmarks.speed.rounds import SETUP_SECONDS, Worker, WorkerError, measure_case, measure_memory
from benchmarks.speed.tables import Document, figure, title_of
from noisyrnn.files import read_json, write_atomically, write_json

PARTS = ("cases", "memory", "stream", "epochs")
START_WEIGHT = 1.5  # of a process


@dataclass(frozen=True, kw_only=True)
class StepConfig:
    """What to measure.

    Args:
        size: The main size.
        extent: "main", "growth" or "full"; see `sizes`.
        models: Keys of `NETWORKS`.
        modes: Of `MODES`.
        threads: Numbers of threads; sizes other than the main one are measured with the first only.
        device: "cpu" or "cuda".
        contestants: Keys of `CONTESTANTS`; those that do not run on the device are left out.
        before: The `src` folder of another version of this library, for the contestants named after it.
        parts: Of `PARTS`.
        rounds: Timed turns of each contestant in a case, at least 1.
        budget: Seconds that a contestant may take for a case, above 0.
        epoch_sequences: Sequences of an epoch.
        epoch_kernel: Kernel of the epochs.
        epoch_repeats: Epochs.
    """

    size: Size
    extent: str
    models: tuple[str, ...]
    modes: tuple[str, ...]
    threads: tuple[int, ...]
    device: str
    contestants: tuple[str, ...]
    before: Path | None
    parts: tuple[str, ...]
    rounds: int
    budget: float
    epoch_sequences: int
    epoch_kernel: str
    epoch_repeats: int

    def able(self, case: Case) -> list[str]:
        """Who takes part in a case."""
        known = [(name, CONTESTANTS[name]) for name in self.contestants]
        fit = [(name, one) for name, one in known if self.device in one.devices and case.mode in one.modes]
        main = case.mode == "stream" or case.size == self.main_size(case.model)
        return [name for name, one in fit if case.model in (one.models if main else one.growth)]

    def main_size(self, model: str) -> Size:
        """The main size of a model, which may have more units than the others."""
        return replace(self.size, hidden=NETWORKS[model].width * self.size.hidden)

    def cases(self, threads: int) -> list[Case]:
        """Those of one number of threads."""
        if "cases" not in self.parts:
            return []
        extent = self.extent if threads == self.threads[0] else "main"  # other sizes with one number of threads only
        everything = [
            Case(size=size, mode=mode, threads=threads, model=model)
            for model in self.models
            for size in sizes(self.main_size(model), extent)
            for mode in self.modes
        ]
        return [case for case in everything if self.able(case)]

    def streams(self, threads: int) -> list[Case]:
        """The streamed steps, with the smallest number of threads only: they have no work for more."""
        if "stream" not in self.parts or threads != min(self.threads):
            return []
        size = Size(steps=1, batch=1, hidden=self.size.hidden)
        return [Case(size=size, mode="stream", threads=threads, model=model) for model in self.models]

    def worker(self, name: str, threads: int) -> Worker:
        """The process of a contestant or a rate."""
        source = self.before if name.startswith("before") else None
        return Worker(name, threads, self.device, source=source)


class Meter:
    """Progress with an estimate of the time left, and a line for all that is done.

    Args:
        total: Work in all, in weights of cases.
    """

    def __init__(self, total: float) -> None:
        self.console = Console(stderr=True, highlight=False)
        self.total, self.done, self.start = total, 0.0, time.monotonic()
        columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
        self.bar = Progress(*columns, console=self.console, refresh_per_second=1, disable=not self.console.is_terminal)
        self.task = self.bar.add_task("", total=total)

    def advance(self, weight: float) -> None:
        """So much more is done."""
        self.done += weight
        self.bar.update(self.task, completed=self.done, description=f"ETA {self.left()}")

    def left(self) -> str:
        """The time left, at the pace so far."""
        if self.done <= 0:
            return "unknown"
        seconds = (time.monotonic() - self.start) * max(self.total - self.done, 0.0) / self.done
        return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"

    def say(self, text: str) -> None:
        """A line above the bar."""
        self.console.print(f"{text}  [dim](ETA {self.left()})[/dim]", soft_wrap=True)


def new_document(config: StepConfig, command: str) -> Document:
    """A document without results."""
    names = [name for name in config.contestants if config.device in CONTESTANTS[name].devices]
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "command": command,
        "complete": False,
        "machine": describe_machine(config.device),
        "settings": json.loads(json.dumps(asdict(config), default=lambda path: path.name)),
        "main": asdict(config.size),
        "contestants": {name: CONTESTANTS[name].title for name in names},
        "ours": [name for name in names if name in ("cpp", "triton", "eager", "reference")],
        "cases": [],
        "memory": [],
        "stream": [],
        "epochs": [],
    }


def resumed_document(config: StepConfig, command: str, path: Path) -> Document:
    """A document with the cases of an earlier one; where that is unfinished without its last, which may lack results.

    Args:
        config: The same settings as then.
        command: See `new_document`.
        path: Of the earlier document.

    Raises:
        ValueError: If there is none, or its settings are others.
    """
    if not path.is_file():
        raise ValueError(f"{path} does not exist. Leave out --resume to begin.")
    document, earlier = new_document(config, command), read_json(path)
    if earlier["settings"] != document["settings"]:
        raise ValueError(f"{path} has other settings. Give the same options as then, or leave out --resume.")
    return {**document, "cases": earlier["cases"] if earlier["complete"] else earlier["cases"][:-1]}


def measure(config: StepConfig, document: Document, meter: Meter, save: Callable[[], None]) -> None:
    """Fill a document; `save` is called after every case, and at an interruption with what was measured so far."""
    try:
        for threads in config.threads:
            _measure_turns(config, threads, document, meter, save)
            if "memory" in config.parts:
                for case in _memory_cases(config, threads):
                    _measure_memories(config, case, document, meter)
                save()
            if "epochs" in config.parts and threads == max(config.threads):
                document["epochs"].append(_measure_epochs(config, threads, meter))
                save()
        document["complete"] = True
    finally:
        save()


def _measure_turns(
    config: StepConfig, threads: int, document: Document, meter: Meter, save: Callable[[], None]
) -> None:
    """All cases of one number of threads, by workers that stay from one case to the next."""
    cases = _missing(config, threads, document)
    if not cases:
        return
    needed = [name for name in config.contestants if any(name in config.able(case) for case in cases)]
    rates = [name for name, rate in RATES.items() if config.device in rate.contestant.devices]
    workers = {name: config.worker(name, threads) for name in [*rates, *needed]}
    try:
        for worker in workers.values():
            worker.start()
        for case in cases:
            able = config.able(case)
            names = [*able, *rates] if case.mode != "stream" else able
            entry = case.describe()
            document["stream" if case.mode == "stream" else "cases"].append(entry)
            share = _weight(config, case) / ((config.rounds + 1) * max(len(names), 1))
            before = meter.done
            measure_case(
                entry,
                case,
                {name: workers[name] for name in names},
                rounds=config.rounds,
                budget=config.budget,
                ticked=partial(meter.advance, share),
            )
            meter.advance(before + _weight(config, case) - meter.done)
            meter.say(f"{case}: {_in_brief(document, entry)}")
            save()
    finally:
        for worker in workers.values():
            worker.stop()


def _missing(config: StepConfig, threads: int, document: Document) -> list[Case]:
    """Cases and streamed steps of one number of threads that a document lacks."""
    known = [entry.items() for entry in [*document["cases"], *document["stream"]]]
    wanted = [*config.cases(threads), *config.streams(threads)]
    return [case for case in wanted if not any(case.describe().items() <= entry for entry in known)]


def _weight(config: StepConfig, case: Case) -> float:
    """Work of a case: all contestants in all rounds."""
    names = len(config.able(case))
    return names * min((config.rounds + 1) * (case.weight() + 0.1), config.budget)


def _in_brief(document: Document, entry: dict[str, Any]) -> str:
    """Medians of a case in one line."""
    unit, name = (1e-6, "µs") if entry["mode"] == "stream" else (1e-3, "ms")
    known = {title_of(document, key): result.get("median") for key, result in entry["results"].items()}
    return ", ".join(f"{key} {figure(value, unit) or 'none'}" for key, value in known.items()) + f" {name}"


def _memory_cases(config: StepConfig, threads: int) -> list[Case]:
    """The main size of the first model."""
    model = config.models[0]
    return [Case(size=config.main_size(model), mode=mode, threads=threads, model=model) for mode in config.modes]


def _measure_memories(config: StepConfig, case: Case, document: Document, meter: Meter) -> None:
    entry = {**case.describe(), "results": {}}
    document["memory"].append(entry)
    for name in config.able(case):
        entry["results"][name] = measure_memory(config.worker(name, case.threads), case, budget=config.budget)
        meter.advance(START_WEIGHT + case.weight())
    peaks = [f"{title_of(document, name)} {r['mib']:.0f}" for name, r in entry["results"].items() if "mib" in r]
    meter.say(f"{case}, peak memory: {', '.join(peaks)} MiB")


def _measure_epochs(config: StepConfig, threads: int, meter: Meter) -> dict[str, Any]:
    worker = Worker("reference", threads)  # any contestant does: the kernel is chosen there
    settings = {
        "kernel": config.epoch_kernel,
        "sequences": config.epoch_sequences,
        "batch": config.size.batch,
        "hidden": config.size.hidden,
        "repeats": config.epoch_repeats,
    }
    try:
        found = worker.ask("epoch", limit=SETUP_SECONDS + config.epoch_sequences * config.epoch_repeats, **settings)
        meter.say(f"Epochs: {found['ratio']:.3f} of steps × step")
        return {"threads": threads, **found}
    except WorkerError as error:
        meter.say(f"Epochs: {error}")
        return {"threads": threads, **settings, "unavailable": str(error)}
    finally:
        worker.stop()
        meter.advance(_epoch_weight(config))


def _epoch_weight(config: StepConfig) -> float:
    """Work of the epochs, of 784 steps whatever the main size."""
    case = Case(size=replace(config.size, steps=784), mode="training", threads=max(config.threads))
    return 10 + config.epoch_repeats * config.epoch_sequences / config.size.batch * case.weight()


def total_weight(config: StepConfig, document: Document) -> float:
    """All there is to do, without the cases that a document has."""
    total = _epoch_weight(config) if "epochs" in config.parts else 0.0
    for threads in config.threads:
        total += sum(_weight(config, case) for case in _missing(config, threads, document))
        if "memory" in config.parts:
            for case in _memory_cases(config, threads):
                total += len(config.able(case)) * (START_WEIGHT + case.weight())
    return total


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.step", description=__doc__)
    main = Size()
    add = parser.add_argument
    add(
        "--output",
        type=Path,
        default=Path("runs/step"),
        help="Folder of step.json and step.html (default: %(default)s).",
    )
    add("--docs", type=Path, help="Write the tables into this Markdown file, such as docs/performance.md.")
    add("--from", type=Path, dest="source", metavar="JSON", help="Measure nothing; write the page from this step.json.")
    add("--resume", action="store_true", help="Continue the step.json of an unfinished run with the same options.")
    add(
        "--extent",
        choices=("main", "growth", "full"),
        default="growth",
        help="Sizes: the main one, one axis at a time, or all.",
    )
    add("--full", action="store_const", const="full", dest="extent", help="Short for --extent full.")
    add("--steps", type=positive, default=main.steps, help="Steps of the main size (default: %(default)s).")
    add("--batch", type=positive, default=main.batch, help="Sequences of the main size (default: %(default)s).")
    add("--hidden", type=positive, default=main.hidden, help="Units of the main size (default: %(default)s).")
    add(
        "--models",
        nargs="+",
        choices=list(NETWORKS),
        default=["noisy"],
        metavar="NAME",
        help=f"Models to measure, of {', '.join(NETWORKS)} (default: noisy).",
    )
    add("--modes", nargs="+", choices=MODES, default=list(MODES), help="Modes to measure (default: all).")
    add(
        "--threads",
        nargs="+",
        type=positive,
        default=[2, 1],
        help="Threads on a CPU; all sizes with the first only (default: 2 1).",
    )
    add("--device", choices=("cpu", "cuda"), default="cpu", help="Device (default: %(default)s).")
    everyone = list(CONTESTANTS)
    add(
        "--contestants",
        nargs="+",
        choices=everyone,
        default=everyone,
        metavar="NAME",
        help=f"Layers and kernels to measure (default: {', '.join(everyone)}).",
    )
    add("--before", type=Path, help="The src folder of another version of this library, measured as well.")
    add("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="What to measure (default: all).")
    add("--rounds", type=positive, default=7, help="Timed turns of each contestant in a case (default: %(default)s).")
    add("--budget", type=float, default=30.0, help="Seconds for each contestant and case (default: %(default)s).")
    add("--epoch-sequences", type=positive, default=12800, help="Sequences of an epoch (default: %(default)s).")
    add("--epoch-kernel", default="auto", help="Kernel of the epochs (default: %(default)s).")
    add("--epoch-repeats", type=positive, default=2, help="Epochs to time (default: %(default)s).")
    words = parser.parse_args(arguments)
    if words.before is not None and not (words.before / "noisyrnn" / "__init__.py").is_file():
        parser.error(f"before must be a src folder with noisyrnn in it, got {words.before.name}.")
    if not words.budget > 0:
        parser.error(f"budget must be greater than 0, got {words.budget:g}.")
    return words


def positive(text: str) -> int:
    """An integer of at least 1."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {value}")
    return value


def configure(words: argparse.Namespace) -> StepConfig:
    """The settings that the command line asks for. A GPU has no number of threads."""
    return StepConfig(
        size=Size(steps=words.steps, batch=words.batch, hidden=words.hidden),
        extent=words.extent,
        models=tuple(dict.fromkeys(words.models)),
        modes=tuple(words.modes),
        threads=tuple(dict.fromkeys(words.threads)) if words.device == "cpu" else (1,),
        device=words.device,
        contestants=tuple(name for name in CONTESTANTS if name in words.contestants and _wanted(name, words)),
        before=None if words.before is None else words.before.resolve(),
        parts=tuple(part for part in words.parts if part != "epochs" or words.device == "cpu"),
        rounds=words.rounds,
        budget=words.budget,
        epoch_sequences=words.epoch_sequences,
        epoch_kernel=words.epoch_kernel,
        epoch_repeats=words.epoch_repeats,
    )


def _wanted(name: str, words: argparse.Namespace) -> bool:
    """Whether a contestant is there; the versions before only where one is named."""
    return words.before is not None or not name.startswith("before")


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and write; the exit code, 130 after Ctrl-C."""
    arguments = sys.argv[1:] if arguments is None else arguments
    words = parse(arguments)
    words.output.mkdir(parents=True, exist_ok=True)
    code = 0
    if words.source is not None:
        document = read_json(words.source)
    else:
        config = configure(words)
        command = shown_command([word for word in arguments if word != "--resume"])
        try:
            document = (
                resumed_document(config, command, words.output / "step.json")
                if words.resume
                else new_document(config, command)
            )
        except ValueError as error:
            print(error, file=sys.stderr)
            return 2
        meter = Meter(total_weight(config, document))
        signal.signal(signal.SIGTERM, _interrupt)
        try:
            with meter.bar:
                measure(config, document, meter, lambda: write_json(words.output / "step.json", document))
        except KeyboardInterrupt:
            print("Stopped; what was measured is kept.", file=sys.stderr)
            code = 130
    write_atomically(words.output / "step.html", build_page(document).encode())
    if words.docs is not None:
        write_documentation(words.docs, document)
    print(words.output / "step.html")
    return code


if __name__ == "__main__":
    sys.exit(main())
