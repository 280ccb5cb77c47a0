"""Which settings a sweep searches, and between which values."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from noisyrnn.checks import check_choice
from noisyrnn.training.config import TrainConfig

if TYPE_CHECKING:
    from optuna import Trial

NOT_SEARCHED = frozenset({"model", "dataset", "values_per_step", "label", "seed", "decay_epochs"})
"""What a sweep is about, and what is no single value."""


@dataclass(frozen=True)
class Interval:
    """All numbers between two ends.

    Args:
        low: Smallest value.
        high: Largest value, above `low`.
        log: Whether each factor, rather than each difference, is as likely.
    """

    low: float
    high: float
    log: bool = False

    @property
    def ends(self) -> tuple[Any, ...]:
        """Values that must be allowed for all to be."""
        return self.low, self.high

    def suggest(self, trial: "Trial", name: str) -> Any:
        """The trial's value; whole where both ends are."""
        if isinstance(self.low, int) and isinstance(self.high, int):
            return trial.suggest_int(name, self.low, self.high, log=self.log)
        return trial.suggest_float(name, self.low, self.high, log=self.log)

    def to_json(self) -> Any:
        """As a configuration file has it."""
        return {"low": self.low, "high": self.high, "log": self.log}


@dataclass(frozen=True)
class Choice:
    """One of some values, in no order.

    Args:
        values: Numbers, words or booleans, at least two.
    """

    values: tuple[Any, ...]

    @property
    def ends(self) -> tuple[Any, ...]:
        """Values that must be allowed for all to be."""
        return self.values

    def suggest(self, trial: "Trial", name: str) -> Any:
        """The trial's value."""
        return trial.suggest_categorical(name, self.values)

    def to_json(self) -> Any:
        """As a configuration file has it."""
        return list(self.values)


Space = dict[str, Interval | Choice]

_LEARNING_RATE = Interval(1e-3, 3e-2, log=True)
_STEP_SIZE = Interval(0.01, 2.0, log=True)

SPACES: dict[str, Space] = {
    "noisy": {
        "learning_rate": _LEARNING_RATE,
        "step_size": _STEP_SIZE,
        "additive": Interval(0.01, 1.0, log=True),
        "multiplicative": Interval(0.01, 1.0, log=True),
        "skew_symmetry": Interval(0.5, 1.0),
    },
    "lipschitz": {"learning_rate": _LEARNING_RATE, "step_size": _STEP_SIZE, "skew_symmetry": Interval(0.5, 1.0)},
    "antisymmetric": {
        "learning_rate": _LEARNING_RATE,
        "step_size": _STEP_SIZE,
        "damping": Interval(1e-4, 1.0, log=True),
    },
    "cornn": {
        "learning_rate": _LEARNING_RATE,
        "step_size": _STEP_SIZE,
        "stiffness": Interval(0.5, 10.0, log=True),
        "friction": Interval(0.5, 10.0, log=True),
    },
    "exprnn": {"learning_rate": _LEARNING_RATE, "recurrent_init": Choice(("cayley", "henaff"))},
    "rnn": {"learning_rate": _LEARNING_RATE, "hidden_size": Choice((32, 64, 128))},
    "gru": {"learning_rate": _LEARNING_RATE, "hidden_size": Choice((32, 64, 128))},
    "lstm": {"learning_rate": _LEARNING_RATE, "hidden_size": Choice((32, 64, 128))},
}
"""Where a sweep of each model looks, unless it is told otherwise."""


def read_space(given: Mapping[str, Any]) -> Space:
    """A search space as a configuration file has it: `{low: 0.1, high: 1, log: true}` or a list of values.

    Raises:
        ValueError: If a name is not a setting that can be searched, or its values do not fit the forms above.
        TypeError: If `given` is not a mapping.
    """
    if not isinstance(given, Mapping):
        raise TypeError(f"space must map settings to where they are searched, got {given!r}.")
    if not given:
        raise ValueError("space must name at least one setting, got none. Leave it out for the model's own.")
    searched = [field.name for field in fields(TrainConfig) if field.name not in NOT_SEARCHED]
    space: Space = {}
    for name, where in given.items():
        check_choice("space", name, searched)
        space[name] = _read_place(name, where)
    return space


def _read_place(name: str, where: Any) -> Interval | Choice:
    if isinstance(where, Interval | Choice):
        return where
    if isinstance(where, list | tuple) and len(set(map(repr, where))) == len(where) >= 2:
        return Choice(tuple(where))
    if isinstance(where, Mapping) and {"low", "high"} <= where.keys() <= {"low", "high", "log"}:
        low, high, log = where["low"], where["high"], where.get("log", False)
        numbers = all(isinstance(end, int | float) and not isinstance(end, bool) for end in (low, high))
        if numbers and isinstance(log, bool) and low < high and (low > 0 or not log):
            return Interval(low, high, log)
    raise ValueError(
        f"space.{name} must be a list of at least two different values, or an interval with low below high (and above "
        f"0 where log is true), got {where!r}. Write {{low: 0.01, high: 1, log: true}}."
    )
