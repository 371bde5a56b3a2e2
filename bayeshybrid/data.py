"""A scientist's table becomes a model's data, and the gates that bad data do not pass.

Everything here runs on the host with NumPy, before any sampling: the names against the model's arguments, the
values against what the observation can be. Each message names the argument, the first cells and the remedy.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np

from .columns import ORIGIN, SHOWN, as_numbers, dates, first_cells, is_date, nearest, short_of_digits
from .faults import DataError, ModelError, Place

_LARGE, _SMALL, _RANGE = 1e9, 1e-9, 1e12


def check_arguments(model: Callable[..., Any], data: Mapping[str, Any]) -> dict[str, Any]:
    """The data as NumPy arrays, after their names have been checked against the model's arguments.

    Floating-point numbers become float64, integers and booleans stay what they are, dates become days since
    1970-01-01, missing entries of a table NaN. Tables and series (pandas, xarray) give their values.
    Mappings, tuples and lists of arrays keep their form. Whole numbers, truth values, `None` and objects that
    are no arrays are kept as they are.

    **Arguments:**

    - `model`: the numpyro model.
    - `data`: from argument name to value.

    **Returns:** a dictionary with the same names.

    **Raises:** `ModelError` for a model that is no function; `DataError` for a name that the model does not
    have, an argument without default that is lacking, or strings.

    ```python
    from bayeshybrid.data import check_arguments
    def model(times, pelts=None): ...
    data = check_arguments(model, {"times": [1900, 1901], "pelts": np.float32([30.0, 47.2])})
    assert data["pelts"].dtype == np.float64
    ```
    """
    if not callable(model):
        raise ModelError(f"model={model!r} is no function: write the numpyro model itself, a Python function")
    if not isinstance(data, Mapping):
        raise DataError(
            f"data is a {type(data).__name__}; write a mapping from the model's argument names to arrays, "
            "such as "
            '{"times": t, "y": y}.'
        )
    _check_names(model, data)
    return {name: _converted(name, value) for name, value in data.items()}


def conversions(data: Mapping[str, Any]) -> tuple[str, ...]:
    """What `check_arguments` changes in these data beyond their container, one line each.

    What `bh.measurements` noted about a table comes first.

    ```python
    from bayeshybrid.data import conversions
    notes = conversions({"when": np.array(["2020-01-01", "2020-01-03"], dtype="datetime64[D]")})
    assert notes == ("when: dates became days since 1970-01-01",)
    ```
    """
    notes: list[str] = list(getattr(data, "notes", ()))  # of what was read from a table
    for name, value in data.items():
        _gather_notes(name, value, notes)
    return tuple(notes)


def precision_losses(data: Mapping[str, Any]) -> tuple[str, ...]:
    """Those of `conversions` that say that digits are gone: a reader of the result must know.

    ```python
    from bayeshybrid.data import precision_losses
    assert len(precision_losses({"y": np.float32([0.1]), "n": np.array([1, 2])})) == 1
    ```
    """
    return tuple(note for note in conversions(data) if "digits" in note)


def _check_names(model: Callable[..., Any], data: Mapping[str, Any]) -> None:
    title = getattr(model, "__name__", type(model).__name__)
    arguments = inspect.signature(model).parameters
    kinds = inspect.Parameter
    named = [n for n, p in arguments.items() if p.kind in (kinds.POSITIONAL_OR_KEYWORD, kinds.KEYWORD_ONLY)]
    open_ended = any(p.kind is kinds.VAR_KEYWORD for p in arguments.values())
    lacking = [n for n in named if arguments[n].default is kinds.empty and n not in data]
    unknown = [name for name in data if name not in named]
    if unknown and not open_ended:
        raise DataError(
            f"{title} has no argument {unknown[0]!r}{nearest(unknown[0], named)}; its arguments are "
            f"{', '.join(named) or 'none'}."
        )
    if lacking:
        raise DataError(
            f"{title} needs {lacking[0]!r}, which the data lack{nearest(lacking[0], list(data))}; they hold "
            f"{', '.join(map(str, data)) or 'nothing'}."
        )


def _plain(value: Any) -> Any:
    """A table or series as an array; a masked array with NaN where masked."""
    if isinstance(value, np.ma.MaskedArray):
        return np.ma.filled(value.astype(float), np.nan) if np.any(value.mask) else np.asarray(value)
    if hasattr(value, "to_numpy"):
        return np.asarray(value.to_numpy())
    return value


def _is_numeric(value: Any) -> bool:
    return isinstance(value, np.ndarray | np.generic | float | complex) or (
        hasattr(value, "__array__") and hasattr(value, "dtype") and hasattr(value, "shape")
    )


def _converted(name: str, value: Any) -> Any:
    value = _plain(value)
    if isinstance(value, str | bytes):
        raise DataError(
            f"{name} = {value!r} is text; data are numbers. An option of the model is bound before: "
            f"functools.partial(model, {name}={value!r})."
        )
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, Mapping):
        return {key: _converted(f"{name}[{key!r}]", part) for key, part in value.items()}
    if isinstance(value, tuple | list):
        return _converted_sequence(name, value)
    if not _is_numeric(value) or _is_key(value):
        return value
    return as_numbers(name, np.asarray(value))


def _is_key(value: Any) -> bool:
    """Whether this is a random key of JAX, an array whose entries are no numbers."""
    return str(getattr(value, "dtype", "")).startswith("key<")


def _converted_sequence(name: str, values: Sequence[Any]) -> Any:
    array = _as_array(values)
    if array is not None:
        return as_numbers(name, array)
    parts = [_converted(f"{name}[{i}]", part) for i, part in enumerate(values)]
    make: Any = type(values)
    return make(*parts) if hasattr(values, "_fields") else make(parts)


def _as_array(values: Sequence[Any]) -> np.ndarray | None:
    """The sequence as one array, where it is a table of plain entries of one depth."""
    if hasattr(values, "_fields") or any(_is_numeric(v) and np.ndim(v) for v in values):
        return None
    try:
        array = np.asarray(values)
    except ValueError:
        return None
    plain = (int, float, str, bytes, np.generic, type(None))
    if array.dtype == object and not all(isinstance(v, plain) or is_date(v) for v in array.ravel()):
        return None
    return array


def _gather_notes(name: str, value: Any, notes: list[str]) -> None:
    value = _plain(value)
    if isinstance(value, Mapping):
        for key, part in value.items():
            _gather_notes(f"{name}[{key!r}]", part, notes)
        return
    if isinstance(value, tuple | list):
        array = _as_array(value)
        if array is None:
            for i, part in enumerate(value):
                _gather_notes(f"{name}[{i}]", part, notes)
            return
        value = array
    if not _is_numeric(value) or _is_key(value):
        return
    array = np.asarray(value)
    if array.dtype == object and array.size and any(is_date(v) for v in array.ravel()):
        array = dates(name, array)
    kind = array.dtype.kind
    if kind == "M":
        notes.append(f"{name}: dates became days since {ORIGIN}")
    elif kind == "m":
        notes.append(f"{name}: durations became days")
    elif kind == "f" and array.itemsize < 8:
        notes.append(short_of_digits(name, array.dtype))
    elif kind in "iu" and array.size and float(np.abs(array.astype(float)).max()) > 2.0**53:
        notes.append(f"{name}: whole numbers above 2^53 lose digits in floating point")


@contextmanager
def located(data: Mapping[str, Any]) -> Iterator[None]:
    """Within it, an error about cells of `data` also says where in their table these stand.

    **Arguments:**

    - `data`: as a user gave them; only what `bh.measurements` read knows its table.

    ```python
    from bayeshybrid.data import located
    with located({"y": np.ones(3)}):
        pass
    ```
    """
    try:
        yield
    except (DataError, ModelError) as error:
        told = _in_the_table(data, error.place)
        if not told:
            raise
        raise type(error)(f"{str(error).removesuffix('.')}. In the table: {told}.") from None


def _in_the_table(data: Mapping[str, Any], place: Place | None) -> str:
    rows = getattr(data, "rows", None)
    if place is None or not rows:
        return ""
    observed = [name for name in rows if isinstance(data[name], Mapping) and "values" in data[name]]
    fitting = observed if place.name else [name for name in rows if not isinstance(data[name], Mapping)]
    for name in sorted(fitting, key=lambda name: name != place.name):
        depth = rows[name].ndim
        if place.shape[:depth] == rows[name].shape:
            source: Any = data
            told = [source.place(name, cell[:depth]) for cell in place.cells]
            return "; ".join(dict.fromkeys(filter(None, told)))
    return ""


def check_observation(
    name: str,
    values: Any,
    kinds: Any,
    in_support: Any,
    support: Any,
    unit: str | None = None,
    notes: Sequence[str] = (),
    units: tuple[str, Sequence[str]] | None = None,
) -> list[str]:
    """The gate for one observed site: what cannot be used is an error, what is odd a warning.

    **Arguments:**

    - `name`: of the site.
    - `values`: the data, in `unit`.
    - `kinds`: whole numbers, one per cell or event, as `Measured.kinds` gives them: 0 exact, 1 missing,
      2 below, 3 above, 4 between, -1 contradictory. `None` if every cell is exact.
    - `in_support`: whether the distribution can give the value, one per cell or event.
    - `support`: what the support is called in messages: text or a numpyro constraint.
    - `unit`: the unit of the values.
    - `notes`: warnings already known of this site; they come first in what is returned.
    - `units`: what the leading axis counts, such as `"subject"`, and the names along it, which may be none.

    **Returns:** the warnings, a list of sentences.

    **Raises:** `DataError` with the first cells: NaN or infinity that is not declared missing, contradictory
    censoring, values that the distribution cannot give.

    ```python
    from bayeshybrid.data import check_observation
    warnings = check_observation("y", np.array([1.0, 2.0]), None, np.array([True, True]), "positive")
    assert warnings == []
    ```
    """
    values = np.asarray(values)
    kinds = _spread_over(np.zeros((), int) if kinds is None else np.asarray(kinds), values.shape)
    in_support = _spread_over(np.asarray(in_support, bool), values.shape)
    measured = kinds != 1
    _refuse(name, values, measured & ~np.isfinite(values), _undeclared, unit)
    _refuse(name, values, kinds == -1, _contradicting, unit)
    outside = measured & ~in_support & (kinds != 4)  # an interval may begin where the support does
    _refuse(name, values, outside, partial(_outside_message, support=support), unit)
    found = [*notes, *_amount(name, int(measured.sum())), *_magnitude(name, values[measured], unit)]
    return found + _bare_units(name, measured, units)


def _refuse(
    name: str, values: np.ndarray, where: np.ndarray, message: Callable[..., str], unit: str | None
) -> None:
    """An error about these cells, if there are any."""
    if where.any():
        error = DataError(message(name, values, where, unit))
        error.place = Place(name, values.shape, np.argwhere(where)[:SHOWN].tolist())
        raise error


def _undeclared(name: str, values: np.ndarray, where: np.ndarray, unit: str | None) -> str:
    return (
        f"{name}: {int(where.sum())} of {values.size} values are NaN or infinite: {first_cells(values, where, unit)}. "
        f"Correct them, or declare them missing: observe({name!r}, ..., missing=True) takes NaN as not measured."
    )


def _contradicting(name: str, values: np.ndarray, where: np.ndarray, unit: str | None) -> str:
    return (
        f"{name}: the censoring of {int(where.sum())} values contradicts itself: {first_cells(values, where, unit)}. "
        "A cell is left, right or interval-censored, one of them; and upper must lie above the value, NaN where a "
        "cell is not interval-censored."
    )


def _bare_units(name: str, measured: np.ndarray, units: tuple[str, Sequence[str]] | None) -> list[str]:
    """A warning that names the units of which nothing was measured, where something was of others."""
    if units is None or not measured.ndim or not measured.any():
        return []
    bare = np.flatnonzero(~measured.reshape(len(measured), -1).any(axis=1))
    if not len(bare):
        return []
    word, names = units[0], list(units[1]) or [str(i) for i in range(len(measured))]
    told = ", ".join(names[i] for i in bare[:SHOWN])
    rest = f" and {len(bare) - SHOWN} more" if len(bare) > SHOWN else ""
    return [
        f"{name}: nothing was measured of {word} {told}{rest}; what is their own is known from the prior only"
    ]


def _spread_over(marks: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Marks per event, or one for all, repeated over the cells."""
    if marks.ndim < len(shape) and marks.shape == shape[: marks.ndim]:
        marks = marks.reshape(marks.shape + (1,) * (len(shape) - marks.ndim))
    return np.broadcast_to(marks, shape)


