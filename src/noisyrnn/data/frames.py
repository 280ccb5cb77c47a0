"""Reads `.parquet` files and Excel workbooks with pandas, as tables of text."""

import importlib.util
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np

from noisyrnn.data.delimited import Row, Table
from noisyrnn.data.options import ReadingOptions
from noisyrnn.data.sizes import check_size, largest_text


def check_packages(suffix: str, *packages: str) -> None:
    """Raise `ValueError` unless the packages that read a kind of file are installed."""
    if any(importlib.util.find_spec(package) is None for package in packages):
        raise ValueError(f"Reading {suffix} files needs {' and '.join(packages)}: pip install 'noisyrnn[data]'")


def read_parquet(path: Path) -> Table:
    """Read a `.parquet` file; an index with names or without order is its first column.

    Raises:
        ValueError: If pandas or pyarrow is missing, the file is damaged, or a cell holds a list.
    """
    check_packages(".parquet", "pandas", "pyarrow")
    import pandas

    check_size(str(path), path.stat().st_size, largest_text())
    try:
        frame = pandas.read_parquet(path, engine="pyarrow")
    except (OSError, ValueError, TypeError) as error:  # pyarrow's errors are of these types
        raise ValueError(f"{path} must be a Parquet file, got one that does not open ({error}).") from None
    if not isinstance(frame.index, pandas.RangeIndex):
        frame = frame.reset_index()
    header = (1, [str(name).strip() for name in frame.columns])
    columns = [frame[name].tolist() for name in frame.columns]
    rows = [(line, [_text(path, value) for value in cells]) for line, cells in enumerate(zip(*columns, strict=True), 2)]
    return Table(path=path, rows=[header, *rows], header=True, unit="Row", between="cells", can_skip=False)


def read_excel(path: Path, options: ReadingOptions) -> Table:
    """Read one sheet of an Excel workbook.

    Raises:
        ValueError: If pandas or openpyxl is missing, the file is damaged, or it is unclear which sheet is meant.
    """
    check_packages(".xlsx", "pandas", "openpyxl")
    import pandas

    check_size(str(path), path.stat().st_size, largest_text())
    try:
        # Text such as "NA" stays text: what is missing is decided where a cell is parsed.
        sheets: dict[str, Any] = pandas.read_excel(
            path, sheet_name=None, header=None, dtype=object, keep_default_na=False, engine="openpyxl"
        )
    except Exception as error:  # openpyxl raises many types, those of zipfile and of its XML parser too
        raise ValueError(f"{path} must be an Excel workbook, got one that does not open ({error}).") from None
    full = {name: frame for name, frame in sheets.items() if frame.size}
    names = ", ".join(map(repr, full))
    if options.sheet is None:
        if len(full) != 1:
            raise ValueError(
                f"{path} must have one sheet with cells, got {len(full)}: {names}. Give sheet (--sheet NAME or NUMBER)."
            )
        (frame,) = full.values()
    else:
        chosen = options.sheet
        if str(chosen).isdecimal() and str(chosen) not in full and 0 < int(chosen) <= len(sheets):
            chosen = list(sheets)[int(chosen) - 1]
        if str(chosen) not in full:
            raise ValueError(f"sheet must be one of {names} or its number, got {options.sheet!r}.")
        frame = full[str(chosen)]
    rows: list[Row] = []
    for line, values in enumerate(frame.itertuples(index=False, name=None), start=1):
        cells = [_text(path, value) for value in values]
        if any(cells) and line not in options.skipped:
            rows.append((line, cells))
    width = max((k + 1 for _, cells in rows for k, cell in enumerate(cells) if cell), default=0)
    rows = [(line, cells[:width]) for line, cells in rows]
    return Table(path=path, rows=rows, header=options.header, unit="Row", between="cells")


def _text(path: Path, value: Any) -> str:
    """Return a cell as text that parses to the same number."""
    if value is None or value is _not_a_time() or (isinstance(value, float | np.floating) and np.isnan(value)):
        return ""
    if isinstance(value, str):
        return value.strip()
    if isinstance(value, bool | np.bool_ | int | np.integer):
        return str(value)
    if isinstance(value, float | np.floating):
        return repr(float(value))
    if isinstance(value, date):  # and datetime, and pandas' Timestamp
        return value.isoformat()
    if isinstance(value, Sequence | np.ndarray):
        raise ValueError(
            f"{path} must hold one value per cell, got a list. Write one column per step, or one line per step and "
            "give id (--id COLUMN)."
        )
    return "" if str(value) in ("<NA>", "NaT", "nan") else str(value)


def _not_a_time() -> Any:
    import pandas

    return pandas.NaT
