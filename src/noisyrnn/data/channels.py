"""Matches channels by name: a channel is the one of its name, wherever its column is."""

from collections import Counter
from collections.abc import Iterable, Sequence

ADVICE = "Rename the channels, or leave columns out with drop (--drop); their order does not matter."
_SHOWN = 10
"""How many names a message shows."""


def quoted(names: Iterable[str]) -> str:
    """Return names as messages show them.

    Example:
        >>> quoted(["u", "v"])
        "'u', 'v'"
    """
    listed = [repr(name) for name in names]
    return ", ".join(listed[:_SHOWN]) + (", …" if len(listed) > _SHOWN else "")


def channel_order(
    where: str,
    names: Sequence[str],
    expected: Sequence[str],
    *,
    what: str = "the channels of the training data",
    advice: str = ADVICE,
) -> list[int] | None:
    """Return the place of each expected channel among the channels of some data.

    Args:
        where: What the data are called in messages.
        names: Names of their channels; empty if they have none.
        expected: Names of the expected channels, in order; empty if they are not known.
        what: What these are called in messages.
        advice: End of the message.

    Returns:
        The index into `names` of each expected name; `None` where channels are matched by position: the order is the
        same, or one of the two has no names.

    Raises:
        ValueError: If the names differ, or the order differs and a name occurs twice.

    Example:
        >>> channel_order("new.csv", ["v", "u"], ["u", "v"])
        [1, 0]
        >>> channel_order("new.csv", ["u", "w"], ["u", "v"], advice="Rename it.")
        Traceback (most recent call last):
        ValueError: new.csv must have the channels of the training data, got none called 'v' and unknown 'w'. Rename it.
    """
    if not names or not expected or tuple(names) == tuple(expected):
        return None
    missing, unknown = Counter(expected) - Counter(names), Counter(names) - Counter(expected)
    faults = [f"none called {quoted(missing)}"] if missing else []
    faults += [f"unknown {quoted(unknown)}"] if unknown else []
    if not faults and len(set(names)) < len(names):
        faults = [f"{quoted(name for name, count in Counter(names).items() if count > 1)} twice, in another order"]
    if faults:
        raise ValueError(f"{where} must have {what}, got {' and '.join(faults)}. {advice}")
    return [list(names).index(name) for name in expected]