def _outside_message(
    name: str, values: np.ndarray, outside: np.ndarray, unit: str | None, support: Any
) -> str:
    text = support_in_words(support)
    what = "zero or negative, but " if text == "positive" else ""
    mend = (
        "A zero is often a value below the detection limit: give the limit and left=..., declare the cell "
        "missing, "
        "or use noise that can be negative, such as dist.Normal."
        if text == "positive"
        else "Correct them, declare them missing, or use a distribution that can give them."
    )
    return (
        f"{name}: {int(outside.sum())} of {values.size} values are {what}outside what the distribution can "
        "give "
        f"({text}): {first_cells(values, outside, unit)}. {mend}"
    )


def support_in_words(support: Any) -> str:
    """What a numpyro constraint allows, in words; its kind alone where its ends are not known yet.

    ```python
    from bayeshybrid.data import support_in_words
    assert support_in_words(dist.LogNormal().support) == "positive"
    ```
    """
    if isinstance(support, str):
        return {"Positive": "positive"}.get(support, support)
    while hasattr(support, "base_constraint"):
        support = support.base_constraint
    if hasattr(support, "words"):
        return support.words
    kind = type(support).__name__.strip("_")
    low, high = (getattr(support, end, None) for end in ("lower_bound", "upper_bound"))
    try:
        low, high = (None if end is None else float(np.asarray(end)) for end in (low, high))
    except (TypeError, ValueError):
        return kind.replace("_", " ").lower()
    if kind == "Positive" or (low == 0.0 and high is None and kind.lower().replace("_", "") == "greaterthan"):
        return "positive"
    if low is None and high is None:
        return kind.replace("_", " ").lower()
    return (
        f"from {low:g} to {high:g}"
        if None not in (low, high)
        else f"above {low:g}"
        if high is None
        else f"below {high:g}"
    )


def _amount(name: str, measured: int) -> list[str]:
    if measured == 0:
        return [f"{name}: no value was measured; what depends on it alone is known from the prior only"]
    if measured == 1:
        return [f"{name}: a single value was measured; its noise is known from the prior only"]
    return []


def _magnitude(name: str, values: np.ndarray, unit: str | None) -> list[str]:
    """A warning where rounding or a solver's tolerance would be lost on the size of the values."""
    if values.dtype.kind not in "fiu":
        return []
    sizes = np.abs(values[values != 0].astype(float))
    if not sizes.size:
        return []
    typical, ratio = float(np.median(sizes)), float(sizes.max() / sizes.min())
    if typical >= _LARGE or typical <= _SMALL:
        step = 10.0 ** round(float(np.log10(typical)))
        of = f" {unit}" if unit else " of the present unit"
        return [
            f"{name}: typical size {typical:.1g}{of}; state it in units of {step:.0e}{of}, values near one"
        ]
    if ratio >= _RANGE:
        return [
            f"{name}: sizes range from {sizes.min():.1g} to {sizes.max():.1g}; noise of one size cannot "
            "suit both, use "
            "the logarithm or noise in proportion, such as dist.LogNormal"
        ]
    return []
