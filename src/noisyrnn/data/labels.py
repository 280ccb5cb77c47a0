"""Class labels: which are equal, in which order they come, and what they are called.

Labels of numeric arrays are equal if their values are (exactly: 2⁵³ and 2⁵³ + 1 differ, 3 and 3.0 do not). Labels of
text are equal if their text is. Only the UCR and UEA archives' own formats write one number in several ways, so there
numeric labels are equal if their decimal values are. The name of a class is its first label.
"""

import unicodedata
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

import numpy as np
import torch
from torch import Tensor

from noisyrnn.data.numbers import is_missing_name, is_missing_number, parse_decimal


@dataclass(frozen=True)
class Label:
    """One class label.

    Args:
        text: The label as it is written.
        value: The value that is compared: a number of an array, a decimal value, or a text.
    """

    text: str = field(compare=False)
    value: int | float | Decimal | str

    def __str__(self) -> str:
        return self.text


def text_labels(texts: Iterable[str]) -> tuple[Label, ...]:
    """Return labels that are compared by their text."""
    return tuple(Label(text, text) for text in texts)


def decimal_labels(texts: Iterable[str]) -> tuple[Label, ...]:
    """Return labels that are compared by their exact decimal value if they are numbers, else by their text.

    Example:
        >>> one, also_one, other = decimal_labels(["1", "1.0000e+00", "x"])
        >>> one == also_one, one == other
        (True, False)
    """
    values = ((text, parse_decimal(text)) for text in texts)
    return tuple(Label(text, text if value is None else value) for text, value in values)


def array_labels(labels: Any, argument: str = "y") -> tuple[Label, ...]:
    """Return the labels of an array `(n,)` or a list: numbers are compared by exact value, text by text.

    Raises:
        TypeError: If one is neither an integer, a whole number, a bool nor text.
        ValueError: If they are not `(n,)`.
    """
    values = label_values(labels, argument)
    return tuple(Label(str(value), value) for value in values)


def is_one_hot(labels: np.ndarray) -> bool:
    """Whether each row of `(n, k)` has a single 1 among zeros, as one-hot classes have."""
    return labels.dtype.kind in "biuf" and bool(np.isin(labels, (0, 1)).all() and (labels.sum(axis=1) == 1).all())


def label_values(labels: Any, argument: str = "y") -> list[Any]:
    """Convert the labels of an array `(n,)` or a list to Python's numbers and strings, which compare exactly."""
    array = np.asarray(labels)
    if array.ndim != 1:
        raise ValueError(f"{argument} must have shape (n,), one label for each sequence, got {array.shape}.")
    if isinstance(labels, list | tuple) and array.dtype.kind in "fUS":  # NumPy rounds [2**63, -1], and [1, "1"] is text
        array = np.array([value.item() if isinstance(value, np.generic) else value for value in labels], dtype=object)
    if array.dtype.kind not in "biufUO":
        advice = f" Decode it: {argument}.astype(str)." if array.dtype.kind == "S" else ""
        raise TypeError(f"{argument} must hold integers or strings, got {array.dtype}.{advice}")
    values = [value.item() if isinstance(value, np.generic) else value for value in array.tolist()]
    for value in values:
        if not isinstance(value, int | float | str):
            raise TypeError(f"{argument} must hold integers or strings, got {value!r}.")
        if isinstance(value, float) and not value.is_integer():
            raise TypeError(f"{argument} must hold class labels, integers or strings, got the number {value!r}.")
    text = next((value for value in values if isinstance(value, str)), None)
    other = next((value for value in values if not isinstance(value, str)), None)
    if text is not None and other is not None:
        raise TypeError(
            f"{argument} must hold integers only or strings only, got {text!r} and {other!r}. "
            f"Write all as text: [str(label) for label in {argument}]."
        )
    return values


def sorted_classes(labels: Iterable[Label]) -> tuple[Label, ...]:
    """Return the distinct labels: in numerical order if every one is a number, else in alphabetical order."""
    classes = list(dict.fromkeys(labels))
    numbers = [_number(label) for label in classes]
    if None in numbers:
        return tuple(sorted(classes, key=lambda label: label.text))
    by_number: Callable[[Label], Any] = lambda label: (_number(label), label.text)  # noqa: E731
    return tuple(sorted(classes, key=by_number))


