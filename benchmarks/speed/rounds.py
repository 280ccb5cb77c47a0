"""Measures contestants in turns, once per round, so that a drift of the machine affects all equally."""

import contextlib
import json
import os
import random
import select
import signal
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.speed.cases import Case, summary
from benchmarks.speed.machine import Others, without_paths
from benchmarks.speed.rates import FLOOR, OPERATIONS, RATES

ROOT = Path(__file__).parents[2]
TURN_SECONDS = 0.1
SETUP_SECONDS = 600.0


class WorkerError(RuntimeError):
    """Why a worker could not do what it was asked."""


@dataclass
class Worker:
    """The other end of `benchmarks.speed.worker`; the process starts with the first request, and again after its end.

    Args:
        name: Of the contestant.
        threads: Threads it uses.
        device: "cpu" or "cuda".
        source: The `src` folder of another version of this library, which the process imports; `None` for this one.
    """

    name: str
    threads: int
    device: str = "cpu"
    source: Path | None = None
    _process: subprocess.Popen[bytes] | None = field(default=None, repr=False)
    _errors: Any = field(default=None, repr=False)

    def start(self) -> None:
        """Start the process, if it is not there; it loads its libraries while others do."""
        if self._process is not None:
            return
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115, since it lives as long as the process
        # Only the named kernel, and no pool of compiling processes next to the contestant.
        environment = {key: value for key, value in os.environ.items() if key != "NOISYRNN_KERNEL"}
        if self.source is not None:
            environment["PYTHONPATH"] = str(self.source)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.speed.worker", self.name, str(self.threads), self.device],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            bufsize=0,
            cwd=ROOT,
            env={"TORCHINDUCTOR_COMPILE_THREADS": "1", **environment},
            start_new_session=True,  # Ctrl-C reaches only this process, which then ends the others
        )

    def ask(self, do: str, *, limit: float, **arguments: Any) -> dict[str, Any]:
        """The answer to a request.

        Args:
            do: What; a method `do_...` of `Session`.
            limit: Seconds to wait.
            arguments: Of the method.

        Raises:
            WorkerError: If it failed, took too long or the process ended; after the last two it starts again.
        """
        self.start()
        process = self._process
        assert process is not None and process.stdin is not None and process.stdout is not None
        try:
            process.stdin.write((json.dumps({"do": do, **arguments}) + "\n").encode())
            ready, _, _ = select.select([process.stdout], [], [], limit)
        except BrokenPipeError:
            ready = [process.stdout]
        line = process.stdout.readline() if ready else b""
        if not ready:
            self.stop()
            raise WorkerError(f"took more than {limit:.0f} s to {'get ready' if do == 'setup' else 'answer'}")
        if not line.endswith(b"\n"):
            raise WorkerError(self._last_words())
        answer = json.loads(line)
        if "error" in answer:
            raise WorkerError(answer["error"])
        return answer

    @property
    def process(self) -> int | None:
        """Number of the process, if it is there."""
        return None if self._process is None else self._process.pid

    def stop(self) -> None:
        """End the process and what it started."""
        process, self._process = self._process, None
        if process is None:
            return
        with contextlib.suppress(ProcessLookupError):  # it may have ended by itself
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        for stream in (process.stdin, process.stdout, self._errors):
            if stream is not None:
                stream.close()

    def _last_words(self) -> str:
        """How the process ended, and the last line it wrote."""
        assert self._process is not None
        code = self._process.wait()
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        self.stop()
        ending = f"was ended by signal {-code}" if code < 0 else f"ended with code {code}"
        return without_paths(f"its process {ending}" + (f": {lines[-1]}" if lines else ""))[:200]


def measure_case(
    entry: dict[str, Any],
    case: Case,
    workers: Mapping[str, Worker],
    *,
    rounds: int,
    budget: float,
    ticked: Callable[[], None],
    setup_limit: float = SETUP_SECONDS,
) -> None:
    """Measure a case and put the results into `entry`, after an interruption too: those of the rounds done.

    Args:
        entry: Gets "results", for each contestant a summary or `{"unavailable": reason}`, "rates" and "floor", and
            "others", the cores that other processes kept busy meanwhile.
        case: What to do.
        workers: Contestants by name, some of `RATES` among them.
        rounds: Rounds after the first, untimed one, at least 1.
        budget: Seconds that a contestant may take. A slow one gets fewer rounds, one whose first step takes longer
            than this has only this first one, and one that takes three times as long has none.
        ticked: Called after every turn.
        setup_limit: Seconds that the preparation of a contestant may take.
    """
    results: dict[str, dict[str, Any]] = {}
    entry["results"] = results
    found: dict[str, list[float]] = {}
    first: dict[str, float] = {}
    rates: dict[str, list[float]] = {}
    spent: dict[str, float] = {}
    shuffler = random.Random(0)
    others = None
    try:
        for name, worker in workers.items():
            try:
                worker.ask("setup", limit=setup_limit, **case.request())
                taken = worker.ask("turn", limit=3 * budget + 10, seconds=0.0)["seconds"]
                first[name], spent[name] = taken[0], sum(taken)
            except WorkerError as error:
                results[name] = {"unavailable": str(error)}
            ticked()
        others = Others([w.process for w in workers.values() if w.process is not None])
        live = [name for name in first if spent[name] <= budget]
        for _ in range(rounds):
            shuffler.shuffle(live)
            for name in live:
                mean = spent[name] / (1 + len(found.get(name, [])))
                if not found.get(name) or spent[name] + mean <= budget:
                    try:
                        samples = workers[name].ask("turn", limit=3 * budget + 10, seconds=TURN_SECONDS)["seconds"]
                    except WorkerError as error:
                        results[name] = {"unavailable": str(error)}
                        live = [other for other in live if other != name]
                        continue
                    spent[name] += sum(samples)
                    found.setdefault(name, []).append(statistics.median(samples))
                    if name in RATES:
                        rates.setdefault(name, []).extend(samples)
                ticked()
        for worker in workers.values():
            if worker.process is not None:
                with contextlib.suppress(WorkerError):  # an end that concerns itself: the next case starts it again
                    worker.ask("release", limit=60.0)
    finally:
        entry["others"] = None if others is None else others.cores()
        for name in first:
            if name not in results and (name in found or spent[name] > budget):
                results[name] = summary(found[name]) if name in found else {**summary([first[name]]), "cold": True}
        for name in RATES:
            results.pop(name, None)
        add_rates(entry, case, rates)


def add_rates(entry: dict[str, Any], case: Case, samples: Mapping[str, list[float]]) -> None:
    """The machine's speeds in this very case, in operations a second, and the seconds that the case's products take."""
    entry["rates"] = {
        name: {"best": OPERATIONS / min(seconds), "median": OPERATIONS / statistics.median(seconds)}
        for name, seconds in samples.items()
    }
    known = [name for name in FLOOR if name in samples]
    if known:
        speed = entry["rates"][known[0]]
        entry["floor"] = {"rate": known[0], **{how: case.operations() / speed[how] for how in ("best", "median")}}


def measure_memory(worker: Worker, case: Case, *, budget: float) -> dict[str, Any]:
    """Peak memory of one step, in a process of its own: `{"mib": ...}` or `{"unavailable": reason}`."""
    try:
        limit = SETUP_SECONDS + 3 * budget
        return worker.ask("memory", limit=limit, **case.request())
    except WorkerError as error:
        return {"unavailable": str(error)}
    finally:
        worker.stop()
