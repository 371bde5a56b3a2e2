"""Doses in a table, and the columns by which pharmacometrics says what a row is (NONMEM, Monolix).

`EVID` (0 measurement, 1 dose, 2 other event), `MDV` (1: the value is missing), `CENS` with `LIMIT`, `RATE`, `ADDL` and
`II` are read as those programs read them (NONMEM Users Guide, part VI; Monolix documentation, "Data format").
Steady state (`SS`) and resets (`EVID` 3 and 4) are refused; compartments (`CMT`) are the model's own business.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from .faults import DataError
from .spreadsheet import ABOVE, BELOW, BETWEEN, EMPTY, MEASURED, Cells, Column, Sheet, read_numbers

CODES = ("EVID", "MDV", "CENS", "LIMIT", "RATE", "ADDL", "II", "CMT", "SS")
_OF_DOSES = ("RATE", "ADDL", "II", "CMT", "SS")
_MOST_REPEATS = 10_000

__all__ = ["Codes", "Given", "marked", "read_codes", "read_doses"]


class Codes(NamedTuple):
    """The columns of pharmacometrics that a table has, in capitals, and which rows are events, not measurements."""

    numbers: Mapping[str, np.ndarray]
    event: np.ndarray
    notes: tuple[str, ...]


class Given(NamedTuple):
    """Doses one by one: row of the table (counted from 0), time, amount and duration of the infusion."""

    row: np.ndarray
    times: np.ndarray
    amounts: np.ndarray
    duration: np.ndarray
    notes: tuple[str, ...]


def read_codes(sheet: Sheet, taken: frozenset[str], doses: bool) -> Codes:
    """The columns of pharmacometrics, by their names in capitals or not, but for those that are `taken` by name.

    **Arguments:**

    - `sheet`: the table.
    - `taken`: names of columns that play another part.
    - `doses`: whether doses are read at all; without, only what says which rows are measurements counts.

    **Raises:** `DataError` for what cannot be followed: resets, steady state, codes that do not exist.

    ```python
    from bayeshybrid.event_records import read_codes
    from bayeshybrid.spreadsheet import read_sheet
    sheet = read_sheet({"TIME": [0, 1], "DV": [None, 2.0], "AMT": [100, None], "EVID": [1, 0]})
    assert read_codes(sheet, frozenset({"TIME", "DV", "AMT"}), doses=True).event.tolist() == [True, False]
    ```
    """
    numbers, columns = {}, {}
    for column in sheet.columns:
        code = column.key.upper()
        if code in CODES and column.name not in taken and (doses or code not in _OF_DOSES):
            columns[code] = column
            if code != "CMT":
                numbers[code] = read_numbers(sheet, column)
    if "CENS" not in numbers:
        numbers.pop("LIMIT", None)  # alone it can mean anything
    none = np.zeros(len(sheet.rows))
    events = np.nan_to_num(numbers.get("EVID", none))
    _check_codes(sheet, numbers, events)
    told = [code for code in CODES if code in numbers]
    notes = [f"{', '.join(told)}: read as NONMEM and Monolix read them"] if told else []
    if "CMT" in columns and len(set(map(str, columns["CMT"].cells))) > 1:
        notes.append(
            f"{columns['CMT'].name} varies and is not read: say in the model which state a dose enters"
        )
    return Codes(numbers, events != 0, tuple(notes))


def _check_codes(sheet: Sheet, numbers: Mapping[str, np.ndarray], events: np.ndarray) -> None:
    allowed = {"EVID": (0, 1, 2, 3, 4), "MDV": (0, 1), "CENS": (-1, 0, 1)}
    for code, values in allowed.items():
        odd = ~np.isin(np.nan_to_num(numbers.get(code, events * 0)), values)
        if odd.any():
            raise DataError(
                f"{sheet.source}: {code} is none of {', '.join(map(str, values))} in "
                f"{sheet.told(odd, numbers[code])}."
            )
    if (events >= 3).any():
        raise DataError(
            f"{sheet.source}: EVID resets the system in {sheet.told(events >= 3, events)}, which is not supported. "
            "Give each period an ID of its own, and share its parameters in the model."
        )
    steady = np.nan_to_num(numbers.get("SS", events * 0)) != 0
    if steady.any():
        raise DataError(
            f"{sheet.source}: SS asks for a steady state in {sheet.told(steady)}, which is not supported. Write the "
            "earlier doses out, by ADDL and II, from a time at which the system is empty."
        )


def marked(sheet: Sheet, codes: Codes, cells: Cells) -> Cells:
    """Measurements with what `MDV`, `CENS` and `LIMIT` say of them.

    `CENS` 1: below the value, or between `LIMIT` and the value; `CENS` -1: above it, or between it and `LIMIT`.

    **Raises:** `DataError` where these contradict each other or the cell.

    ```python
    from bayeshybrid.event_records import marked, read_codes
    from bayeshybrid.spreadsheet import read_cells, read_sheet
    sheet = read_sheet({"DV": [0.1, 2.0], "CENS": [1, 0]})
    cells = marked(sheet, read_codes(sheet, frozenset({"DV"}), False), read_cells(sheet, sheet.columns[0]))
    assert cells.kinds.tolist() == [2, 0]
    ```
    """
    values, kinds, upper = (part.copy() for part in cells)
    nothing = np.full(len(values), np.nan)
    gone = np.nan_to_num(codes.numbers.get("MDV", nothing)) == 1
    kinds[gone], values[gone] = EMPTY, np.nan
    censored = np.nan_to_num(codes.numbers.get("CENS", nothing))
    censored[gone | codes.event] = 0
    limit = codes.numbers.get("LIMIT", nothing)
    for side, kind in ((1, BELOW), (-1, ABOVE)):
        here = censored == side
        odd = here & ~np.isin(kinds, (MEASURED, kind))
        if odd.any():
            raise DataError(
                f"{sheet.source}: CENS = {side} contradicts the cell in {sheet.told(odd)}: the value must be the "
                "limit itself."
            )
        between = here & ~np.isnan(limit)
        wrong = between & ((limit - values) * side >= 0)
        if wrong.any():
            raise DataError(
                f"{sheet.source}: LIMIT is on the wrong side of the value in {sheet.told(wrong, limit)}. With CENS = "
                f"{side} it must lie {'below' if side == 1 else 'above'} it."
            )
        kinds[here] = kind
        kinds[between] = BETWEEN
        ends = np.sort(np.stack([values, limit]), axis=0)
        values[between], upper[between] = ends[0][between], ends[1][between]
    return Cells(values, kinds, upper)


def read_doses(
    sheet: Sheet, column: Column, codes: Codes, cells: Cells, times: np.ndarray, unit: np.ndarray
) -> Given:
    """The doses of a table, repeats written out, each at its time.

    Without `EVID`, an amount that stands unchanged on every row of an individual with several measurements is one
    dose at its first time, as in R's `Theoph`.

    **Arguments:**

    - `column`: amounts; empty or 0 is no dose.
    - `codes`: of the same table; `cells`: its measurements; `times`, `unit`: of each row.

    **Raises:** `DataError` for negative amounts, and for dose records that make no sense.

    ```python
    from bayeshybrid.event_records import read_codes, read_doses
    from bayeshybrid.spreadsheet import read_cells, read_sheet
    sheet = read_sheet({"DV": [None, 2.0], "AMT": [100, 0], "ADDL": [2, 0], "II": [12, 0]})
    codes, cells = read_codes(sheet, frozenset({"DV", "AMT"}), True), read_cells(sheet, sheet.columns[0])
    given = read_doses(sheet, sheet.columns[1], codes, cells, np.array([0.0, 8.0]), np.zeros(2, int))
    assert given.times.tolist() == [0.0, 12.0, 24.0] and given.amounts.tolist() == [100.0, 100.0, 100.0]
    ```
    """
    amounts = np.nan_to_num(read_numbers(sheet, column))
    if (amounts < 0).any():
        raise DataError(
            f"{sheet.source}: {column.name} is negative in {sheet.told(amounts < 0, amounts)}. A dose is an amount "
            "that enters; what is taken out belongs in the equation."
        )
    notes: tuple[str, ...] = ()
    if "EVID" in codes.numbers:
        _check_events(sheet, column, codes, amounts)
    else:
        amounts, notes = _once(column, amounts, cells, times, unit)
    at = np.flatnonzero(amounts)
    both = int(np.sum((amounts > 0) & (cells.kinds != EMPTY) & ~codes.event))
    if both and not notes:
        notes = (
            f"{column.name}: {both} rows hold a dose and a measurement: the measurement is of the state before it",
        )
    return _repeated(sheet, codes, at, times[at], amounts[at])._replace(notes=notes)


def _check_events(sheet: Sheet, column: Column, codes: Codes, amounts: np.ndarray) -> None:
    events = np.nan_to_num(codes.numbers["EVID"])
    for where, what in (
        ((events == 1) & (amounts == 0), "EVID = 1 says dose, but there is no amount"),
        ((events != 1) & (amounts > 0), "there is an amount, but EVID does not say dose (1)"),
    ):
        if where.any():
            raise DataError(f"{sheet.source}: {column.name}: {what} in {sheet.told(where)}.")


def _once(
    column: Column, amounts: np.ndarray, cells: Cells, times: np.ndarray, unit: np.ndarray
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Amounts with those that only repeat what an individual was given kept at its first time alone."""
    kept, repeated = amounts.copy(), 0
    for one in range(unit.max() + 1):
        rows = np.flatnonzero(unit == one)
        several = np.sum(cells.kinds[rows] != EMPTY) > 1
        if several and amounts[rows[0]] > 0 and np.all(amounts[rows] == amounts[rows[0]]):
            repeated += 1
            kept[rows] = 0.0
            kept[rows[np.argmin(times[rows])]] = amounts[rows[0]]
    if not repeated:
        return amounts, ()
    return kept, (
        f"{column.name}: the same amount stands on every row of {repeated} of {unit.max() + 1}, so it was read as "
        "one dose each, at the first time; doses given again and again need rows of their own, without a value",
    )


