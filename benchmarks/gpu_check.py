"""Checks and times the GPU kernel on this machine, in under eight minutes.

`scripts/gpu_check.sh` runs the tests marked `gpu`, times a training step of every model next to the plain loop, cuDNN
and JAX, compares ten training steps with the CPU kernel, and trains a row of the published table for two epochs. It
writes `gpu_check.json` after every part, and `gpu_check.md` from it. Ctrl-C keeps what is measured; the same command
then continues from there.
"""

import argparse
import contextlib
import importlib.util
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from benchmarks.speed.cases import PRODUCTS, Case, Size
from benchmarks.speed.kinds import KIND_CONTESTANTS, MODELS, takes_part
from benchmarks.speed.machine import describe_machine, without_paths
from benchmarks.speed.rounds import ROOT, Worker, WorkerError, measure_case
from noisyrnn.files import read_json, write_atomically, write_json

Document = dict[str, Any]
LIMITS = {"tests": 190.0, "speed": 170.0, "steps": 50.0, "training": 60.0}
"""Seconds of each part, in their order; together less than eight minutes."""
TURN_BUDGET = 2.0
"""Seconds that a contestant may take in a case."""
SETUP_LIMIT = 30.0
"""Seconds that its preparation may take, once it is compiled."""
_WORDS = "PASSED|FAILED|ERROR|SKIPPED"
RESULT = re.compile(
    rf"^\[gw\d+\] \[ *\d+%\] ({_WORDS}) (tests/.+?) *$|^(tests/.+?) ({_WORDS})(?: \(.*)?(?: +\[ *\d+%\])?$",
    re.MULTILINE,
)
"""A result of pytest: with xdist the word comes first."""


@dataclass(frozen=True, kw_only=True)
class CheckConfig:
    """What to check.

    Args:
        device: "cuda", or "cpu", which tries the check itself with the CPU kernel.
        size: Of the timed steps.
        products: Of `PRODUCTS`.
        replicas: Numbers of networks side by side.
        models: Keys of `MODELS`.
        rounds: Timed turns of each contestant in a case, at least 1.
        count: Training steps that are compared with the CPU.
        tests: Arguments of pytest.
        experiment: Published experiment of the row.
        dataset: Data set of the row, or `None` for the experiment's.
        epochs: Epochs of the row.
        limits: Seconds of each part; a part that is not named is left out.
    """

    device: str
    size: Size
    products: tuple[str, ...]
    replicas: tuple[int, ...]
    models: tuple[str, ...]
    rounds: int
    count: int
    tests: tuple[str, ...]
    experiment: str
    dataset: str | None
    epochs: int
    limits: dict[str, float]

    def cases(self) -> list[Case]:
        """The cases of the table of speeds."""
        pairs = [(product, replicas) for replicas in self.replicas for product in self.products]
        return [Case(size=self.size, mode="training", threads=1, product=p, replicas=r) for p, r in pairs]

    def contestants(self) -> list[str]:
        """Names of all that are timed."""
        return [n for n in KIND_CONTESTANTS if n.startswith("peer-") or n.removeprefix("model-") in self.models]


def new_document(config: CheckConfig, command: str) -> Document:
    """A document without results."""
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "command": command,
        "complete": False,
        "machine": describe_machine(config.device),
        "settings": json.loads(json.dumps(asdict(config))),
        "parts": {name: {"status": "not run", "seconds": 0.0} for name in config.limits},
    }


def resumed_document(new: Document, path: Path) -> Document:
    """A document with the results of an earlier, interrupted run; `new` where there is none.

    Raises:
        ValueError: If the earlier one has other settings or is of another machine.
    """
    if not path.is_file():
        return new
    earlier = read_json(path)
    for name in ("settings", "machine"):
        if earlier[name] != new[name]:
            raise ValueError(f"{path.name} has another {name}. Name another folder with --output, or delete it.")
    return {**new, "parts": {**new["parts"], **earlier["parts"]}}


def gpu_tests() -> list[str]:
    """The files with tests marked `gpu`: pytest would take half a minute to look through all."""
    files = sorted((ROOT / "tests").rglob("test_*.py"))
    return [str(file.relative_to(ROOT)) for file in files if "mark.gpu" in file.read_text(encoding="utf-8")]


