"""New measurements put where they belong along a forecast."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from bayeshybrid.faults import DataError
from bayeshybrid.forecast import Forecast
from bayeshybrid.observation import MISSING
from bayeshybrid.plots.cells import read_cells, told_cells
from bayeshybrid.plots.panels import Panels, forecast_panels
from bayeshybrid.plots.units import UnitPanels
from bayeshybrid.readings import read_data

__all__ = ["drawn_data", "placed"]


def placed(forecast: Forecast, data: Mapping[str, Any]) -> dict[str, Any]:
    """The measurements in the shape of the forecast, NaN where nothing was measured.

    Where `data` hold the horizontal axis with other positions than the forecast's, each of their positions must be
    among the forecast's.

    **Raises:** `DataError` for a position that was not forecast.

    ```python
    from bayeshybrid.reporting.placing import placed
    model = lambda t, y=None: numpyro.sample("y", dist.Normal(t, 1.0), obs=y)
    ahead = bh.simulate(model, {"t": np.arange(4.0)}, key=0, draws=10)
    found = placed(ahead, {"t": np.array([2.0]), "y": np.array([7.0])})
    assert np.array_equal(found["y"], [np.nan, np.nan, 7.0, np.nan], equal_nan=True)
    ```
    """
    found = dict(data)
    for site in forecast.observed:
        panels = forecast_panels(forecast, site, None)
        name = panels.axis_name
        if not name or name not in data or np.array_equal(data[name], forecast.inputs[name]):
            continue
        asked, known = (np.asarray(one[name], float) for one in (data, forecast.inputs))
        spread = _along_units if isinstance(panels, UnitPanels) else _along_axis
        found.pop(name, None)
        for key, values in data.items():
            if key not in forecast.inputs and (isinstance(values, Mapping) or np.ndim(values)):
                found[key] = spread(values, panels, asked, known)
    return found


def _positions(name, asked, known):
    """Where each position stands among those of the forecast."""
    near = np.abs(known - asked[:, None])
    at = near.argmin(axis=1)
    missed = asked[near[np.arange(len(asked)), at] > 1e-9 * (1.0 + np.abs(asked))]
    if len(missed):
        raise DataError(
            f"the measurements stand at {name} {missed[0]:g}, which was not forecast: forecast at that position too, "
            "or leave them out"
        )
    return at


def _along_axis(values, panels, asked, known):
    """The values along the whole horizontal axis, NaN elsewhere; the parts of a table one by one."""
    at = _positions(panels.axis_name, asked, known)

    def whole(part, nothing):
        if part.ndim <= panels.axis or part.shape[panels.axis] != len(at):
            return part
        shape = list(part.shape)
        shape[panels.axis] = len(panels.x)
        full = np.full(shape, nothing)
        full[(slice(None),) * panels.axis + (at,)] = part
        return full

    return _parts(values, whole)


def _along_units(values, panels, asked, known):
    """The same for units, each at its own times; cells that hold nothing have no place."""
    cells = read_cells(values)
    shape = cells.kinds.shape
    if len(shape) < 2 or shape[0] != panels.units:
        return values
    asked, known = np.broadcast_to(asked, shape[:2]), np.broadcast_to(known, panels.shape[:2])
    held = np.any(cells.kinds.reshape(*shape[:2], -1) != MISSING, axis=-1)
    places = [_positions(panels.axis_name, asked[unit][held[unit]], known[unit]) for unit in range(len(held))]
    for unit, at in enumerate(places):
        if len(np.unique(at)) < len(at):
            raise DataError(
                f"{panels.unit_titles[unit]} has two measurements at one {panels.axis_name}: forecast each at a place "
                "of its own"
            )

    def whole(part, nothing):
        full = np.full((*panels.shape[:2], *part.shape[2:]), nothing)
        for unit, at in enumerate(places):
            full[unit, at] = part[unit][held[unit]]
        return full

    return _parts(values, whole)


def _parts(values, whole):
    if not isinstance(values, Mapping):
        return whole(np.asarray(values, float), np.nan)
    nothing = {"values": np.nan, "missing": True, "left": False, "right": False, "upper": np.nan}
    given = {name: np.asarray(part) for name, part in values.items() if part is not None}
    told = {
        name: whole(part * 1.0 if name in ("values", "upper") else part, nothing[name])
        for name, part in given.items()
    }
    if "missing" not in told:
        told["missing"] = np.isnan(told["values"])
    return told


def drawn_data(
    forecast: Forecast, data: Mapping[str, Any], panels: Panels | UnitPanels
) -> dict[str, Any] | None:
    """Measured values of one site for its picture; none where it was not measured."""
    reading = read_data(forecast, data).get(panels.site.name)
    if reading is None:
        return None
    inputs = {panels.axis_name: forecast.inputs[panels.axis_name]} if panels.axis_name else {}
    return {**inputs, panels.site.name: told_cells(reading.values, reading.kinds, reading.upper)}
