"""Runs tasks that depend only on their arguments, in worker processes on this machine or on a Dask cluster.

Workers are child processes that communicate through standard input and output. They need no shared memory or
semaphores, they end with the process that started them, and one that dies does not affect the others.
"""

import os
import pickle
import queue
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError
from contextlib import suppress
from typing import Any, BinaryIO

import joblib

from noisyrnn.interruption import interruptible, signal_of
from noisyrnn.progress import EpochListener, listening
from noisyrnn.registry import UNUSABLE

_PATIENCE = 6.0
"""Seconds for a worker to write its checkpoint after it was asked to stop."""

_KILL = getattr(signal, "SIGKILL", signal.SIGTERM)

_THREADS = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "NUMEXPR_NUM_THREADS",
)


def threads_per_worker(workers: int) -> int:
    """Return a worker's share of this machine's cores, at least 1."""
    return max(1, int(joblib.cpu_count()) // workers)


class WorkerDiedError(RuntimeError):
    """A worker process ended before its task did."""


def run_tasks(
    function: Callable[[Any], Any],
    tasks: Sequence[Any],
    done: Callable[[Any, Any], None],
    *,
    workers: int,
    threads: int,
    on_epoch: EpochListener | None = None,
) -> None:
    """Call `function` with each task, and `done` with the task and its result when it ends.

    With one worker, tasks run in this process. Warnings of worker processes are issued here.

    Args:
        function: Takes a task.
        tasks: Arguments of `function`, which can be pickled.
        done: Called in this process; if the worker of a task died, the result is a `WorkerDiedError`.
        workers: Processes, at least 1.
        threads: Threads of each process.
        on_epoch: Called in this process when an epoch of a run ends in a worker process.

    Raises:
        Exception: The error that `function` raised; the other workers are stopped.
        KeyboardInterrupt: If this process was asked to stop; workers write a checkpoint and stop too.
    """
    if workers == 1:
        for task in tasks:
            done(task, function(task))
        return
    waiting: queue.SimpleQueue[Any] = queue.SimpleQueue()
    for task in tasks:
        waiting.put(task)
    messages: queue.SimpleQueue[tuple[str, Any, Any]] = queue.SimpleQueue()
    crew = [_Worker(function, waiting, messages, threads) for _ in range(min(workers, len(tasks)))]
    left = len(tasks)
    try:
        for worker in crew:
            worker.start()
        while left:
            kind, task, content = messages.get()
            if kind == "warning":
                warnings.warn(content, stacklevel=2)
            elif kind == "epoch":
                if on_epoch is not None:
                    on_epoch(*content)
            elif kind == "raised":
                raise content
            else:
                left -= 1
                done(task, content)
    except KeyboardInterrupt as error:
        _stop(crew, signal_of(error))
        raise
    finally:
        _stop(crew, _KILL)


class SchedulerLostError(RuntimeError):
    """The Dask scheduler no longer answers."""


def run_on_cluster(
    function: Callable[[Any], Any], tasks: Sequence[Any], done: Callable[[Any, Any], None], *, scheduler: str
) -> None:
    """Do the same on the workers of a Dask scheduler.

    Raises:
        ValueError: If the package distributed is missing, or the scheduler does not answer.
        SchedulerLostError: If it stops answering; tasks that have ended were passed to `done`.
    """
    try:
        from distributed import Client, KilledWorker, as_completed
    except ImportError as error:
        raise ValueError("`--backend dask` needs Dask: pip install 'noisyrnn[cluster]'") from error
    try:
        client = Client(scheduler)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"scheduler must be the address of a Dask scheduler that answers, got {scheduler!r}."
        ) from error
    with suppress(OSError), client:  # closing a connection that is lost
        futures = {client.submit(function, task, pure=False): task for task in tasks}
        for future in as_completed(futures):
            try:
                result = future.result()
            except KilledWorker as error:
                done(futures[future], WorkerDiedError(str(error)))
                continue
            except (CancelledError, OSError, TimeoutError) as error:
                raise SchedulerLostError(
                    "The Dask scheduler was lost before the run ended. Start it and run the same command again."
                ) from error
            done(futures[future], result)


