"""From a scientist's own table, one row a measurement, to the arrays that a model of many units takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from .columns import short_of_digits
from .event_records import Codes, Given, marked, read_codes, read_doses
from .faults import DataError
from .measured import Measurements, counted, word_of
from .ragged import Grid, fill, grid, pad_last
from .spreadsheet import (
    ABOVE,
    BELOW,
    BETWEEN,
    EMPTY,
    MEASURED,
    UNQUANTIFIED,
    Cells,
    Column,
    Sheet,
    read_cells,
    read_classes,
    read_names,
    read_numbers,
    read_sheet,
    read_times,
)

__all__ = ["measurements"]


class _Rows(NamedTuple):
    """The table row by row; `used` says which rows are measurements."""

    sheet: Sheet
    columns: Mapping[str, Column]
    unit: np.ndarray
    names: tuple[str, ...]
    times: np.ndarray
    cells: Cells
    variable: np.ndarray
    variables: tuple[str, ...]
    codes: Codes
    doses: Given | None
    used: np.ndarray
    notes: tuple[str, ...]


def measurements(
    table: Any,
    individual: str | None = None,
    *,
    time: str,
    value: str,
    variable: str | None = None,
    lower_limit: float | str | None = None,
    upper_limit: float | str | None = None,
    dose: str | None = None,
    covariates: Sequence[str] | str = (),
    sd: str | None = None,
    n: str | None = None,
) -> Measurements:
    """Read a long table, one row a measurement, as the arguments of a model.

    Columns are called by their headings, with or without a unit in brackets ("conc [mg/L]"). An empty cell, NA or
    "." is missing; <0.1 lies below 0.1, >50 above 50, BLQ below `lower_limit`. Columns named EVID, MDV, CENS,
    LIMIT, RATE, ADDL, II and SS mean what they mean in NONMEM and Monolix.

    **Arguments:**

    - `table`: the path of a CSV file (columns separated by commas, semicolons or tabs; lines that begin with # are
      comments), a data frame, or a mapping from column name to values.
    - `individual`: the column that tells individuals, experiments or sites apart; `None` for a single series.
    - `time`, `value`: the columns of times (numbers, or dates, which become days since 1970-01-01) and of what was
      measured.
    - `variable`: the column that says which quantity a row measures.
    - `lower_limit`, `upper_limit`: a number or a column; values below (above) it are known to lie there, no more.
    - `dose`: the column of amounts, empty or 0 where none was given. A measurement at the time of a dose is of the
      state just before it.
    - `covariates`: columns that belong to an individual, or change in time.
    - `sd`, `n`: the columns of standard deviation and number, where `value` is the mean of replicates.

    **Returns:** `Measurements`, whose entries have the columns' names:

    - times `(unit, time)`, padded by repeating the last; without `individual` the first axis is left out, here and
      below;
    - values as `{"values", "missing"}` and, where needed, `"left"`, `"right"`, `"upper"`, for `bh.observe`:
      `(unit, time)`, `(unit, time, variable)`, or with a last axis of 2 for mean and sd, for
      `bh.noise.replicates`; padding is missing;
    - doses as `{"times", "amounts", "duration"}` `(unit, dose)`, padded with amount 0;
    - covariates `(unit,)`, or where one changes within an individual `{"times", "values"}` `(unit, change)`; words
      are whole numbers, with the words in `labels`;
    - numbers of replicates `(unit, time)`, 0 where nothing was measured.

    **Raises:** `DataError` for what cannot be understood, with the rows as in the file.

    ```python
    table = {
        "ID": [1, 1, 1, 2, 2], "TIME": [0, 1, 6, 0, 2], "DV": [None, 7.1, 2.0, None, 4.4], "AMT": [100, 0, 0, 80, 0],
    }
    read = bh.measurements(table, individual="ID", time="TIME", value="DV", dose="AMT")
    assert str(read) == "2 individuals, 3 values, 2 doses"
    assert read["AMT"]["amounts"].tolist() == [[100.0], [80.0]] and read["TIME"].shape == (2, 2)
    ```
    """
    covariates = (covariates,) if isinstance(covariates, str) else tuple(covariates)
    roles = {"individual": individual, "time": time, "value": value, "variable": variable, "dose": dose}
    roles |= {"sd": sd, "n": n, "lower_limit": lower_limit, "upper_limit": upper_limit}
    roles |= {f"covariates[{i}]": name for i, name in enumerate(covariates)}
    sheet = read_sheet(table)
    columns = {role: sheet.find(name, role) for role, name in roles.items() if isinstance(name, str)}
    limits = {role: roles[role] for role in ("lower_limit", "upper_limit")}
    read = _read_rows(sheet, columns, limits)
    where = grid(read.unit[read.used], read.times[read.used], read.variable[read.used])
    parts = [_times(read, where), _values(read, where), _numbers(read, where), _doses(read)]
    parts += [_covariate(read, columns[role]) for role in columns if role.startswith("covariates")]
    return _joined(read, where, [part for part in parts if part is not None])


# Row by row


def _read_rows(sheet: Sheet, columns: Mapping[str, Column], limits: Mapping[str, Any]) -> _Rows:
    taken = frozenset(column.name for column in columns.values())
    codes = read_codes(sheet, taken, doses="dose" in columns)
    times, dated = read_times(sheet, columns["time"])
    notes = [*sheet.notes, *codes.notes, *_lost_digits(columns)]
    if dated:
        notes.insert(0, f"{columns['time'].name}: dates became days since 1970-01-01")
        columns = {**columns, "time": replace(columns["time"], unit="d")}
    unit, names = np.zeros(len(times), int), ()
    if "individual" in columns:
        unit, names = read_names(sheet, columns["individual"])
    variable, variables = np.zeros(len(times), int), ()
    raw = read_cells(sheet, columns["value"])
    raw = raw._replace(kinds=np.where(codes.event, EMPTY, raw.kinds))
    cells = _limited(sheet, columns, marked(sheet, codes, raw), limits)
    doses = read_doses(sheet, columns["dose"], codes, cells, times, unit) if "dose" in columns else None
    dosed = np.zeros(len(times), bool) if doses is None else np.isin(np.arange(len(times)), doses.row)
    used = ~codes.event & ~(dosed & (cells.kinds == EMPTY))
    if "variable" in columns:  # a row that only gives a dose need not say what it measures
        some, variables = read_names(_part(sheet, used), _part_of(columns["variable"], used))
        variable[used] = some
    _check_measured(sheet, columns, cells, used)
    notes += doses.notes if doses else ()
    return _Rows(
        sheet, columns, unit, names, times, cells, variable, variables, codes, doses, used, tuple(notes)
    )


def _lost_digits(columns: Mapping[str, Column]) -> list[str]:
    kinds = {column.name: column.cells.dtype for column in columns.values()}
    return [
        short_of_digits(name, kind) for name, kind in kinds.items() if kind.kind == "f" and kind.itemsize < 8
    ]


def _part(sheet: Sheet, rows: np.ndarray) -> Sheet:
    return replace(sheet, rows=sheet.rows[rows])


def _part_of(column: Column, rows: np.ndarray) -> Column:
    return replace(column, cells=column.cells[rows])


def _limited(sheet: Sheet, columns: Mapping[str, Column], cells: Cells, limits: Mapping[str, Any]) -> Cells:
    """Cells with the limits of the instrument: what lies beyond one is known to lie there, no more."""
    name, ends = columns["value"].name, {}
    for role, limit in limits.items():
        given = role in columns
        ends[role] = read_numbers(sheet, columns[role]) if given else np.full(len(cells.values), np.nan)
        if limit is not None and not given:
            ends[role][:] = float(limit)
    low, high = ends["lower_limit"], ends["upper_limit"]
    values, kinds = cells.values.copy(), cells.kinds.copy()
    crossed = low >= high
    if crossed.any():
        raise DataError(
            f"{sheet.source}: lower_limit is not below upper_limit in {sheet.told(crossed, low)}."
        )
    unknown = (kinds == UNQUANTIFIED) & np.isnan(low)
    if unknown.any():
        raise DataError(
            f"{sheet.source}: {name} lies below a limit that is not given in "
            f"{sheet.told(unknown, columns['value'].cells)}: give lower_limit=, a number or a column."
        )
    for kind, limit, beyond in ((BELOW, low, values < low), (ABOVE, high, values > high)):
        here = (kinds == MEASURED) & beyond | ((kinds == UNQUANTIFIED) & (kind == BELOW))
        kinds[here], values[here] = kind, limit[here]
    return Cells(values, kinds, cells.upper)


def _check_measured(sheet: Sheet, columns: Mapping[str, Column], cells: Cells, used: np.ndarray) -> None:
    known = used & (cells.kinds != EMPTY)
    if not known.any():
        raise DataError(
            f"{sheet.source}: {columns['value'].name} holds no measured value in {len(sheet.rows)} rows."
        )
    if ("sd" in columns) != ("n" in columns):
        raise DataError(
            "sd= and n= belong together: the standard deviation of how many replicates? A known error of each value "
            "is data of the model: give it as a column of your own beside the measurements."
        )
    odd = known & (cells.kinds != MEASURED)
    if "sd" in columns and odd.any():
        raise DataError(
            f"{sheet.source}: the mean of replicates cannot be censored: {sheet.told(odd, columns['value'].cells)}. "
            "Give the replicates themselves, one row each, or leave these out."
        )


# Arrays


class _Entry(NamedTuple):
    """One argument of the model: its column, its arrays, the rows they come from and the labels of classes."""

    column: Column
    value: Any
    rows: np.ndarray | None = None
    classes: tuple[str, ...] | None = None
    notes: tuple[str, ...] = ()


def _count(read: _Rows) -> int:
    return len(read.names) or 1


def _last(read: _Rows) -> np.ndarray:
    """The last time that each unit has in the table, of whatever kind its row is."""
    last = np.full(_count(read), -np.inf)
    np.maximum.at(last, read.unit, read.times)
    return last


def _times(read: _Rows, where: Grid) -> _Entry:
    shape, at = (_count(read), where.width), (where.unit, where.entry)
    times = pad_last(fill(shape, at, read.times[read.used], np.nan), _last(read))
    first = np.flatnonzero(read.used)[::-1]  # of the rows that share an entry the first one stays
    rows = fill(shape, (where.unit[::-1], where.entry[::-1]), read.sheet.rows[first], -1)
    return _Entry(read.columns["time"], times, rows)


def _places(read: _Rows, where: Grid) -> tuple[tuple[int, ...], tuple[np.ndarray, ...]]:
    """The shape of the values, and where each measurement stands."""
    shape, at = (_count(read), where.width), (where.unit, where.entry)
    if not read.variables:
        return shape, at
    return (*shape, len(read.variables)), (*at, read.variable[read.used])


def _values(read: _Rows, where: Grid) -> _Entry:
    shape, at = _places(read, where)
    cells = Cells(*(part[read.used] for part in read.cells))
    kinds = fill(shape, at, cells.kinds, EMPTY)
    values = fill(shape, at, cells.values, np.nan)
    found = {"values": values, "missing": kinds == EMPTY}
    found |= {
        name: kinds == kind for name, kind in (("left", BELOW), ("right", ABOVE)) if (kinds == kind).any()
    }
    if (kinds == BETWEEN).any():
        found["upper"] = fill(shape, at, cells.upper, np.nan)
    if "sd" in read.columns:  # the sd of one reading is none
        spread = fill(shape, at, _replicates(read)[0][read.used], np.nan)
        found = {"values": np.stack([values, spread], axis=-1)}
        found["missing"] = np.isnan(found["values"])
    return _Entry(read.columns["value"], found, fill(shape, at, read.sheet.rows[read.used], -1))


def _replicates(read: _Rows) -> tuple[np.ndarray, np.ndarray]:
    """Standard deviation and number of the replicates behind each mean; NaN and 0 where there are none."""
    sheet, columns = read.sheet, read.columns
    sd, n = (read_numbers(sheet, columns[role]) for role in ("sd", "n"))
    known = read.used & (read.cells.kinds == MEASURED)
    whole = (n >= 1) & (n == np.round(n))
    for where, told, what in (
        (known & ~whole, n, f"{columns['n'].name} must be a whole number of at least 1"),
        (known & (sd < 0), sd, f"{columns['sd'].name}, a standard deviation, must not be negative"),
    ):
        if where.any():
            raise DataError(f"{sheet.source}: {what}: {sheet.told(where, told)}.")
    return np.where(known & (n > 1), sd, np.nan), np.where(known, n, 0.0)


def _numbers(read: _Rows, where: Grid) -> _Entry | None:
    """How many replicates stand behind each mean, 0 where there is none."""
    if "n" not in read.columns:
        return None
    shape, at = _places(read, where)
    return _Entry(read.columns["n"], fill(shape, at, _replicates(read)[1][read.used], 0.0))


def _doses(read: _Rows) -> _Entry | None:
    if read.doses is None:
        return None
    given, column = read.doses, read.columns["dose"]
    unit = read.unit[given.row]
    where = grid(unit, given.times)
    shape, at = (_count(read), where.width), (unit, where.entry)
    times = pad_last(fill(shape, at, given.times, np.nan), _last(read))
    amounts, duration = (fill(shape, at, part, 0.0) for part in (given.amounts, given.duration))
    none = () if len(unit) else (f"{column.name} holds no dose",)
    rows = fill(shape, at, read.sheet.rows[given.row], -1)
    return _Entry(column, {"times": times, "amounts": amounts, "duration": duration}, rows, notes=none)


def _covariate(read: _Rows, column: Column) -> _Entry:
    """A covariate of each unit, or with the times of its changes where it is not constant."""
    values, classes = read_classes(read.sheet, column)
    known, count = ~np.isnan(values), _count(read)
    lacking = np.setdiff1d(np.arange(count), read.unit[known])
    if len(lacking):
        raise DataError(
            f"{read.sheet.source}: {column.name} is nowhere given"
            + (f" for {_told(read, lacking)}: give it on one row of each." if read.names else ".")
        )
    low, high = (np.full(count, end) for end in (np.inf, -np.inf))
    np.minimum.at(low, read.unit[known], values[known])
    np.maximum.at(high, read.unit[known], values[known])
    kind = float if classes is None else int
    notes = () if classes is None else (f"{column.name}: {_numbered(classes)}",)
    if np.array_equal(low, high):
        return _Entry(column, low.astype(kind), None, classes, notes)
    return _Entry(column, _changing(read, column, values, kind), None, classes, notes)


def _numbered(classes: tuple[str, ...]) -> str:
    return ", ".join(f"{word} is {i}" for i, word in enumerate(classes))


def _told(read: _Rows, units: np.ndarray) -> str:
    """Some individuals by their names."""
    names = [read.names[i] for i in units[:5]]
    rest = f" and {len(units) - 5} more" if len(units) > 5 else ""
    return f"{read.columns['individual'].key} {', '.join(names)}{rest}"


def _changing(read: _Rows, column: Column, values: np.ndarray, kind: type) -> dict[str, np.ndarray]:
    known = ~np.isnan(values)
    first: dict[tuple[int, float], int] = {}
    for row in np.flatnonzero(known):
        first.setdefault((int(read.unit[row]), float(read.times[row])), int(row))
    rows = np.array(list(first.values()))
    twice = known.copy()
    for row in np.flatnonzero(known):
        twice[row] = values[row] != values[first[int(read.unit[row]), float(read.times[row])]]
    if twice.any():
        raise DataError(
            f"{read.sheet.source}: {column.name} has another value at the same time on an earlier row: "
            f"{read.sheet.told(twice, values)}."
        )
    where = grid(read.unit[rows], read.times[rows])
    shape, at = (_count(read), where.width), (where.unit, where.entry)
    filled = [pad_last(fill(shape, at, part[rows], np.nan), _last(read)) for part in (read.times, values)]
    return {"times": filled[0], "values": filled[1].astype(kind)}


# The whole


def _joined(read: _Rows, where: Grid, parts: list[_Entry]) -> Measurements:
    keys = [part.column.key for part in parts]
    twice = [key for key in keys if keys.count(key) > 1]
    if twice:
        raise DataError(f"two columns would both become the argument {twice[0]!r}: give one another heading.")
    single = "individual" not in read.columns
    labels = {part.column.key: part.classes for part in parts if part.classes}
    for role, names in (("individual", read.names), ("variable", read.variables)):
        labels |= {read.columns[role].key: names} if names else {}
    notes = (*read.notes, *(note for part in parts for note in part.notes), *_order(read, where))
    return Measurements(
        entries=MappingProxyType({part.column.key: _frozen(part.value, single) for part in parts}),
        labels=MappingProxyType(labels),
        units=MappingProxyType({part.column.key: part.column.unit for part in parts if part.column.unit}),
        rows=MappingProxyType(
            {part.column.key: _frozen(part.rows, single) for part in parts if part.rows is not None}
        ),
        line=_line(read),
        notes=notes,
        individual=None if single else read.columns["individual"].key,
        source=read.sheet.source,
    )


def _frozen(value: Any, single: bool) -> Any:
    """Arrays that cannot be written to, without the units' axis where there is a single series."""
    if isinstance(value, Mapping):
        return {name: _frozen(part, single) for name, part in value.items()}
    array = np.array(value[0] if single else value)
    array.setflags(write=False)
    return array


