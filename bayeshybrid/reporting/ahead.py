"""How far ahead a forecast says more than the record itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from bayeshybrid.plots.units import UnitPanels

if TYPE_CHECKING:
    from bayeshybrid.reporting.material import Material

MASS = 0.9
SHORTEST = 5

__all__ = ["Ahead", "look_ahead"]


@dataclass(frozen=True)
class Ahead:
    """One entry of an observed site along the horizontal axis.

    - `x`: positions, in order; `axis`: their name; `ends`: first and last position of the data, or `None`.
    - `ratio`: width of the central 90 % of a new measurement over that of the record's values, of all units where
      there are units; on the log scale where the record and the forecast are positive throughout. `None` where
      the record is too short.
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
    """One `Ahead` for each panel of an observed site of the forecast, at most six; for each entry of each unit."""
    forecast = material.forecast
    assert forecast is not None
    panels, observed = material.panels(forecast, site), forecast.observed[site]
    record = material.record_of(panels)
    positive = bool(np.all(observed.draws > 0))
    low, high = observed.interval(MASS)
    found = []
    for entry, name in enumerate(material.names(panels)):
        at, values = (np.zeros(0),) * 2 if record is None else panels.data(record, entry)
        known = np.isfinite(values)
        ends = None
        if record is not None and panels.axis_name and known.any():
            ends = (float(at[known].min()), float(at[known].max()))
        x = panels.places(entry)
        own = (
            values[known]
            if record is None or not isinstance(panels, UnitPanels)
            else _of_all(panels, record, entry)
        )
        ratio = _ratio(panels.row(low, entry), panels.row(high, entry), own, positive)
        found.append(Ahead(name, panels.axis_name, x, ends, ratio, _useful(x, ratio, ends)))
    return tuple(found)


def _of_all(panels, record, entry):
    """What was measured of one component in all units: one unit alone has few values."""
    values = panels.points(record)[1].values[..., entry % panels.components]
    return values[np.isfinite(values)]


def _ratio(low, high, record, positive):
    """Width of the forecast over that of the record; a range is the same range on any monotone scale."""
    if len(record) < SHORTEST or np.ptp(record) == 0:
        return None
    scale = np.log if positive and np.all(record > 0) else np.asarray
    ends = np.quantile(scale(record), [(1 - MASS) / 2, (1 + MASS) / 2])
    return (scale(high) - scale(low)) / (ends[1] - ends[0])


def _useful(x, ratio, ends):
    if ratio is None or ends is None:
        return None
    later = np.flatnonzero(x > ends[1])
    worse = later[ratio[later] >= 1.0]
    before = later if not len(worse) else later[later < worse[0]]
    return float(x[before[-1]]) if len(before) else None