def run_tests(config: CheckConfig, entry: Document, deadline: float, log: Path) -> None:
    """Run pytest, and count its results line by line: those of a run that is cut short count too.

    The test of speed comes after the others, which run side by side where pytest-xdist is installed.
    """
    beside = min(8, (os.cpu_count() or 1) // 2) if importlib.util.find_spec("xdist") is not None else 0
    first = ["-n", str(beside), "-p", "no:cacheprovider"] if beside > 1 else ["-p", "no:cacheprovider"]
    counts: dict[str, list[str]] = {"PASSED": [], "FAILED": [], "ERROR": [], "SKIPPED": []}
    codes = []
    try:
        with log.open("w") as output:
            for more in ([*first, "-k", "not test_speed_on_a_gpu"], ["-p", "no:xdist", "-k", "test_speed_on_a_gpu"]):
                command = [sys.executable, "-m", "pytest", "-v", "--color=no", *more, *config.tests]
                codes.append(run_until(command, deadline, output))
    finally:
        for word_first, name_last, name_first, word_last in RESULT.findall(log.read_text()):
            counts[word_first or word_last].append(name_last or name_first)
        entry.update({word.lower(): len(names) for word, names in counts.items()})
        entry["failures"] = sorted(set(counts["FAILED"] + counts["ERROR"]))
    if any(code is None for code in codes):
        raise TimeoutError("pytest took too long")
    entry["failed_to_run"] = [code for code in codes if code not in (0, 1, 5)]  # 5: nothing was collected
    if entry["failures"] or entry["failed_to_run"] or not entry["passed"]:
        raise RuntimeError("see failures, and gpu_check_tests.log")


def run_until(command: Sequence[str], deadline: float, output: Any) -> int | None:
    """Run a command; its exit code, or `None` if it was ended at the deadline. An interruption ends it too."""
    process = subprocess.Popen(command, cwd=ROOT, stdout=output, stderr=subprocess.STDOUT, start_new_session=True)
    try:
        return process.wait(timeout=max(deadline - time.monotonic(), 0.1))
    except subprocess.TimeoutExpired:
        return None
    finally:
        if process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def run_speed(config: CheckConfig, entry: Document, deadline: float, save: Callable[[], None]) -> None:
    """Time all contestants in turns, case by case."""
    cases = [case for case in config.cases() if not any(_same(case, done) for done in entry.setdefault("cases", []))]
    entry["cases"] = [done for done in entry["cases"] if done["complete"]]
    entry["titles"] = {name: KIND_CONTESTANTS[name].title for name in config.contestants()}
    needed = [n for n in config.contestants() if any(takes_part(n, case) for case in cases)]
    workers = {name: Worker(name, 1, config.device) for name in needed}
    try:
        _compile(workers, cases, deadline)
        for case in cases:
            if time.monotonic() > deadline:
                raise TimeoutError(f"{len(entry['cases'])} of {len(config.cases())} cases are measured")
            result: Document = {"product": case.product, "replicas": case.replicas, "complete": False}
            entry["cases"].append(result)
            able = {name: worker for name, worker in workers.items() if takes_part(name, case)}
            measure_case(
                result,
                case,
                able,
                rounds=config.rounds,
                budget=TURN_BUDGET,
                ticked=lambda: None,
                setup_limit=SETUP_LIMIT,
            )
            result["complete"] = True
            save()
            tell(f"speed: {case}: {_in_brief(result)}")
    finally:
        for worker in workers.values():
            worker.stop()


def _same(case: Case, done: Document) -> bool:
    """Whether a result is that of a case, and complete."""
    return bool(done["complete"]) and (case.product, case.replicas) == (done["product"], done["replicas"])


def _compile(workers: dict[str, Worker], cases: Sequence[Case], deadline: float) -> None:
    """Let every contestant run each precision once, side by side: compiling takes longer than all that is timed.

    Errors are left to the measurement, where they become results.
    """
    first = {case.product: case for case in reversed(cases)}  # replicas have the same code

    stopped = threading.Event()

    def prepare(name: str) -> None:
        for case in first.values():
            if takes_part(name, case) and not stopped.is_set():
                with contextlib.suppress(WorkerError):
                    workers[name].ask("setup", limit=max(deadline - time.monotonic(), 1.0), **case.request())
                    workers[name].ask("turn", limit=max(deadline - time.monotonic(), 1.0), seconds=0.0)

    with ThreadPoolExecutor(max(1, min(len(workers), os.cpu_count() or 1))) as pool:
        try:
            list(pool.map(prepare, workers))
        except BaseException:
            stopped.set()
            pool.shutdown(wait=False, cancel_futures=True)
            for worker in workers.values():  # else the pool would wait for their answers
                worker.stop()
            raise


def _in_brief(result: Document) -> str:
    known = {name: r["median"] for name, r in result["results"].items() if "median" in r}
    return ", ".join(f"{name.split('-', 1)[1]} {1e3 * value:.1f}" for name, value in known.items()) + " ms"


def run_steps(config: CheckConfig, entry: Document, deadline: float, save: Callable[[], None]) -> None:
    """Compare training steps with the CPU's, model by model."""
    results = entry.setdefault("results", {})
    worker = Worker("sgemm", os.cpu_count() or 1, config.device)
    try:
        for model in config.models:
            if "difference" in results.get(model, {}):
                continue
            if time.monotonic() > deadline:
                raise TimeoutError(f"{len(results)} of {len(config.models)} models are compared")
            settings = {"model": model, "device": config.device, "count": config.count, **asdict(config.size)}
            try:
                results[model] = worker.ask("agreement", limit=max(deadline - time.monotonic(), 1.0), **settings)
                tell(f"steps: {model}: difference {results[model]['difference']:.1e}")
            except WorkerError as error:
                results[model] = {"unavailable": str(error)}
                tell(f"steps: {model}: {error}")
            save()
    finally:
        worker.stop()
    failed = [model for model, result in results.items() if "difference" not in result]
    if failed:
        raise RuntimeError(f"no result for {', '.join(failed)}")


def run_training(config: CheckConfig, entry: Document, deadline: float) -> None:
    """Train the row of the published table."""
    worker = Worker("sgemm", os.cpu_count() or 1, config.device)
    settings = {"experiment": config.experiment, "epochs": config.epochs, "dataset": config.dataset}
    try:
        limit = max(deadline - time.monotonic(), 1.0)
        entry["row"] = worker.ask("row", limit=limit, accelerator=config.device, **settings)
    except WorkerError as error:
        if "is not in the data folders" in str(error):
            raise LookupError(str(error)) from None
        raise (TimeoutError if "took more than" in str(error) else RuntimeError)(str(error)) from None
    finally:
        worker.stop()


@contextlib.contextmanager
def recorded(name: str, entry: Document, limit: float, save: Callable[[], None]) -> Iterator[None]:
    """Write the status of a part, and what it says where it fails; its results stay in any case.

    A part that does not keep its limit itself is ended a little after it.
    """
    start, before = time.monotonic(), entry["seconds"]
    entry.update(status="interrupted", reason="")
    signal.signal(signal.SIGALRM, _time_is_up)
    signal.setitimer(signal.ITIMER_REAL, limit + 1.0)
    try:
        yield
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        entry["status"] = "done"
    except TimeoutError as error:
        entry.update(status="timed out", reason=str(error))
    except LookupError as error:
        entry.update(status="skipped", reason=error.args[0])
    except RuntimeError as error:
        entry.update(status="failed", reason=without_paths(str(error)))
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        entry["seconds"] = before + time.monotonic() - start
        save()
    tell(
        f"{name}: {entry['status']} after {entry['seconds']:.0f} s"
        + (f": {entry['reason']}" if entry["reason"] else "")
    )


def check(config: CheckConfig, document: Document, output: Path, save: Callable[[], None]) -> None:
    """Run the parts that are not done yet, and write after each."""
    for name, limit in config.limits.items():
        entry = document["parts"][name]
        if entry["status"] == "done":
            tell(f"{name}: done before")
            continue
        tell(f"{name}: at most {limit:.0f} s")
        deadline = time.monotonic() + limit
        with recorded(name, entry, limit, save):
            if name == "tests":
                run_tests(config, entry, deadline, output / "gpu_check_tests.log")
            elif name == "speed":
                run_speed(config, entry, deadline, save)
            elif name == "steps":
                run_steps(config, entry, deadline, save)
            else:
                run_training(config, entry, deadline)
    document["complete"] = all(entry["status"] == "done" for entry in document["parts"].values())
    save()


def page(document: Document) -> str:
    """The results as Markdown."""
    machine, parts = document["machine"], document["parts"]
    versions = ", ".join(f"{n} {machine[n]}" for n in ("python", "noisyrnn", "torch", "triton", "jax") if machine[n])
    lines = ["# GPU check", "", f"- GPU: {machine['gpu'] or 'none'}", f"- processor: {machine['processor']}"]
    lines += [f"- versions: {versions}", f"- date: {document['date']}", f"- command: `{document['command']}`", ""]
    lines += ["| part | status | seconds |", "|---|---|---:|"]
    for name, entry in parts.items():
        status = ": ".join(filter(None, (entry["status"], entry.get("reason"))))
        lines.append(f"| {name} | {status} | {entry['seconds']:.0f} |")
    lines += [""]
    if "passed" in parts.get("tests", {}):
        tests = parts["tests"]
        lines += [
            "## Tests",
            "",
            f"{tests['passed']} passed, {len(tests['failures'])} failed, {tests['skipped']} skipped.",
            "",
        ]
        lines += [f"- `{name}`" for name in tests["failures"]] + [""] * bool(tests["failures"])
    if parts.get("speed", {}).get("cases"):
        lines += _speed_lines(document)
    if "results" in parts.get("steps", {}):
        count = document["settings"]["count"]
        lines += [f"## {count} training steps, compared with the CPU kernel", ""]
        lines += ["Norm of the difference of the weights' changes over that of the change.", ""]
        lines += ["| model | difference | loss | loss on the CPU |", "|---|---:|---:|---:|"]
        for model, result in parts["steps"]["results"].items():
            shown = [result.get("unavailable", ""), "", ""]
            if "difference" in result:
                shown = [f"{result['difference']:.1e}", f"{result['loss']:.5f}", f"{result['cpu_loss']:.5f}"]
            lines.append(f"| {KIND_CONTESTANTS[f'model-{model}'].title} | {' | '.join(shown)} |")
        lines += [""]
    if "row" in parts.get("training", {}):
        row = parts["training"]["row"]
        names = list(row["metrics"])
        lines += [
            f"## {row['experiment']} on {row['dataset']}",
            "",
            f"| {' | '.join(names)} |",
            "|" + "---:|" * len(names),
        ]
        lines += [
            f"| {' | '.join(f'{v:.4g}' for v in values)} |" for values in zip(*row["metrics"].values(), strict=True)
        ]
        lines += [""]
    return "\n".join(lines)


def _speed_lines(document: Document) -> list[str]:
    """The table of speeds, one column for each case."""
    speed, size = document["parts"]["speed"], document["settings"]["size"]
    cases = speed["cases"]
    heads = [_head(case) for case in cases]
    lines = ["## Speed", ""]
    shape = f"T {size['steps']}, batch {size['batch']}, hidden {size['hidden']}"
    lines += [f"Milliseconds of a training step (forward, loss, backward) of all replicas, medians; {shape}.", ""]
    lines += [f"| | {' | '.join(heads)} |", "|---|" + "---:|" * len(heads)]
    reasons = {}
    for name, title in speed["titles"].items():
        shown = []
        for case in cases:
            result = case["results"].get(name, {})
            cold = result.get("cold", False)  # one step, with what compiles and allocates in it
            shown.append(f"{1e3 * result['median']:.2f}" if "median" in result and not cold else "–")
            if cold:
                reasons[title] = "its turn had time for the first step only: " + _head(case)
            if "unavailable" in result:
                reasons[title] = result["unavailable"]
        lines.append(f"| {title} | {' | '.join(shown)} |")
    return [*lines, "", *(f"- {title}: {reason}" for title, reason in reasons.items()), ""]


def _head(case: Document) -> str:
    """A case in words."""
    return f"{case['product']}, {case['replicas']} replica{'s' if case['replicas'] > 1 else ''}"


def tell(text: str) -> None:
    """A line of progress."""
    print(text, file=sys.stderr, flush=True)


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="scripts/gpu_check.sh", description=__doc__)
    add, size = parser.add_argument, Size()
    add("--output", type=Path, default=Path("runs/gpu_check"), help="Folder of the results (default: %(default)s).")
    add("--parts", nargs="+", choices=list(LIMITS), default=list(LIMITS), help="What to run (default: all).")
    add("--device", choices=("cuda", "cpu"), default="cuda", help="cpu tries the check itself with the CPU kernel.")
    add(
        "--models",
        nargs="+",
        choices=list(MODELS),
        default=list(MODELS),
        metavar="MODEL",
        help="Models (default: all).",
    )
    add("--products", nargs="+", choices=PRODUCTS, default=list(PRODUCTS), help="Precisions to time (default: all).")
    add("--replicas", nargs="+", type=int, default=[1, 16], help="Networks side by side (default: 1 16).")
    add("--steps", type=int, default=size.steps, help="Steps of a sequence (default: %(default)s).")
    add("--batch", type=int, default=size.batch, help="Sequences (default: %(default)s).")
    add("--hidden", type=int, default=size.hidden, help="Units (default: %(default)s).")
    add("--rounds", type=int, default=5, help="Timed turns of each contestant in a case (default: %(default)s).")
    add("--count", type=int, default=10, help="Training steps to compare with the CPU (default: %(default)s).")
    add("--epochs", type=int, default=2, help="Epochs of the row of the published table (default: %(default)s).")
    add("--dataset", help="Data set of that row (default: smnist).")
    add("--tests", help="Arguments of pytest, as one word (default: the tests marked gpu).")
    return parser.parse_args(arguments)