def _order(read: _Rows, where: Grid) -> list[str]:
    notes = []
    name = read.columns["time"].name
    if where.unsorted:
        of = f" in {where.unsorted} of {_count(read)}" if read.names else ""
        notes.append(f"{name}: not in order{of}; sorted")
    if where.repeats:
        notes.append(f"{name}: {where.repeats} repeated times are kept as replicates")
    known = read.used & (read.cells.kinds != EMPTY)
    bare = np.setdiff1d(np.arange(_count(read)), read.unit[known])
    if len(bare):
        notes.append(f"{_told(read, bare)}: no measured value, so known from the prior only")
    return notes


def _line(read: _Rows) -> str:
    kinds = read.cells.kinds[read.used]
    counts = [counted(_count(read), word_of(read.columns["individual"].key))] if read.names else []
    of = ""
    if read.variables:
        known = read.variable[read.used][kinds != EMPTY]
        of = f" ({', '.join(f'{name} {np.sum(known == i)}' for i, name in enumerate(read.variables))})"
    counts.append(counted(int(np.sum(kinds != EMPTY)), "value") + of)
    for kind, word in ((BELOW, "below"), (ABOVE, "above"), (BETWEEN, "between limits")):
        limits = read.cells.values[read.used][kinds == kind]
        if len(limits):
            at = "" if kind == BETWEEN else f" {limits[0]:g}" if np.ptp(limits) == 0 else " a limit"
            counts.append(f"{len(limits)} {word}{at}")
    empty = int(np.sum(kinds == EMPTY))
    counts += [f"{empty} empty"] if empty else []
    counts += [counted(len(read.doses.row), "dose")] if read.doses else []
    return ", ".join(counts)