def _repeated(sheet: Sheet, codes: Codes, at: np.ndarray, times: np.ndarray, amounts: np.ndarray) -> Given:
    """Doses with their infusions, and those that `ADDL` and `II` add."""
    nothing = np.zeros(len(sheet.rows))
    rate, more, gap = (np.nan_to_num(codes.numbers.get(code, nothing))[at] for code in ("RATE", "ADDL", "II"))

    def refuse(where: np.ndarray, what: str) -> None:
        if where.any():
            told = np.isin(np.arange(len(sheet.rows)), at[where])
            raise DataError(f"{sheet.source}: {what} in {sheet.told(told)}.")

    refuse(rate < 0, "RATE is negative, which leaves rate or duration to the model; give the rate")
    refuse((more < 0) | (more != np.round(more)), "ADDL is no whole number of further doses")
    refuse(more > _MOST_REPEATS, f"ADDL asks for more than {_MOST_REPEATS} further doses")
    refuse((more > 0) & (gap <= 0), "ADDL asks for further doses, but II gives no time between them")
    count = more.astype(int) + 1
    step = np.concatenate([np.arange(n) for n in count]) if len(count) else np.zeros(0)
    spread = np.repeat(np.arange(len(at)), count)
    duration = np.where(rate > 0, amounts / np.where(rate > 0, rate, 1.0), 0.0)
    return Given(at[spread], times[spread] + step * gap[spread], amounts[spread], duration[spread], ())
