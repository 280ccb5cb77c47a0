"""Reads Weka's `.arff` format, as the UCR and UEA archives have it too."""

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from noisyrnn.data.delimited import Table, decode
from noisyrnn.data.labels import decimal_labels
from noisyrnn.data.options import ReadingOptions, missing_advice
from noisyrnn.data.parts import Cases, Targets, pad_sequences, parse_targets
from noisyrnn.data.table import drops, find_column, named_labels, read_wide


def read_arff(path: Path, options: ReadingOptions) -> Cases:
    """Read one sequence per instance; the class is the one nominal attribute, if `label_column` names no other.

    All numeric attributes are steps of one channel; or one relational attribute holds the channels, each with its steps
    in order. Missing values behind the last value of a sequence are its end.

    Raises:
        ValueError: If scipy cannot read the file, a value is missing, or it is unclear which attribute is the class.
    """
    names, kinds, columns, data, domains = _load(path, options)
    place = _class_place(path, names, kinds, options)
    declared = list(domains[place])
    if kinds.count("relational") == 1:
        return _read_relational(path, data, names, kinds, place, declared, options)
    rows = [(line, list(cells)) for line, cells in enumerate(zip(*columns, strict=True), start=1)]
    table = Table(path=path, rows=[(0, names), *rows], header=True, unit="Instance", can_skip=False)
    for line, cells in rows:
        if cells[place] in ("", "?"):
            raise ValueError(f"{table.where(line)} must have a class, got '?'. Leave the instance out.")
    return read_wide(table, replace(options, label_column=place + 1), declared=declared)


def read_attributes(path: Path, options: ReadingOptions) -> tuple[list[str], list[str], list[list[str]], Any]:
    """Return the names and kinds of the attributes, their cells as texts, and what scipy has read.

    The cells are empty lists where one attribute is relational.

    Raises:
        ValueError: If scipy cannot read the file.
    """
    return _load(path, options)[:4]


def _load(
    path: Path, options: ReadingOptions
) -> tuple[list[str], list[str], list[list[str]], Any, list[tuple[str, ...]]]:
    """Return the same, and the classes of each nominal attribute."""
    from scipy.io import arff  # slow to import, and rarely used

    try:
        data, meta = arff.loadarff(io.StringIO(decode(path, options)))
    except NotImplementedError as error:
        raise ValueError(
            f"{path} must hold numeric, nominal or relational attributes, got another ({error}). In Weka, remove the "
            "attribute or convert it to nominal; or save the data as .csv."
        ) from None
    except (ValueError, arff.ArffError, StopIteration, IndexError) as error:  # ParseArffError is an OSError
        raise ValueError(
            f"{path} must be a dense ARFF file, got one that scipy cannot read ({error}). In Weka, apply "
            "SparseToNonSparse or save the data as .csv."
        ) from None
    except OSError as error:
        raise ValueError(f"{path} must be an ARFF file, got one that scipy cannot read ({error}).") from None
    if not len(data):
        raise ValueError(f"{path} must hold at least one instance, got none.")
    names, kinds = list(meta.names()), list(meta.types())
    columns = [
        [_cell(value) for value in data[name].tolist()] if kinds.count("relational") != 1 else [] for name in names
    ]
    domains = [
        tuple(map(str, meta[name][1])) if kind == "nominal" else () for name, kind in zip(names, kinds, strict=True)
    ]
    return names, kinds, columns, data, domains


def _class_place(path: Path, names: list[str], kinds: list[str], options: ReadingOptions) -> int:
    """Return the index of the attribute that is the class."""
    if options.label_column is not None:
        return find_column(path, names, "label_column", options.label_column) % len(names)
    dropped = {find_column(path, names, "drop", column) % len(names) for column in drops(options)}
    nominal = [k for k, kind in enumerate(kinds) if kind == "nominal" and k not in dropped]
    if options.group_column is not None:
        group = find_column(path, names, "group_column", options.group_column) % len(names)
        nominal = [k for k in nominal if k != group]
    known = nominal if len(nominal) == 1 else named_labels(names, dropped)
    if len(known) != 1:
        raise ValueError(
            f"{path} must have one nominal attribute, the class, got {len(nominal)}. Give label_column "
            "(--label-column)."
        )
    return known[0]


def _cell(value: Any) -> str:
    """Return a value as text; an empty one if it is missing."""
    if isinstance(value, bytes):
        return value.decode()
    return "" if isinstance(value, float) and np.isnan(value) else str(value)


def _read_relational(
    path: Path,
    data: Any,
    names: list[str],
    kinds: list[str],
    place: int,
    declared: list[str],
    options: ReadingOptions,
) -> Cases:
    """Return the sequences of several channels, each a line of the relational attribute."""
    for option in ("layout", "group_column"):
        if (value := getattr(options, option)) is not None:
            raise ValueError(f"{option} must be None for {path} with a relational attribute, got {value!r}.")
    if len(names) != 2:
        raise ValueError(f"{path} must have a relational attribute and a class, got {len(names)} attributes.")
    sequences = relational_sequences(path, data[names[kinds.index("relational")]], options)
    cells = [_cell(value) for value in data[names[place]].tolist()]
    if "?" in cells:
        raise ValueError(f"Instance {cells.index('?') + 1} of {path} must have a class, got '?'.")
    labels: Targets = decimal_labels(cells)
    if options.task == "regression":
        labels = parse_targets(cells, lambda k, cell: f"Instance {k + 1} of {path} must have a number, got {cell!r}.")
    inputs, lengths = pad_sequences(sequences)
    return Cases(inputs=inputs, lengths=lengths, labels=labels, declared=decimal_labels(declared))


def relational_sequences(path: Path, bags: Any, options: ReadingOptions) -> list[torch.Tensor]:
    """Return the sequence of each instance, `(steps, channels)`, from the values of a relational attribute.

    Raises:
        ValueError: If a value is missing before the end of a sequence, and `missing` is not given.
    """
    sequences = []
    for instance, bag in enumerate(bags, start=1):
        values = np.array([list(channel) for channel in bag.tolist()], dtype=np.float64).T  # (steps, channels)
        steps = len(values)
        while steps and np.isnan(values[steps - 1]).all():
            steps -= 1
        missing = np.argwhere(np.isnan(values[:steps]))
        if options.missing is not None:
            steps = max(steps, 1)  # a sequence without any value has one step
        elif len(missing) or not steps:
            step, channel = missing[0] if len(missing) else (0, 0)
            raise ValueError(
                f"Instance {instance} of {path} must hold no missing values, got '?' at step {step + 1} of channel "
                f"{channel + 1}. {missing_advice()} Or impute them or remove the instance."
            )
        sequences.append(torch.from_numpy(np.ascontiguousarray(values[:steps])))
    return sequences
