"""Which settings a sweep searches, and between which values.

A place is a list of at least two values, or `{"low": 0.01, "high": 1, "log": True}`.
"""

from collections.abc import Mapping
from typing import Any

from noisyrnn.checks import check_choice
from noisyrnn.training.config import TrainConfig

Place = list[Any] | dict[str, Any]

NOT_SEARCHED = frozenset({"model", "dataset", "values_per_step", "label", "seed", "decay_epochs"})
"""Settings that define the sweep, or have no single value."""


def read_space(space: Mapping[str, Any]) -> dict[str, Place]:
    """Check a search space and fill in `log`.

    Raises:
        ValueError: If a name is not a setting that can be searched, or its place has another form.
        TypeError: If `space` is not a mapping.
    """
    if not isinstance(space, Mapping):
        raise TypeError(f"space must map settings to where they are searched, got {space!r}.")
    if not space:
        raise ValueError("space must name at least one setting, got none. Leave it out for the model's own.")
    for name in space:
        check_choice("space", name, [known for known in TrainConfig.setting_names() if known not in NOT_SEARCHED])
    return {name: _read_place(name, place) for name, place in space.items()}


def _read_place(name: str, place: Any) -> Place:
    if isinstance(place, list | tuple) and len(set(map(repr, place))) == len(place) >= 2:
        return list(place)
    if isinstance(place, Mapping) and {"low", "high"} <= place.keys() <= {"low", "high", "log"}:
        low, high, log = place["low"], place["high"], place.get("log", False)
        numbers = all(isinstance(limit, int | float) and not isinstance(limit, bool) for limit in (low, high))
        if numbers and isinstance(log, bool) and low < high and (low > 0 or not log):
            return {"low": low, "high": high, "log": log}
    raise ValueError(
        f"space.{name} must be a list of at least two different values, or an interval with low below high (and above "
        f"0 where log is true), got {place!r}. Write {{low: 0.01, high: 1, log: true}}."
    )


def suggest(trial: Any, name: str, place: Place) -> Any:
    """Let an Optuna trial choose a value: a whole number if both limits are."""
    if isinstance(place, list):
        return trial.suggest_categorical(name, place)
    whole = isinstance(place["low"], int) and isinstance(place["high"], int)
    return (trial.suggest_int if whole else trial.suggest_float)(name, **place)
