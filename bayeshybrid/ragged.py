"""Rows of a long table placed in arrays with one line for each unit, padded to the longest."""

from __future__ import annotations

from collections import Counter
from typing import Any, NamedTuple

import numpy as np

__all__ = ["Grid", "fill", "grid", "pad_last"]


class Grid(NamedTuple):
    """Where rows stand in `(unit, entry)`.

    - `unit`, `entry`: of each row.
    - `width`: how many entries the longest unit has, at least one.
    - `repeats`: how many rows share unit, time and kind with an earlier row.
    - `unsorted`: how many units did not have their rows in the order of time.
    """

    unit: np.ndarray
    entry: np.ndarray
    width: int
    repeats: int
    unsorted: int


def grid(unit: np.ndarray, times: np.ndarray, kind: np.ndarray | None = None) -> Grid:
    """Entries in the order of time. Rows of one unit and time share an entry if their kinds differ.

    ```python
    from bayeshybrid.ragged import grid
    found = grid(np.array([0, 0, 1, 1]), np.array([2.0, 1.0, 1.0, 1.0]))
    assert found.entry.tolist() == [1, 0, 0, 1] and found.repeats == 1 and found.unsorted == 1
    ```
    """
    kind = np.zeros(len(unit), int) if kind is None else kind
    met: Counter[Any] = Counter()
    turn = np.zeros(len(unit), int)
    for row, same in enumerate(zip(unit.tolist(), times.tolist(), kind.tolist(), strict=True)):
        turn[row] = met[same]
        met[same] += 1
    entry = np.zeros(len(unit), int)
    unsorted = 0
    for one in np.unique(unit):
        rows = np.flatnonzero(unit == one)
        places = sorted(set(zip(times[rows].tolist(), turn[rows].tolist(), strict=True)))
        number = {place: i for i, place in enumerate(places)}
        entry[rows] = [number[times[row].item(), turn[row].item()] for row in rows]
        unsorted += bool(np.any(np.diff(times[rows]) < 0))
    return Grid(unit, entry, int(entry.max(initial=0)) + 1, int(np.sum(turn > 0)), unsorted)


def fill(shape: tuple[int, ...], at: tuple[np.ndarray, ...], values: np.ndarray, rest: Any) -> np.ndarray:
    """An array that holds `values` at these places and `rest` elsewhere.

    ```python
    from bayeshybrid.ragged import fill
    assert fill((3,), (np.array([1]),), np.array([5.0]), 0.0).tolist() == [0.0, 5.0, 0.0]
    ```
    """
    array = np.full(shape, rest, dtype=np.result_type(values, type(rest)))
    array[at] = values
    return array


def pad_last(array: np.ndarray, default: np.ndarray) -> np.ndarray:
    """NaN at the end of each line replaced by its last number, or by the line's default where it has none.

    ```python
    from bayeshybrid.ragged import pad_last
    assert pad_last(np.array([[1.0, np.nan], [np.nan, np.nan]]), np.zeros(2)).tolist() == [[1.0, 1.0], [0.0, 0.0]]
    ```
    """
    array = array.copy()
    for line, rest in zip(array, default, strict=True):
        known = line[~np.isnan(line)]
        line[np.isnan(line)] = known[-1] if len(known) else rest
    return array
