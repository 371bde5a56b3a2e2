"""How far ahead a forecast says more than the record itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from bayeshybrid.plots.panels import Panels

if TYPE_CHECKING:
    from bayeshybrid.reporting.material import Material

MASS = 0.9
SHORTEST = 5

__all__ = ["Ahead", "look_ahead"]


@dataclass(frozen=True)
class Ahead:
    """One entry of an observed site along the horizontal axis.

    - `x`: positions, in order; `axis`: their name; `ends`: first and last position of the data, or `None`.
    - `ratio`: width of the central 90 % of a new measurement over that of the record's values; on the log scale
      where the record and the forecast are positive throughout. `None` where the record is too short.
    - `useful`: last position beyond the data before the ratio first reaches one; `None` if there is none.
    """

    name: str
    axis: str
    x: np.ndarray
    ends: tuple[float, float] | None
    ratio: np.ndarray | None
    useful: float | None

    @property
    def later(self) -> np.ndarray:
        """Which positions lie beyond the last of the data."""
        return np.zeros(len(self.x), bool) if self.ends is None else self.x > self.ends[1]

    @property
    def beyond(self) -> np.ndarray:
        """Which positions lie outside the data, before or after."""
        return self.later if self.ends is None else self.later | (self.x < self.ends[0])


def look_ahead(material: Material, site: str) -> tuple[Ahead, ...]:
    """One `Ahead` for each panel of an observed site of the forecast, at most six."""
    forecast = material.forecast
    assert forecast is not None
    panels = material.panels(forecast, site)
    record = material.record_of(panels)
    points = panels.points(record) if record is not None else None
    draws = forecast.observed[site].draws.reshape(len(forecast.observed[site].draws), -1)
    found = []
    for entry, name in enumerate(material.names(panels)):
        values = np.array([]) if points is None else points[1][entry]
        known = np.isfinite(values)
        ends = None
        if points is not None and panels.axis_name and known.any():
            ends = (float(points[0][known].min()), float(points[0][known].max()))
        ratio = _ratio(panels, forecast.observed[site], entry, values[known], bool(np.all(draws > 0)))
        useful = _useful(panels, ratio, ends)
        found.append(Ahead(name, panels.axis_name, panels.x, ends, ratio, useful))
    return tuple(found)


def _ratio(panels: Panels, quantity, entry, record, positive):
    """Width of the forecast over that of the record; a range is the same range on any monotone scale."""
    if len(record) < SHORTEST or np.ptp(record) == 0:
        return None
    low, high = (panels.split(end)[entry] for end in quantity.interval(MASS))
    scale = np.log if positive and np.all(record > 0) else np.asarray
    ends = np.quantile(scale(record), [(1 - MASS) / 2, (1 + MASS) / 2])
    return (scale(high) - scale(low)) / (ends[1] - ends[0])


def _useful(panels, ratio, ends):
    if ratio is None or ends is None:
        return None
    later = np.flatnonzero(panels.x > ends[1])
    worse = later[ratio[later] >= 1.0]
    before = later if not len(worse) else later[later < worse[0]]
    return float(panels.x[before[-1]]) if len(before) else None
