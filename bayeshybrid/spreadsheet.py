"""A scientist's table as it is: columns with names and units, cells with gaps and limits, rows with their numbers.

Cells are read as text and understood here, so that "<0.1", "BLQ", "NA" and a decimal comma mean what their writer
meant, and so that every fault is shown with the row in which it stands.
"""

from __future__ import annotations

import csv
import io
import keyword
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from .columns import ORIGIN, SHOWN, as_numbers, dates, is_absent, is_date, nearest, shown
from .faults import DataError

MEASURED, EMPTY, BELOW, ABOVE, BETWEEN, UNQUANTIFIED, TEXT = 0, 1, 2, 3, 4, 5, -1
"""What a cell says; up to BETWEEN the codes are those of `observation.Measured.kinds`."""

_GAPS = ("", ".", "na", "n/a", "nan", "#n/a", "null", "none")
_BELOW_LIMIT = ("blq", "bql", "bloq", "bdl", "lloq", "<lloq", "<loq", "<lod")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
_INFINITE = re.compile(r"[+-]?inf(inity)?", re.IGNORECASE)
_LIMIT = re.compile(r"\s*([<>≤≥])\s*=?\s*(.+)")
_UNIT = re.compile(r"(.*?)(?:\s*\[([^\]]*)\]|\s+\(([^)]*)\))\s*")

__all__ = [
    "Cells",
    "Column",
    "Sheet",
    "identifier",
    "read_cells",
    "read_classes",
    "read_names",
    "read_numbers",
    "read_sheet",
    "read_times",
]


class Cells(NamedTuple):
    """A column of measurements: value (a limit where censored), what it says, and upper ends (NaN where none)."""

    values: np.ndarray
    kinds: np.ndarray
    upper: np.ndarray


@dataclass(frozen=True)
class Column:
    """A column: its name as written, as an identifier, its unit, and its cells as text or objects."""

    name: str
    key: str
    unit: str | None
    cells: np.ndarray


@dataclass(frozen=True)
class Sheet:
    """A table.

    - `columns`: side by side.
    - `rows`: the number of each row: the line of the file, or the position in the table, counted from 0.
    - `source`: what messages call it.
    - `decimal_comma`: whether 0,5 means one half.
    - `notes`: what was noticed on the way.
    """

    columns: tuple[Column, ...]
    rows: np.ndarray
    source: str
    decimal_comma: bool = False
    notes: tuple[str, ...] = ()

    def find(self, name: str, role: str) -> Column:
        """The column of this name, with or without its unit. `role` names the argument in messages."""
        for attempt in ("name", "key", "bare"):
            found = [c for c in self.columns if _called(c, attempt) == str(name)]
            if len(found) > 1:
                raise DataError(
                    f"{self.source} has {len(found)} columns {name!r}: give each a name of its own."
                )
            if found:
                return found[0]
        names = [c.name for c in self.columns]
        raise DataError(
            f"{self.source} has no column {name!r}, asked for by {role}={name!r}{nearest(name, names)}; its "
            f"columns are {', '.join(names)}."
        )

    def told(self, where: np.ndarray, values: np.ndarray | None = None) -> str:
        """The first of these rows, with their values where given."""
        at = np.flatnonzero(where)
        parts = [
            f"row {self.rows[i]}" + ("" if values is None else f" = {shown(values[i])}") for i in at[:SHOWN]
        ]
        rest = f" and {len(at) - SHOWN} more" if len(at) > SHOWN else ""
        counted = "" if self.source != _TABLE else " (counted from 0)"
        return ", ".join(parts) + rest + counted


_TABLE = "the table"


def _called(column: Column, attempt: str) -> str:
    return _split_name(column.name)[0] if attempt == "bare" else getattr(column, attempt)


def _split_name(name: str) -> tuple[str, str | None]:
    """A heading without its unit, and the unit in its brackets."""
    found = _UNIT.fullmatch(name)
    if found is None or not found[1].strip():
        return name.strip(), None
    return found[1].strip(), (found[2] or found[3] or "").strip() or None


def identifier(name: str) -> str:
    """A name that can be an argument of a function.

    ```python
    from bayeshybrid.spreadsheet import identifier
    assert identifier("body weight") == "body_weight" and identifier("lambda") == "lambda_"
    ```
    """
    made = re.sub(r"\W+", "_", name).strip("_") or "column"
    made = f"_{made}" if made[0].isdigit() else made
    return f"{made}_" if keyword.iskeyword(made) else made


