"""What was measured, cell by cell: exactly, not at all, or only beyond a limit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from bayeshybrid import configuration
from bayeshybrid.faults import ModelError
from bayeshybrid.observation import EXACT, INTERVAL, LEFT, MISSING, RIGHT
from bayeshybrid.plots.style import INK, marks
from bayeshybrid.posterior import Posterior
from bayeshybrid.survey import ask

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from bayeshybrid.fit import FitCheck
    from bayeshybrid.target import Target


class Cells(NamedTuple):
    """Measured cells of one site, all arrays of one shape.

    - `values`: NaN where not measured exactly; `limits`: NaN where not censored, the lower end of an interval.
    - `upper`: upper ends of intervals, else NaN; `kinds`: as `Measured.kinds` codes them.
    """

    values: np.ndarray
    limits: np.ndarray
    upper: np.ndarray
    kinds: np.ndarray

    def at(self, index: Any) -> Cells:
        """The cells of one unit or component."""
        return Cells(*(part[index] for part in self))

    def reshaped(self, *shape: int) -> Cells:
        """The same cells in another shape."""
        return Cells(*(part.reshape(shape) for part in self))


def read_cells(given: Any) -> Cells:
    """Cells from an array (NaN: not measured) or from the parts that `bh.observe` takes.

    ```python
    from bayeshybrid.plots.cells import read_cells
    found = read_cells({"values": [1.0, 0.1, 0.0], "left": [False, True, False], "missing": [False, False, True]})
    assert np.array_equal(found.values, [1.0, np.nan, np.nan], equal_nan=True) and found.limits[1] == 0.1
    ```
    """
    parts = given if isinstance(given, Mapping) else {"values": given}
    values = np.asarray(parts["values"], float)
    upper = np.full(values.shape, np.nan)
    if parts.get("upper") is not None:
        upper = np.broadcast_to(_aligned(parts["upper"], values, float), values.shape)
    kinds = np.full(values.shape, EXACT)
    for name, code in (("left", LEFT), ("right", RIGHT)):
        if parts.get(name) is not None:
            kinds = np.where(_aligned(parts[name], values, bool), code, kinds)
    kinds = np.where(np.isfinite(upper), INTERVAL, kinds)
    gaps = np.isnan(values)
    if not isinstance(parts.get("missing"), bool | None):
        gaps = gaps | _aligned(parts["missing"], values, bool)
    return told_cells(values, np.where(gaps, MISSING, kinds), upper)


def _aligned(mark, values, kind):
    """A mark may speak of whole events, which are the last axes of the values."""
    mark = np.asarray(mark, kind)
    return mark.reshape(mark.shape + (1,) * (values.ndim - mark.ndim))


def told_cells(values: np.ndarray, kinds: np.ndarray, upper: np.ndarray) -> Cells:
    """Cells from values, limits among them, and what is known of each; see `Measured.kinds`."""
    kinds = np.broadcast_to(_aligned(kinds, values, int), values.shape)
    return Cells(
        np.where(kinds == EXACT, values, np.nan),
        np.where(kinds > MISSING, values, np.nan),
        np.where(kinds == INTERVAL, upper, np.nan),
        kinds,
    )


def data_of(given: Any) -> Any:
    """Data as given; of a posterior its inputs and the `Cells` of its observed sites."""
    return {**given.target.inputs(), **cells_of(given)} if isinstance(given, Posterior) else given


def cells_of(posterior: Posterior) -> dict[str, Cells]:
    """What a posterior was fitted to, by observed site."""
    flat = posterior.unconstrained.reshape(-1, posterior.unconstrained.shape[-1])
    with configuration.scope():
        told = ask(posterior.target, flat[:1], ["kinds", "data"])
    names = [site.name for site in posterior.target.layout.observed]
    return {name: _fitted(posterior.target, told["data"][name][0], told["kinds"][name][0]) for name in names}


def checked_cells(target: Target, checked: FitCheck) -> dict[str, Cells]:
    """The same from a check of the fit, which has read them already."""
    return {name: _fitted(target, values, checked.kinds[name]) for name, values in checked.values.items()}


def _fitted(target, values, kinds):
    values = np.asarray(values, float)
    return told_cells(values, kinds, _upper_ends(target, values.shape))


def _upper_ends(target, shape):
    """Upper ends where an argument of the model carries them as `bh.observe` takes them."""
    for value in target.arguments().values():
        if isinstance(value, Mapping) and value.get("upper") is not None:
            upper = np.asarray(value["upper"], float)
            if upper.shape == shape:
                return upper
    return np.full(shape, np.nan)


def measured(given: Mapping[str, Any], name: str) -> Cells:
    """The cells of a site among given data: under its name, or under that of the only table there.

    **Raises:** `ModelError` where there are none.
    """
    tables = [value for value in given.values() if isinstance(value, Mapping) and "values" in value]
    if name not in given and len(tables) != 1:
        raise ModelError(f"plots: no {name!r} among the data, which hold {', '.join(given) or 'nothing'}")
    found = given[name] if name in given else tables[0]
    return found if isinstance(found, Cells) else read_cells(found)


def draw_cells(axes: Axes, x: np.ndarray, cells: Cells, label: str, style: Mapping[str, Any]) -> None:
    """Marks for what was measured, and at the limit for what is only known to lie beyond it.

    A triangle points to where the quantity is; a bar joins the two ends of an interval.
    """
    if np.isfinite(cells.values).any():
        marks(axes, x, cells.values, label, style)
    edge = style.get("markeredgecolor", INK)
    for word, kind, shape in (("below", LEFT, "v"), ("above", RIGHT, "^")):
        if np.any(cells.kinds == kind):
            limits = np.where(cells.kinds == kind, cells.limits, np.nan)
            open_mark = {
                "marker": shape,
                "markersize": 6,
                "markerfacecolor": "white",
                "markeredgecolor": edge,
            }
            marks(axes, x, limits, f"known to be {word} this", open_mark)
    between = np.broadcast_to(cells.kinds == INTERVAL, cells.values.shape)
    if between.any():
        low, high = cells.limits, np.where(np.isnan(cells.upper), cells.limits, cells.upper)
        axes.vlines(
            np.asarray(x)[between],
            low[between],
            high[between],
            color=edge,
            linewidth=1.4,
            label="known to lie between",
        )