def _number(label: Label) -> int | float | Decimal | None:
    """Return the number that a label is or spells; `None` for other text."""
    return parse_decimal(label.value) if isinstance(label.value, str) else label.value


def check_classes(classes: Sequence[Label], argument: str = "y", *, declared: bool = False) -> None:
    """Raise `ValueError` if `nan` or the like is among the classes; warn of classes that differ only in their writing.

    Args:
        classes: The distinct labels.
        argument: Name in the message.
        declared: Whether a file declares them: then they are names, except where all others are numbers.
    """
    missing = [label for label in classes if isinstance(label.value, str) and is_missing_number(label.text.strip())]
    others = [label for label in classes if label not in missing]
    numbers = bool(others) and all(_number(label) is not None for label in others)
    if not numbers:
        missing = [label for label in classes if isinstance(label.value, str) and is_missing_name(label.text)]
    if missing and (numbers or not declared):
        among = " among classes that are numbers" if numbers else ""
        raise ValueError(
            f"{argument} must hold a class for each sequence, got {missing[0].text!r}{among}. "
            "Leave these sequences out, or if it is a class, name it by a word."
        )
    warn_of_equal_numbers(classes)
    warn_of_alike_names("classes", [label.text for label in classes if isinstance(label.value, str)])


def warn_of_alike_names(what: str, names: Iterable[str]) -> None:
    """Warn about names that differ only in case, in kinds of spaces or in characters that are not shown.

    Args:
        what: What the names are of, in the plural: classes, groups, channels.
        names: The different names; numbers are left out.
    """
    groups: dict[str, list[str]] = {}
    for name in names:
        if parse_decimal(name.strip()) is None:
            shown = (c for c in unicodedata.normalize("NFKC", name) if unicodedata.category(c) != "Cf")
            groups.setdefault(" ".join("".join(shown).split()).casefold(), []).append(name)
    alike = [entry for entry in groups.values() if len(entry) > 1]
    if alike:
        names_text = " and ".join(map(ascii if any(not name.isprintable() for name in alike[0]) else repr, alike[0]))
        more = f" and {len(alike) - 1} more such groups" if len(alike) > 1 else ""
        warnings.warn(
            f"{what[0].upper()}{what[1:]} {names_text}{more} differ only in case, in spaces or in characters that are "
            f"not shown, so they are different {what}. If they are the same, write their names alike.",
            stacklevel=2,
        )


def warn_of_equal_numbers(classes: Iterable[Label]) -> None:
    """Warn about classes of text that are equal as numbers, such as "1" and "1.0"."""
    groups: dict[Any, list[str]] = {}
    for label in classes:
        if isinstance(label.value, str) and (value := parse_decimal(label.value.strip())) is not None:
            groups.setdefault(value, []).append(label.text)
    equal = [names for names in groups.values() if len(names) > 1]
    if equal:
        names = " and ".join(map(repr, equal[0]))
        more = f" and {len(equal) - 1} more such groups" if len(equal) > 1 else ""
        warnings.warn(
            f"Classes {names}{more} are equal as numbers but differ as text, so they are different classes. "
            "If they are one class, write its labels alike.",
            stacklevel=2,
        )


def encode(labels: Sequence[Label], classes: Sequence[Label], argument: str = "y") -> Tensor:
    """Return the index of each label in `classes`, int64 `(n,)`; raise `ValueError` for an unknown label."""
    index = {label: i for i, label in enumerate(classes)}
    for case, label in enumerate(labels):
        if label not in index:
            raise ValueError(
                f"{argument} must hold only the classes {_class_list(classes)} of the training part, "
                f"got {_label_text(label, classes)} at index {case}."
            )
    return torch.tensor([index[label] for label in labels], dtype=torch.int64, device="cpu")


def _class_list(classes: Sequence[Label], most: int = 20) -> str:
    """List the names of the classes, at most the first `most`."""
    names = ", ".join(label.text for label in classes[:most])
    return names if len(classes) <= most else f"{names}, … ({len(classes)} in all)"


def _label_text(label: Label, classes: Sequence[Label]) -> str:
    """Describe a label, with its type if a class has the same text and another type."""
    if label.text not in {other.text for other in classes}:
        return repr(label.text)
    kind = "text" if isinstance(label.value, str) else "number"
    return f"the {kind} {label.text!r}"