def configure(words: argparse.Namespace) -> CheckConfig:
    """The settings that the command line asks for."""
    return CheckConfig(
        device=words.device,
        size=Size(steps=words.steps, batch=words.batch, hidden=words.hidden),
        products=tuple(words.products),
        replicas=tuple(words.replicas),
        models=tuple(words.models),
        rounds=words.rounds,
        count=words.count,
        tests=("-m", "gpu", *gpu_tests()) if words.tests is None else tuple(shlex.split(words.tests)),
        experiment="smnist-noisy-low",
        dataset=words.dataset,
        epochs=words.epochs,
        limits={name: limit for name, limit in LIMITS.items() if name in words.parts},
    )


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def _time_is_up(*_: object) -> None:
    raise TimeoutError("it took longer than its limit")


def main(arguments: Sequence[str] | None = None) -> int:
    """Check and write; the exit code: 0, 1 if a part failed, 2 without a GPU or with wrong options, 130 if stopped."""
    arguments = sys.argv[1:] if arguments is None else arguments
    words = parse(arguments)
    if words.device == "cuda" and not torch.cuda.is_available():
        tell(f"gpu_check needs an NVIDIA GPU, and torch {torch.__version__} sees none. Run it on a machine with one.")
        return 2
    words.output.mkdir(parents=True, exist_ok=True)
    results, config = words.output / "gpu_check.json", configure(words)
    command = shlex.join(["scripts/gpu_check.sh", *(without_paths(word) for word in arguments)])
    try:
        document = resumed_document(new_document(config, command), results)
    except ValueError as error:
        tell(str(error))
        return 2

    def save() -> None:
        write_json(results, document)
        write_atomically(words.output / "gpu_check.md", page(document).encode())

    signal.signal(signal.SIGTERM, _interrupt)
    try:
        check(config, document, words.output, save)
    except KeyboardInterrupt:
        tell(f"Stopped; what was measured is in {results}. The same command continues from there.")
        return 130
    print(words.output / "gpu_check.md")
    return int(any(entry["status"] == "failed" for entry in document["parts"].values()))


if __name__ == "__main__":
    sys.exit(main())
