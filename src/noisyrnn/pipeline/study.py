"""The Optuna study behind a sweep: where its trials are kept, and how the next one is chosen."""

import os
import socket
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from noisyrnn.sde.brownian import derive_seed

if TYPE_CHECKING:
    from optuna import Study, Trial
    from optuna.trial import FrozenTrial

HEARTBEAT_SECONDS = 20
GRACE_SECONDS = 120
"""A trial that has given no sign of life for so long is taken for lost, and made again."""


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

    if "://" not in url:
        raise ValueError(f"storage must be the URL of a database, got {url!r}. Write sqlite:///sweeps.db.")
    waiting = {"connect_args": {"timeout": 60}} if url.startswith("sqlite") else {}
    with quiet():
        try:
            storage = optuna.storages.RDBStorage(
                url, engine_kwargs=waiting, heartbeat_interval=HEARTBEAT_SECONDS, grace_period=GRACE_SECONDS
            )
            study = optuna.create_study(
                storage=storage, study_name=name, direction="maximize", load_if_exists=True, sampler=_sampler(None)
            )
            known = study.user_attrs.get("settings")
            if known is None:
                study.set_user_attr("settings", dict(settings))
        except Exception as error:  # SQLAlchemy's, a driver's, or a driver that is missing
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise ValueError(f"storage must be a database that can be opened, got {url!r} ({reason}).") from error
    if known is not None and known != settings:
        raise ValueError(
            f"storage must hold no other study called {name!r}, got one in {url!r}. Name another database."
        )
    return study


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


def sign(trial: "Trial") -> None:
    """Note which process makes a trial, so that this machine can tell at once when it is gone."""
    trial.set_user_attr("process", [socket.gethostname(), os.getpid()])


def give_up_lost(study: "Study") -> None:
    """Let the trials fail whose process, on this machine, is no more; those elsewhere fail after `GRACE_SECONDS`."""
    from optuna.trial import TrialState

    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        host, process = trial.user_attrs.get("process", (None, None))
        if host == socket.gethostname() and not _alive(process):
            study.tell(trial.number, state=TrialState.FAIL, skip_if_finished=True)


def _alive(process: int) -> bool:
    """Whether a process exists; where there is no harmless way to ask, it is taken to."""
    if os.name != "posix":
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def counted(study: "Study") -> list["FrozenTrial"]:
    """Trials that ended by themselves, in order: those that were scored, and those that failed and say why."""
    from optuna.trial import TrialState

    return study.get_trials(states=(TrialState.COMPLETE, TrialState.PRUNED))


def running(study: "Study") -> int:
    """Trials under way, here or elsewhere."""
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
