"""The process of one contestant: it prepares a case, runs a few steps in its turn, and is idle in between.

Separate processes isolate thread pools, memory and crashes. A worker reads one JSON request per line from stdin and
writes one line per answer to stdout; it ends when stdin is closed.
"""

import gc
import json
import os
import sys
import time
from dataclasses import asdict, replace
from typing import Any, TextIO

import torch

from benchmarks.speed.cases import Case, Size
from benchmarks.speed.contestants import NotAvailable, Step
from benchmarks.speed.kinds import KIND_CONTESTANTS
from benchmarks.speed.machine import bind, give_back_memory, limit_memory, peak_memory, resident_memory, without_paths
from benchmarks.speed.peers import contestant

LONGEST_COLD = 3.0
"""A step faster than this, in seconds, runs once untimed in every turn: caches and threads must wake up first."""
MOST_SAMPLES = 200
MOST_MEMORY = 0.6
"""Of the machine's, for a contestant on the CPU."""
MOST_IDLE = 1 << 30
"""Bytes that one may keep while others have their turn."""


class Session:
    """What a worker knows between two requests.

    Args:
        name: Of the contestant; see `contestant`.
        threads: Threads to use.
        device: "cpu" or "cuda".
    """

    def __init__(self, name: str, threads: int, device: str) -> None:
        known = KIND_CONTESTANTS.get(name)
        self.contestant = contestant(name) if known is None else known
        self.threads, self.device = threads, torch.device(device)
        self.step: Step | None = None
        self.last = 0.0

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """Handle a request; errors are returned as answers."""
        try:
            return getattr(self, "do_" + request.pop("do"))(**request)
        except NotAvailable as reason:
            return {"error": str(reason)}
        except Exception as error:  # a failure of one contestant must not stop the others
            first = (str(error).strip().splitlines() or [""])[0]
            return {"error": without_paths(f"{type(error).__name__}: {first}")[:200]}

    def do_setup(
        self, mode: str, *, product: str = "fp32", replicas: int = 1, model: str = "noisy", **size: int
    ) -> dict[str, Any]:
        """Prepare a case."""
        self.do_release()
        torch.manual_seed(0)
        task = Case(size=Size(**size), mode=mode, threads=self.threads)
        case = replace(task, product=product, replicas=replicas, model=model)
        self.step, self.last = self.contestant.build(case, self.device), float("inf")
        gc.freeze()  # what the libraries hold stays: collecting it each time would take longer than many a turn
        return {}

    def do_turn(self, seconds: float) -> dict[str, Any]:
        """Time steps, in seconds, until they have taken so long together; one at least."""
        gc.collect()
        gc.disable()  # it would strike some contestants in the middle of a step
        try:
            if self.last < LONGEST_COLD:
                self._run()
            samples: list[float] = []
            spent = 0.0
            while not samples or (spent < seconds and len(samples) < MOST_SAMPLES):
                samples.append(self._run())
                spent += self.last
        finally:
            gc.enable()
        if self.step is not None and resident_memory() > MOST_IDLE:
            self.step.clear()
            give_back_memory()
        if self.step is not None and self.device.type == "cuda":
            self.step.clear()
            torch.cuda.empty_cache()  # all share the GPU's memory
        return {"seconds": samples}

    def do_release(self) -> dict[str, Any]:
        """Forget the case, and give its memory back."""
        self.step = None
        gc.unfreeze()
        give_back_memory()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        return {}

    def do_memory(self, mode: str, *, model: str = "noisy", **size: int) -> dict[str, Any]:
        """Peak memory of one step, in MiB, all that it allocates counted and what a library loads once left out."""
        torch.manual_seed(0)
        case = Case(size=Size(**size), mode=mode, threads=self.threads, model=model)
        small = replace(case, size=Size(**{**asdict(case.size), "steps": 2}))
        self.step = self.contestant.build(small, self.device)
        self._run()
        self.step = None
        self.step = self.contestant.build(case, self.device)
        return {"mib": peak_memory(self.step.run, self.device)}

    def do_epoch(self, **settings: Any) -> dict[str, Any]:
        """Whole epochs against their steps; see `benchmarks.speed.epoch`."""
        from benchmarks.speed.epoch import measure_epoch

        return measure_epoch(**settings)

    def do_agreement(self, **settings: Any) -> dict[str, Any]:
        """Training steps against those of the CPU; see `benchmarks.speed.agreement`."""
        from benchmarks.speed.agreement import compare_steps

        return compare_steps(**settings)

    def do_row(self, **settings: Any) -> dict[str, Any]:
        """A row of the published table; see `benchmarks.speed.agreement`."""
        from benchmarks.speed.agreement import train_row

        return train_row(**settings)

    def _run(self) -> float:
        """Seconds of a step."""
        assert self.step is not None
        self.step.clear()
        self._wait()
        start = time.perf_counter()
        self.step.run()
        self._wait()
        self.last = time.perf_counter() - start
        return self.last / self.step.count

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()


def serve(session: Session, requests: TextIO, answers: TextIO) -> None:
    """Answer until the requests end."""
    for line in requests:
        answers.write(json.dumps(session.answer(json.loads(line))) + "\n")
        answers.flush()


def main() -> None:
    """The process: its arguments are the contestant's name, the threads and the device."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print must not be taken for an answer
    name, threads, device = sys.argv[1], int(sys.argv[2]), sys.argv[3]
    session = Session(name, threads, device)
    torch.set_num_threads(threads)
    if device == "cpu":
        limit_memory(MOST_MEMORY)
    if session.contestant.pinned:
        try:
            bind(threads)
        except OSError as error:
            print(error, file=sys.stderr)
            sys.exit(1)
    serve(session, sys.stdin, answers)


if __name__ == "__main__":
    main()
