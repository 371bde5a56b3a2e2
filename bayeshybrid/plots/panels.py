"""One observed site cut into panels: its horizontal axis, its bands and the state that belongs to it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from bayeshybrid.faults import ModelError
from bayeshybrid.forecast import Forecast, Quantity
from bayeshybrid.plots.style import MEASURED, OBSERVED_STYLES, STATE_STYLES, legend, wide
from bayeshybrid.posterior import Posterior

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_PANELS = 6


class Panels:
    """One observed site cut into panels, with its horizontal axis and the state that belongs to it."""

    def __init__(self, forecast: Forecast, name: str, along: str | None) -> None:
        self.observed = forecast.observed[name]
        self.state = _state(forecast, self.observed)
        self.shape = self.observed.draws.shape[1:] or (1,)
        self.axis_name, self.axis, self.x = _horizontal(forecast.inputs, self.shape, along)
        self.order = np.argsort(self.x, kind="stable")
        self.x = self.x[self.order]

    def split(self, values: Any) -> np.ndarray:
        """Values in the site's shape as rows, one a panel, in the order of the horizontal axis."""
        return self._rows(np.reshape(values, self.shape))[:, self.order]

    def _rows(self, values):
        moved = np.moveaxis(values, self.axis, -1)
        return moved.reshape(-1, moved.shape[-1])[:MOST_PANELS]

    def points(self, given: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray]:
        """Where given data stand on the horizontal axis, and the data as rows, one a panel."""
        name = self.observed.name
        if name not in given:
            raise ModelError(f"plots: no {name!r} among the data, which hold {', '.join(given) or 'nothing'}")
        values = np.asarray(given[name], float)
        x = np.asarray(given.get(self.axis_name, self.x), float)
        if values.shape != (*self._others[: self.axis], *x.shape, *self._others[self.axis :]):
            raise ModelError(
                f"plots: data {name!r} have shape {values.shape}, the forecast {self.shape} along axis "
                f"{self.axis}, and {self.axis_name or 'the horizontal axis'} has {x.size} entries: give both"
            )
        return x, self._rows(values)

    @property
    def titles(self) -> list[str]:
        """A name for each panel."""
        labels = self.observed.labels if self.axis != len(self.shape) - 1 else ()
        found = []
        for index in np.ndindex(*self._others):
            words = [str(i) for i in index]
            if labels:
                words[-1] = labels[index[-1]]
            found.append(", ".join(words))
        return found[:MOST_PANELS]

    @property
    def left_out(self) -> str:
        """What a title must say where there are more entries than panels."""
        entries = int(np.prod(self._others, dtype=int))
        return f", first {MOST_PANELS} of {entries}" if entries > MOST_PANELS else ""

    @property
    def _others(self):
        return [n for i, n in enumerate(self.shape) if i != self.axis]

    def draw_bands(self, axes: Axes, panel: int) -> None:
        """Central bands of a new measurement, then of the state, and the state's median."""
        ends: tuple[Any, ...] = ()
        for mass, style in OBSERVED_STYLES.items():
            ends = self._band(axes, self.observed, panel, mass, f"new measurement, {100 * mass:.0f} %", style)
        if self.state is None:
            return
        for end in ends[1:]:  # the inner edges stay in sight where the state's band covers them
            axes.plot(ends[0], end, color=MEASURED, linestyle="--", linewidth=0.9, zorder=3)
        for mass, style in STATE_STYLES.items():
            self._band(axes, self.state, panel, mass, f"state, {100 * mass:.0f} %", style)
        x, middle = wide(self.x, self.split(self.state.quantile(0.5))[panel])
        axes.plot(x, middle, color="#00406B", linewidth=1.3, label="state, median")

    def _band(self, axes, quantity, panel, mass, label, style):
        low, high = (self.split(end)[panel] for end in quantity.interval(mass))
        x, low, high = wide(self.x, low, high)
        axes.fill_between(x, low, high, label=label, **style)
        return x, low, high


def chosen_site(forecast: Forecast, site: str | None) -> str:
    """The observed site to draw: the one that is named, or the only one."""
    names = ", ".join(forecast.observed)
    if not forecast.observed:
        raise ModelError("plots: the model observes nothing, so there is nothing to draw")
    if site is None and len(forecast.observed) > 1:
        raise ModelError(f"plots: the model observes {names}: choose one with site=")
    if site is not None and site not in forecast.observed:
        raise ModelError(f"plots: no observed site {site!r}: there are {names}")
    return site or next(iter(forecast.observed))


def _state(forecast: Forecast, observed: Quantity) -> Quantity | None:
    """The latent quantity in the shape of the observation, in its unit or in none; a solve before others."""
    shaped = [q for q in forecast.latent.values() if q.draws.shape == observed.draws.shape]
    for unit in dict.fromkeys((observed.unit, None)):
        for quantity in shaped:
            if quantity.unit == unit:
                return quantity
    return None


def _horizontal(inputs, shape, along):
    """Name, axis of the site and values of the horizontal axis."""
    vectors = {name: np.asarray(value) for name, value in inputs.items() if np.ndim(value) == 1}
    if along is not None:
        if along not in vectors or len(vectors[along]) not in shape:
            raise ModelError(
                f"plots: along={along!r} is no one-dimensional input as long as an axis of the site, {shape}: "
                f"there are {', '.join(f'{n} ({len(v)})' for n, v in vectors.items()) or 'none'}"
            )
        return along, shape.index(len(vectors[along])), vectors[along]
    for name, values in vectors.items():
        if len(values) == shape[0] and np.issubdtype(values.dtype, np.number):
            return name, 0, values
    return "", 0, np.arange(shape[0])


def data_of(given: Any) -> Any:
    """Data as given; of a posterior those of its observed sites, NaN where not measured exactly."""
    if not isinstance(given, Posterior):
        return given
    return {**given.target.inputs(), **given.check(key=0, draws=1).observed}


def panel_figure(panels: Panels, below: str, share: float) -> tuple[Figure, list[Any]]:
    """A figure with two rows of axes, one column a panel, and the axes as pairs."""
    from matplotlib.figure import Figure

    titles = panels.titles
    figure = Figure(figsize=(1.2 + 4.4 * len(titles), 6.2), layout="constrained")
    grid = figure.subplots(2, len(titles), sharex="col", squeeze=False, height_ratios=(1.0, share))
    for i, title in enumerate(titles):
        grid[0, i].set_title(title, fontsize=11)
        grid[1, i].set_xlabel(panels.axis_name or "entry")
    unit = f" ({panels.observed.unit})" if panels.observed.unit else ""
    grid[0, 0].set_ylabel(f"{panels.observed.name}{unit}")
    grid[1, 0].set_ylabel(below)
    return figure, list(zip(grid[0], grid[1], strict=True))


def finish(figure: Figure, rows: Any, panels: Panels, title: str) -> None:
    """Title, ticks and legend of a figure of panels."""
    from matplotlib.ticker import MaxNLocator

    figure.suptitle(title + panels.left_out, fontsize=12)
    for above, below in rows:
        below.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
        for axes in (above, below):
            axes.spines[["top", "right"]].set_visible(False)
    legend(figure, rows[0], min(5, 2 * len(rows) + 1))
