"""The Optuna study behind a sweep: where its trials are kept, and how the next one is chosen."""

import os
import socket
import threading
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from noisyrnn.interruption import alive
from noisyrnn.pipeline.databases import create_whole, sqlite_path
from noisyrnn.redact import without_passwords
from noisyrnn.sde.brownian import derive_seed

if TYPE_CHECKING:
    from optuna import Study, Trial
    from optuna.trial import FrozenTrial

HEARTBEAT_SECONDS = 20
GRACE_SECONDS = 120
"""A trial without a sign of life for so long is taken for lost and made again. Clocks may differ by less."""


def check_optuna() -> None:
    """Raise `ValueError` unless Optuna is installed."""
    try:
        import optuna  # noqa: F401
    except ImportError as error:
        raise ValueError(
            "sweep must have the package optuna, got none. Install it: pip install noisyrnn[sweep]."
        ) from error


@contextmanager
def quiet() -> Iterator[None]:
    """Optuna's log and its notes on experimental features are ours to tell, or not."""
    import optuna
    from optuna.exceptions import ExperimentalWarning

    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            yield
    finally:
        optuna.logging.set_verbosity(before)


def open_study(name: str, url: str, settings: Mapping[str, Any]) -> "Study":
    """The study called `name` in a database, made where it is missing.

    Args:
        name: Of the study.
        url: Of the database, as SQLAlchemy writes it, such as `sqlite:///sweeps.db` or `postgresql://host/name`.
        settings: What every trial has in common, as JSON holds it; kept with the study.

    Raises:
        ValueError: If the database cannot be opened, or its study of that name has other settings.
    """
    import optuna

    shown = check_storage(url)
    waiting = {"connect_args": {"timeout": 60}} if url.startswith("sqlite") else {}
    with quiet():
        try:
            file = sqlite_path(url)
            if file is not None:
                create_whole(file, _create_tables)
            storage = optuna.storages.RDBStorage(url, engine_kwargs=waiting)
            study = optuna.create_study(
                storage=storage, study_name=name, direction="maximize", load_if_exists=True, sampler=_sampler(None)
            )
            known = study.user_attrs.get("settings")
            if known is None:
                study.set_user_attr("settings", dict(settings))
            study.get_trials(deepcopy=False)  # a damaged table is found here
        except Exception as error:  # SQLAlchemy's, a driver's, or a driver that is missing
            lines = str(error).strip().splitlines() or [type(error).__name__]
            reason = without_passwords(lines[0].replace(url, shown)).rstrip(".")
            advice = "Check its address, its server and its driver."
            if file is not None and file.is_file():
                advice = f"Move {file} away and run the same command again: it uses the trainings that are there."
            raise ValueError(
                f"storage must be a database that can be opened, got {shown!r} ({reason}). {advice}"
            ) from error
    if known is not None and known != settings:
        raise ValueError(
            f"storage must hold no other study called {name!r}, got one in {shown!r}. Name another database."
        )
    return study


def check_storage(url: str) -> str:
    """The address of a database as it may be shown, without its password.

    Raises:
        ValueError: If it is not the address of a database that several processes can share.
    """
    from sqlalchemy import make_url
    from sqlalchemy.exc import ArgumentError

    if "://" not in url:
        shown = url.rpartition("@")[2]
        raise ValueError(f"storage must be the URL of a database, got {shown!r}. Write sqlite:///sweeps.db.")
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        raise ValueError(
            "storage must be the URL of a database, got one that cannot be parsed. Write sqlite:///sweeps.db or "
            "postgresql://HOST/NAME, and special characters of a password as %40 for @."
        ) from None  # the reason may quote the password
    memory = parsed.database in (None, "", ":memory:") or parsed.query.get("mode") == "memory"
    if parsed.drivername.startswith("sqlite") and (memory or "mode=memory" in str(parsed.database)):
        raise ValueError(
            f"storage must be a database that outlives this process, got {url!r}. Write sqlite:///sweeps.db."
        )
    return without_passwords(
        parsed.set(password=None, username="***" if parsed.password else parsed.username).render_as_string()
    )