def read_sheet(table: Any) -> Sheet:
    """A table from the path of a CSV file, a data frame, or a mapping from column name to values.

    **Raises:** `DataError` for a table without rows, rows longer than the heading, columns of unequal length.

    ```python
    from bayeshybrid.spreadsheet import read_sheet
    sheet = read_sheet({"time [h]": [0, 1], "conc": ["<0.1", 2]})
    assert [column.key for column in sheet.columns] == ["time", "conc"] and sheet.columns[0].unit == "h"
    ```
    """
    if isinstance(table, str | Path):
        return _read_file(Path(table))
    if isinstance(table, Mapping) or (hasattr(table, "columns") and hasattr(table, "__getitem__")):
        names = list(table) if isinstance(table, Mapping) else list(table.columns)
        columns = tuple(_column(str(name), _plain(str(name), table[name])) for name in names)
        lengths = {column.name: len(column.cells) for column in columns}
        if len(set(lengths.values())) > 1:
            raise DataError(f"the columns of the table have unequal lengths: {lengths}")
        rows = next(iter(lengths.values()), 0)
        return _checked(Sheet(columns, np.arange(rows), _TABLE))
    raise DataError(
        f"table is a {type(table).__name__}: give the path of a CSV file, a data frame, or a mapping from column "
        'names to values, such as {"time": t, "conc": y}.'
    )


def _plain(name: str, values: Any) -> np.ndarray:
    if isinstance(values, np.ma.MaskedArray):
        masked = np.ma.getmaskarray(values)
        values = np.ma.getdata(values).astype(object)
        values[masked] = None
    array = np.asarray(values.to_numpy() if hasattr(values, "to_numpy") else values)
    if array.dtype.kind in "US":
        array = np.asarray(values, object)
    if array.ndim != 1:
        raise DataError(f"column {name!r} of the table has shape {array.shape}: give one value a row.")
    return array


def _column(name: str, cells: np.ndarray) -> Column:
    bare, unit = _split_name(name)
    return Column(name.strip(), identifier(bare), unit, cells)


def _checked(sheet: Sheet) -> Sheet:
    if not len(sheet.rows) or not sheet.columns:
        raise DataError(f"{sheet.source} is empty: it has no row of data.")
    return sheet


def _read_file(path: Path) -> Sheet:
    text, notes = _decoded(path)
    try:
        records, separator = _records(text, path.name)
    except csv.Error as error:
        raise DataError(f"{path.name} cannot be read as a table: {error}.") from None
    if len(records) < 2:
        raise DataError(f"{path.name} is empty: it has no row of data.")
    (_, heading), *body = records
    rows = np.array([number for number, _ in body])
    width = len(heading)
    long = np.array([any(cell.strip() for cell in record[width:]) for _, record in body])
    sheet = Sheet((), rows, path.name, separator == ";", notes)
    if long.any():
        raise DataError(
            f"{path.name}: {sheet.told(long)} {'holds' if long.sum() == 1 else 'hold'} more cells than the "
            f"heading names ({width}). Where a comma is the decimal sign, separate the columns by semicolons."
        )
    padded = [[cell.strip() for cell in record[:width]] + [""] * (width - len(record)) for _, record in body]
    cells = np.array(padded, object).reshape(len(body), width)
    columns = tuple(_column(name, cells[:, i]) for i, name in enumerate(heading))
    return _checked(Sheet(columns, rows, path.name, separator == ";", notes))


