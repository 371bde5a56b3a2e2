"""New measurements put where they belong along a forecast."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from bayeshybrid.faults import DataError
from bayeshybrid.forecast import Forecast
from bayeshybrid.plots.panels import Panels, forecast_panels
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
        at = _positions(panels, np.asarray(data[name], float), np.asarray(forecast.inputs[name], float))
        found.pop(name, None)
        for key, values in data.items():
            if key not in forecast.inputs and np.ndim(values) > panels.axis:
                found[key] = _spread(np.asarray(values, float), panels, at)
    return found


def _positions(panels, asked, known):
    """Where each position stands among those of the forecast."""
    near = np.abs(known - asked[:, None])
    at = near.argmin(axis=1)
    missed = asked[near[np.arange(len(asked)), at] > 1e-9 * (1.0 + np.abs(asked))]
    if len(missed):
        raise DataError(
            f"the measurements stand at {panels.axis_name} {missed[0]:g}, which was not forecast: forecast at that "
            "position too, or leave them out"
        )
    return at


def _spread(values, panels, at):
    """The values along the whole axis, NaN elsewhere."""
    if values.shape[panels.axis] != len(at):
        return values
    shape = list(values.shape)
    shape[panels.axis] = len(panels.x)
    full = np.full(shape, np.nan)
    full[(slice(None),) * panels.axis + (at,)] = values
    return full


def drawn_data(forecast: Forecast, data: Mapping[str, Any], panels: Panels) -> dict[str, Any] | None:
    """Measured values of one site for its picture; none where it was not measured."""
    reading = read_data(forecast, data).get(panels.site.name)
    if reading is None:
        return None
    inputs = {panels.axis_name: forecast.inputs[panels.axis_name]} if panels.axis_name else {}
    return {**inputs, panels.site.name: np.where(reading.kinds == 0, reading.values, np.nan)}