def _create_tables(url: str) -> None:
    import optuna

    storage = optuna.storages.RDBStorage(url)
    storage.remove_session()
    storage.engine.dispose()


def _sampler(seed: int | None) -> Any:
    import optuna

    # One setting after another: a sampler that draws them together has drawn before the trial has its seed.
    return optuna.samplers.TPESampler(seed=seed, multivariate=False)


def seed_sampler(study: "Study", trial: "Trial", sweep_seed: int) -> None:
    """Let the choice of this trial depend on the sweep's seed, its place and the trials before it alone.

    Its place leaves out trials that were lost or interrupted, so that a sweep that goes on chooses what it would have
    chosen without the break.
    """
    from optuna.trial import TrialState

    lost = sum(t.number < trial.number for t in study.get_trials(deepcopy=False, states=(TrialState.FAIL,)))
    study.sampler = _sampler(derive_seed(sweep_seed, "trial", trial.number - lost) % 2**32)


def new_trial(study: "Study", sweep_seed: int) -> "Trial":
    """A trial that is signed by this process from its first moment on: whenever it is killed, the trial is not lost."""
    from optuna.trial import FrozenTrial, Trial, TrialState

    template = FrozenTrial(
        number=-1,
        trial_id=-1,
        state=TrialState.RUNNING,
        value=None,
        datetime_start=datetime.now(),
        datetime_complete=None,
        params={},
        distributions={},
        user_attrs={"process": _signature(), "seen": time.time()},
        system_attrs={},
        intermediate_values={},
    )
    storage = study._storage
    trial = Trial(study, storage.create_new_trial(study._study_id, template_trial=template))
    seed_sampler(study, trial, sweep_seed)
    return trial


@contextmanager
def heartbeat(trial: "Trial") -> Iterator[None]:
    """Note now and then that the process of a trial is alive, for those that cannot see it."""
    over = threading.Event()

    def beat() -> None:
        while not over.wait(HEARTBEAT_SECONDS):
            with suppress(Exception):  # a database that does not answer now may do so the next time
                trial.set_user_attr("seen", time.time())

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def give_up_lost(study: "Study") -> None:
    """Let the trials fail whose process has ended, or has given no sign of life for `GRACE_SECONDS`."""
    from optuna.trial import TrialState

    host = socket.gethostname()
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        signature = list(trial.user_attrs.get("process", ()))
        started = trial.datetime_start.timestamp() if trial.datetime_start else 0.0
        silent = time.time() - float(trial.user_attrs.get("seen", started)) > GRACE_SECONDS
        gone = signature[:1] == [host] and signature != _signature(signature[1])
        if silent or gone:
            study.tell(trial.number, state=TrialState.FAIL, skip_if_finished=True)


def _signature(process: int | None = None) -> list[Any]:
    """Host, number and start of a process of this machine, by default of this one; `None` for one that has ended."""
    process = os.getpid() if process is None else process
    if not alive(process):
        return [socket.gethostname(), process, None, "ended"]
    try:  # numbers are used again: the 22nd word, counted after the name, is when the process began
        start = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        start = ""
    return [socket.gethostname(), process, start]


def counted(study: "Study") -> list["FrozenTrial"]:
    """Trials that ended by themselves, in order: those that were scored, and those that failed and say why."""
    from optuna.trial import TrialState

    return study.get_trials(states=(TrialState.COMPLETE, TrialState.PRUNED))


def running(study: "Study") -> int:
    """Trials that are running, here or elsewhere."""
    from optuna.trial import TrialState

    return len(study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)))


def importances(study: "Study") -> dict[str, float]:
    """Share of each setting in what separates better trials from the rest (PED-ANOVA); empty where it is unknown."""
    import optuna

    with quiet():
        try:
            warnings.simplefilter("error")  # it warns where it has too few trials, and gives all the same share
            return optuna.importance.get_param_importances(study)
        except (RuntimeError, ValueError, UserWarning):
            return {}