def _decoded(path: Path) -> tuple[str, tuple[str, ...]]:
    raw = path.read_bytes()
    if raw[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return raw.decode("utf-16"), ()
    try:
        return raw.decode("utf-8-sig"), ()
    except UnicodeDecodeError:
        return raw.decode("cp1252", errors="replace"), (
            f"{path.name} is not UTF-8: its letters were read as Windows-1252",
        )


def _records(text: str, source: str) -> tuple[list[tuple[int, list[str]]], str]:
    """Each record with the number of its first line, comments and blank lines left out, and the separator."""
    line_of = [0]

    def lines() -> Iterator[str]:
        for number, line in enumerate(io.StringIO(text, newline=""), 1):
            line_of[0] = number
            if not line.startswith("#"):
                yield line

    first = next((line for line in lines() if line.strip()), "")
    bare = re.sub(r'"[^"]*"', "", first)
    separator = max(";\t,", key=bare.count)
    if first and not bare.count(separator):
        raise DataError(
            f"{source} names a single column, {first.strip()!r}: separate columns by commas, semicolons or tabs."
        )
    found = []
    for record in csv.reader(lines(), delimiter=separator, skipinitialspace=True):
        start = line_of[0] - sum(cell.count("\n") for cell in record)
        if any(cell.strip() for cell in record):
            found.append((start, record))
    return found, separator


def read_cells(sheet: Sheet, column: Column) -> Cells:
    """What each cell of a column says: a number, nothing, below, above, or below a limit that is not given.

    **Raises:** `DataError` for other text and for infinite values, with their rows.

    ```python
    from bayeshybrid.spreadsheet import read_cells, read_sheet
    sheet = read_sheet({"conc": ["<0.1", 2, "NA", ">50", "BLQ"]})
    cells = read_cells(sheet, sheet.columns[0])
    assert cells.kinds.tolist() == [2, 0, 1, 3, 5] and cells.values[0] == 0.1
    ```
    """
    read = [_read_cell(cell, sheet.decimal_comma) for cell in column.cells]
    values = np.array([value for value, _ in read], float)
    kinds = np.array([kind for _, kind in read], int)
    _refuse_text(sheet, column, kinds == TEXT)
    _refuse_mixed_decimals(sheet, column)
    if np.isinf(values).any():
        raise DataError(
            f"{sheet.source}: {column.name} is infinite in {sheet.told(np.isinf(values))}. Correct it, leave the "
            "cell empty where nothing was measured, or write >50 for a value above 50."
        )
    return Cells(values, kinds, np.full(len(values), np.nan))


def _refuse_text(sheet, column, where):
    if where.any():
        raise DataError(
            f"{sheet.source}: {column.name} holds {int(where.sum())} cells that are no numbers: "
            f"{sheet.told(where, column.cells)}. Leave a cell empty (or NA) where nothing was measured, and write "
            "<0.1 for a value below a limit of 0.1."
        )


def _refuse_mixed_decimals(sheet, column):
    if not sheet.decimal_comma:
        return
    commas, points = (np.array([mark in str(c) and str(c) != "." for c in column.cells]) for mark in ",.")
    if commas.any() and points.any():
        raise DataError(
            f"{sheet.source}: {column.name} has decimal commas ({sheet.told(commas, column.cells)}) and decimal "
            f"points ({sheet.told(points, column.cells)}): write one of them."
        )


def _read_cell(cell: Any, comma: bool) -> tuple[float, int]:
    if is_absent(cell):
        return np.nan, EMPTY
    if isinstance(cell, int | float | np.number | np.bool_):
        value = float(cell)
        return (np.nan, EMPTY) if np.isnan(value) else (value, MEASURED)
    if not isinstance(cell, str):
        return np.nan, TEXT
    text = cell.strip()
    if text.lower() in _GAPS:
        return np.nan, EMPTY
    if text.lower().replace(" ", "") in _BELOW_LIMIT:
        return np.nan, UNQUANTIFIED
    limit = _LIMIT.fullmatch(text)
    value = _number(limit[2] if limit else text, comma)
    if value is None:
        return np.nan, TEXT
    return value, (BELOW if limit[1] in "<≤" else ABOVE) if limit else MEASURED


def _number(text: str, comma: bool) -> float | None:
    text = text.strip().replace("\u2212", "-")  # the minus of typesetters
    if comma and "." not in text:
        text = text.replace(",", ".")
    return float(text) if _NUMBER.fullmatch(text) or _INFINITE.fullmatch(text) else None


def read_numbers(sheet: Sheet, column: Column) -> np.ndarray:
    """A column of plain numbers, NaN where empty.

    **Raises:** `DataError` for text, limits such as <0.1 and infinite values.

    ```python
    from bayeshybrid.spreadsheet import read_numbers, read_sheet
    sheet = read_sheet({"weight": [70, None]})
    assert np.isnan(read_numbers(sheet, sheet.columns[0])).tolist() == [False, True]
    ```
    """
    cells = read_cells(sheet, column)
    _refuse_text(sheet, column, cells.kinds > EMPTY)
    return cells.values


def read_classes(sheet: Sheet, column: Column) -> tuple[np.ndarray, tuple[str, ...] | None]:
    """A column of numbers, or of words as whole numbers with the words they stand for, in alphabetical order.

    **Raises:** `DataError` where numbers and a few words are mixed, which looks like slips of the pen.

    ```python
    from bayeshybrid.spreadsheet import read_classes, read_sheet
    sheet = read_sheet({"sex": ["m", "f", "m"]})
    assert read_classes(sheet, sheet.columns[0])[0].tolist() == [1.0, 0.0, 1.0]
    ```
    """
    read = np.array([_read_cell(cell, sheet.decimal_comma)[1] for cell in column.cells])
    known = read != EMPTY
    if np.sum(read == TEXT) <= 0.5 * np.sum(known):
        return read_numbers(sheet, column), None
    words = np.array([str(cell).strip() for cell in column.cells], object)
    classes = sorted(set(words[known]))
    number = {word: float(i) for i, word in enumerate(classes)}
    values = [number[word] if there else np.nan for word, there in zip(words, known, strict=True)]
    return np.array(values), tuple(classes)


def read_names(sheet: Sheet, column: Column) -> tuple[np.ndarray, tuple[str, ...]]:
    """A column of names, each as its number in the order of first appearance, and the names.

    **Raises:** `DataError` for empty cells.

    ```python
    from bayeshybrid.spreadsheet import read_names, read_sheet
    sheet = read_sheet({"subject": [7.0, 3.0, 7.0]})
    assert read_names(sheet, sheet.columns[0])[1] == ("7", "3")
    ```
    """
    empty = np.array([_read_cell(cell, sheet.decimal_comma)[1] == EMPTY for cell in column.cells])
    if empty.any():
        raise DataError(
            f"{sheet.source}: {column.name} is empty in {sheet.told(empty)}. Every row needs its {column.key}."
        )
    words = [_word(cell) for cell in column.cells]
    names = tuple(dict.fromkeys(words))
    number = {name: i for i, name in enumerate(names)}
    return np.array([number[word] for word in words]), names


def _word(cell: Any) -> str:
    """A name as a person writes it: 3, not 3.0, where a column of numbers became floating."""
    whole = isinstance(cell, float | np.floating) and float(cell).is_integer()
    return str(int(cell)) if whole else str(cell).strip()


def read_times(sheet: Sheet, column: Column) -> tuple[np.ndarray, bool]:
    """A column of times as numbers, and whether they were dates, which become days since 1970-01-01.

    **Raises:** `DataError` for empty cells, infinite times and text that is neither number nor ISO date.

    ```python
    from bayeshybrid.spreadsheet import read_sheet, read_times
    sheet = read_sheet({"day": ["1970-01-02", "1970-01-04"]})
    assert read_times(sheet, sheet.columns[0])[0].tolist() == [1.0, 3.0]
    ```
    """
    dated = column.cells.dtype.kind == "M"
    cells = column.cells
    if cells.dtype == object:
        parsed = [_as_date(cell) for cell in cells]
        dated = any(is_date(cell) for cell in parsed)
        cells = _dates_only(sheet, column, parsed) if dated else cells
    times = as_numbers(column.name, cells).astype(float) if dated else read_numbers(sheet, column)
    empty = np.isnan(times)
    if empty.any():
        raise DataError(
            f"{sheet.source}: {column.name} is empty in {sheet.told(empty)}. Every row needs its time: give it, or "
            "leave the row out."
        )
    return times, dated


def _as_date(cell: Any) -> Any:
    """The date that a text in ISO form stands for; anything else as it is, plain numbers above all."""
    if isinstance(cell, np.datetime64):
        return cell.astype("datetime64[us]").item()
    if not isinstance(cell, str) or _NUMBER.fullmatch(cell.strip()):
        return cell
    try:
        return datetime.fromisoformat(cell.strip())
    except ValueError:
        return cell


def _dates_only(sheet: Sheet, column: Column, parsed: list[Any]) -> np.ndarray:
    gaps = [is_absent(c) or (isinstance(c, str) and c.strip().lower() in _GAPS) for c in parsed]
    odd = np.array([not gap and not isinstance(c, date) for gap, c in zip(gaps, parsed, strict=True)])
    if odd.any():
        raise DataError(
            f"{sheet.source}: {column.name} mixes dates with {sheet.told(odd, column.cells)}. Write every time as a "
            f"number, or every one as a date such as {ORIGIN} or {ORIGIN} 14:30."
        )
    cells = np.array([None if gap else c for gap, c in zip(gaps, parsed, strict=True)], object)
    return dates(column.name, cells)