class _Worker(threading.Thread):
    """A thread that sends tasks to a process, and starts another process if one has died."""

    def __init__(
        self,
        function: Callable[[Any], Any],
        waiting: "queue.SimpleQueue[Any]",
        messages: "queue.SimpleQueue[tuple[str, Any, Any]]",
        threads: int,
    ) -> None:
        super().__init__(daemon=True)
        self._function, self._waiting, self._messages, self._threads = function, waiting, messages, threads
        self._lock = threading.Lock()
        self._ended = False
        self.process: subprocess.Popen[bytes] | None = None

    def run(self) -> None:
        while True:
            try:
                task = self._waiting.get_nowait()
            except queue.Empty:
                self.leave()
                return
            try:
                process = self._living()
                if process is None:
                    return
                self._messages.put(("done", task, self._ask(process, task)))
            except WorkerDiedError as error:
                self._messages.put(("done", task, error))
            except BaseException as error:  # of the task, or of this process, which may have no room for another one
                self._messages.put(("raised", task, error))
                return

    def _living(self) -> "subprocess.Popen[bytes] | None":
        with self._lock:
            if self._ended:
                return None
            if self.process is None or self.process.poll() is not None:
                modules = os.pathsep.join(filter(None, sys.path))  # it must find the same ones
                threads = dict.fromkeys(_THREADS, str(self._threads))
                self.process = subprocess.Popen(
                    [sys.executable, "-P", "-c", "from noisyrnn.pipeline.workers import serve; serve()"],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    env={**os.environ, **threads, "PYTHONPATH": modules},
                    # A group of its own: Ctrl-C on a terminal reaches it through this process, once.
                    start_new_session=os.name == "posix",
                )
            return self.process

    def _ask(self, process: "subprocess.Popen[bytes]", task: Any) -> Any:
        assert process.stdin is not None and process.stdout is not None
        try:
            process.stdin.write(pickle.dumps((self._function, task)))
            process.stdin.flush()
            while True:
                kind, content = pickle.load(process.stdout)
                if kind == "returned":
                    return content
                if kind == "raised":
                    raise content
                self._messages.put((kind, None, content))
        except (EOFError, BrokenPipeError, pickle.UnpicklingError) as error:
            process.kill()
            raise WorkerDiedError(f"The worker process ended with status {process.wait()}.") from error

    def leave(self) -> None:
        """Start no more processes, and let the current one end after its task."""
        with self._lock:
            self._ended = True
            if self.process is not None and self.process.stdin is not None:
                with suppress(OSError):
                    self.process.stdin.close()

    def send(self, number: int) -> None:
        """Start no more processes, and send the current one a signal."""
        with self._lock:
            self._ended = True
            if self.process is not None and self.process.poll() is None:
                with suppress(OSError):
                    if number == _KILL and os.name == "posix":
                        os.killpg(self.process.pid, number)  # with what it has started, such as a compiler
                    else:
                        self.process.send_signal(number)


def _stop(crew: Sequence[_Worker], number: int) -> None:
    """Send a signal to all workers, and kill those that still run `_PATIENCE` seconds later."""
    for worker in crew:
        worker.send(number)
    end = time.monotonic() + _PATIENCE
    for worker in crew:
        if worker.process is not None:
            with suppress(subprocess.TimeoutExpired):
                worker.process.wait(max(0.0, end - time.monotonic()))
            worker.send(_KILL)
            worker.process.wait()


def serve() -> None:
    """Run tasks in a worker process until its input ends."""
    source, target = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # output of a task is not a message
    lock = threading.Lock()

    def send(kind: str, content: Any) -> None:
        data = pickle.dumps((kind, content))
        with lock:
            target.write(data)
            target.flush()

    def forward(message: Warning | str, category: type[Warning], *rest: Any, **named: Any) -> None:
        with suppress(OSError):  # a task must not fail because nobody reads its warnings
            send("warning", message if isinstance(message, Warning) else category(message))

    def forward_epoch(run: str, epoch: int) -> None:
        with suppress(OSError):
            send("epoch", (run, epoch))

    warnings.showwarning = forward
    warnings.filterwarnings("ignore", message=UNUSABLE)  # the parent process has issued it
    tasks: queue.SimpleQueue[Any] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(source, tasks), daemon=True).start()
    try:
        with interruptible(), listening(forward_epoch):
            while (item := tasks.get()) is not None:
                try:
                    if isinstance(item, Exception):
                        raise item
                    function, task = item
                    answer = "returned", function(task)
                except Exception as error:
                    answer = "raised", _portable(error)
                send(*answer)
    except KeyboardInterrupt as error:
        os._exit(128 + signal_of(error))
    except OSError:  # nobody reads the answer
        os._exit(1)
    os._exit(0)


def _listen(source: BinaryIO, tasks: "queue.SimpleQueue[Any]") -> None:
    """Receive tasks; if the parent process has ended, stop this one after a checkpoint."""
    while True:
        try:
            tasks.put(pickle.load(source))
        except (EOFError, OSError, pickle.UnpicklingError):
            tasks.put(None)
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(_PATIENCE)
            if os.name == "posix":
                os.killpg(0, signal.SIGKILL)  # with what it has started, such as a compiler
            os._exit(1)
        except Exception as error:  # a module that is missing here
            tasks.put(error)


def _portable(error: Exception) -> Exception:
    """Return the error, or a `RuntimeError` with its text if it cannot be pickled."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error
