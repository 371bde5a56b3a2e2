"""One column of a table, or one array, as numbers: dates, gaps and mixed entries, and how faults in it are shown."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC
from difflib import get_close_matches
from typing import Any

import numpy as np

from .faults import DataError

ORIGIN = "1970-01-01"
SHOWN = 5
_SECONDS_PER_DAY = 86400.0

__all__ = [
    "ORIGIN",
    "SHOWN",
    "as_numbers",
    "dates",
    "first_cells",
    "is_absent",
    "is_date",
    "nearest",
    "shown",
]


def as_numbers(name: str, array: np.ndarray) -> np.ndarray:
    """Floating-point numbers as float64, dates as days since `ORIGIN`, durations as days; whole numbers stay.

    **Raises:** `DataError` for text, complex numbers and other objects.

    ```python
    from bayeshybrid.columns import as_numbers
    assert as_numbers("when", np.array(["1970-01-03"], "datetime64[D]")).tolist() == [2.0]
    ```
    """
    if array.dtype == object:
        array = _unwrapped(name, array)
    kind = array.dtype.kind
    if kind in "US":
        raise DataError(_text_message(name, array, np.ones(array.shape, bool)))
    if kind == "M":
        # One origin for all: times of the fit and of a forecast, and of several arguments, must agree.
        return (array - np.datetime64(ORIGIN, "D")) / np.timedelta64(1, "s") / _SECONDS_PER_DAY
    if kind == "m":
        return array / np.timedelta64(1, "s") / _SECONDS_PER_DAY
    if kind in "biu":
        return array
    if kind == "c":
        raise DataError(f"{name} holds complex numbers; give real and imaginary parts as two arguments.")
    if kind != "f" and str(array.dtype) not in ("bfloat16", "float8_e4m3fn"):
        raise DataError(f"{name} holds entries of type {array.dtype}; give numbers.")
    return array.astype(np.float64)


def _unwrapped(name: str, array: np.ndarray) -> np.ndarray:
    """An array of Python objects, as a mixed table gives it, as numbers or dates."""
    array = np.array([np.nan if is_absent(v) else v for v in array.ravel()], object).reshape(array.shape)
    text = np.array([isinstance(v, str | bytes) for v in array.ravel()], bool).reshape(array.shape)
    if text.any():
        raise DataError(_text_message(name, array, text))
    if any(is_date(v) for v in array.ravel()):
        return dates(name, array)
    try:
        return array.astype(float)
    except (TypeError, ValueError):
        raise DataError(
            f"{name} holds {array.ravel()[0]!r}; give numbers, NaN where there is none."
        ) from None


def short_of_digits(name: str, kind: np.dtype) -> str:
    """What to say of numbers that were stored with few digits.

    ```python
    from bayeshybrid.columns import short_of_digits
    assert "about 7 digits" in short_of_digits("y", np.dtype("float32"))
    ```
    """
    digits = {2: 3, 4: 7}.get(kind.itemsize, 1)
    return f"{name}: stored as {kind}, about {digits} digits; what was lost before cannot come back"


def is_absent(value: Any) -> bool:
    """Whether a table says here that there is nothing: None, or the markers of pandas.

    ```python
    from bayeshybrid.columns import is_absent
    assert is_absent(None) and not is_absent(0.0)
    ```
    """
    return value is None or type(value).__name__ in ("NAType", "NaTType")


def is_date(value: Any) -> bool:
    """Whether this is a date or a date with a time of day.

    ```python
    from bayeshybrid.columns import is_date
    assert not is_date("2020-01-01")
    ```
    """
    return hasattr(value, "isoformat")


def dates(name: str, array: np.ndarray) -> np.ndarray:
    """Dates without time zone, or all brought to UTC; gaps are not-a-time.

    ```python
    import datetime
    from bayeshybrid.columns import dates
    assert dates("day", np.array([datetime.date(2020, 1, 1)], object)) == np.datetime64("2020-01-01")
    ```
    """
    entries = []
    for value in array.ravel():
        if not is_date(value):
            if is_absent(value) or (isinstance(value, float) and np.isnan(value)):
                entries.append(np.datetime64("NaT"))
                continue
            raise DataError(f"{name} mixes dates with {value!r}; give one or the other.")
        if getattr(value, "tzinfo", None) is not None:
            value = value.astimezone(UTC).replace(tzinfo=None)
        entries.append(np.datetime64(value, "us"))
    return np.array(entries, "datetime64[us]").reshape(array.shape)


def _text_message(name: str, array: np.ndarray, where: np.ndarray) -> str:
    return (
        f"{name} holds text: {first_cells(array, where)}. Give numbers, NaN where there is none; encode classes "
        "as whole "
        "numbers, such as np.unique(values, return_inverse=True)[1]."
    )


def first_cells(values: np.ndarray, where: np.ndarray, unit: str | None = None) -> str:
    """The first offending cells as `[row, column] = value`.

    ```python
    from bayeshybrid.columns import first_cells
    assert first_cells(np.array([1.0, 0.0]), np.array([False, True]), "mV") == "[1] = 0 (in mV)"
    ```
    """
    rows = np.argwhere(where)
    told = [
        (f"[{', '.join(map(str, row))}] = " if row else "") + shown(values[tuple(row)])
        for row in rows[:SHOWN].tolist()
    ]
    rest = f" and {len(rows) - SHOWN} more" if len(rows) > SHOWN else ""
    return ", ".join(told) + rest + (f" (in {unit})" if unit and told else "")


def shown(value: Any) -> str:
    """A value as a message shows it.

    ```python
    from bayeshybrid.columns import shown
    assert shown(np.float64(0.1)) == "0.1" and shown("a") == "'a'"
    ```
    """
    if isinstance(value, float | np.floating):
        return f"{value:.6g}"
    return repr(getattr(value, "item", lambda: value)())


def nearest(name: Any, known: Iterable[str]) -> str:
    """A question in brackets after the one of the known names that is most like this one, or nothing.

    ```python
    from bayeshybrid.columns import nearest
    assert nearest("time", ["Times", "y"]) == " (did you mean 'Times'?)"
    ```
    """
    spelled = {str(k).lower(): str(k) for k in known}
    close = get_close_matches(str(name).lower(), spelled, n=1, cutoff=0.5)
    return f" (did you mean {spelled[close[0]]!r}?)" if close else ""
