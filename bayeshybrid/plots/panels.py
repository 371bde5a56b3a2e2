"""One observed site cut into panels: its horizontal axis, its bands and the state that belongs to it."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from bayeshybrid.faults import ModelError
from bayeshybrid.forecast import Forecast, Quantity
from bayeshybrid.plots.cells import measured
from bayeshybrid.plots.site import Site
from bayeshybrid.plots.style import (
    ALEATORIC,
    BEYOND,
    EPISTEMIC,
    MEASURED,
    MIDDLE,
    OBSERVED_STYLES,
    STATE_STYLES,
    as_written,
    legend,
    titled,
    wide,
)
from bayeshybrid.plots.units import UnitPanels

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_PANELS = 6
WITHIN = 2.0  # a residual beyond two standard deviations deserves a look


class Panels:
    """One observed site cut into panels along its horizontal axis; at most six are shown."""

    def __init__(self, site: Site, inputs: Mapping[str, Any], along: str | None) -> None:
        self.site = site
        self.shape = site.shape or (1,)
        self.axis_name, self.axis, self.x = _horizontal(inputs, self.shape, along)
        self.order = np.argsort(self.x, kind="stable")
        self.x = self.x[self.order]
        self.shown: Sequence[int] = range(min(self.entries, MOST_PANELS))
        self.narrow = False

    def only(self, entry: int) -> Panels:
        """The same with one panel, as narrow as a phone."""
        one = copy.copy(self)
        one.shown, one.narrow = [entry], True
        return one

    def split(self, values: Any) -> np.ndarray:
        """Values in the site's shape as rows, one an entry, in the order of the horizontal axis."""
        return self._rows(np.reshape(values, self.shape))[:, self.order]

    def _rows(self, values):
        moved = np.moveaxis(values, self.axis, -1)
        return moved.reshape(-1, moved.shape[-1])

    def points(self, given: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray]:
        """Where given data stand on the horizontal axis, and the data as rows, one an entry."""
        name = self.site.name
        values = np.atleast_1d(measured(given, name).values)
        x = np.asarray(given.get(self.axis_name, self.x), float)
        if values.shape != (*self._others[: self.axis], *x.shape, *self._others[self.axis :]):
            raise ModelError(
                f"plots: data {name!r} have shape {values.shape}, the forecast {self.shape} along axis "
                f"{self.axis}, and {self.axis_name or 'the horizontal axis'} has {x.size} entries: give both"
            )
        return x, self._rows(values)

    def places(self, entry: int) -> np.ndarray:
        """Where the cells of an entry stand on the horizontal axis: the same for all."""
        return self.x

    def row(self, values: Any, entry: int) -> np.ndarray:
        """Values in the site's shape: those of one entry at its places."""
        return self.split(values)[entry]

    def data(self, given: Mapping[str, Any], entry: int) -> tuple[np.ndarray, np.ndarray]:
        """Where the values of an entry were measured, and the values, NaN where not exactly."""
        x, values = self.points(given)
        return x, values[entry]

    @property
    def half(self) -> float:
        """Half the width at which a single cell is drawn."""
        return 0.4

    @property
    def titles(self) -> list[str]:
        """A name for each entry beside the horizontal axis."""
        labels = self.site.labels if self.axis != len(self.shape) - 1 else ()
        found = []
        for index in np.ndindex(*self._others):
            words = [str(i) for i in index]
            if labels:
                words[-1] = labels[index[-1]]
            found.append(", ".join(words))
        return found

    @property
    def words(self) -> str:
        """Name and unit, for the vertical axis."""
        return f"{self.site.name} ({self.site.unit})" if self.site.unit else self.site.name

    @property
    def entries(self) -> int:
        """How many panels there would be without a limit."""
        return int(np.prod(self._others, dtype=int))

    @property
    def left_out(self) -> str:
        """What a title must say where there are more entries than panels."""
        return f", first {MOST_PANELS} of {self.entries}" if self.entries > MOST_PANELS else ""

    @property
    def _others(self):
        return [n for i, n in enumerate(self.shape) if i != self.axis]


class Bands:
    """Central ranges of a new measurement and of the state that belongs to it, each computed once."""

    def __init__(self, forecast: Forecast, name: str) -> None:
        observed = forecast.observed[name]
        state = state_of(forecast, observed)
        self.observed = {mass: observed.interval(mass) for mass in OBSERVED_STYLES}
        self.state = None if state is None else {mass: state.interval(mass) for mass in STATE_STYLES}
        self.middle = observed.quantile(0.5) if state is None else state.quantile(0.5)


def draw_bands(axes: Axes, panels: Panels | UnitPanels, bands: Bands, entry: int) -> None:
    """Central bands of a new measurement, then of the state, and the state's median."""
    ends: tuple[Any, ...] = ()
    for mass, style in OBSERVED_STYLES.items():
        label = f"new measurement, {100 * mass:.0f} %"
        ends = fill_band(axes, panels, bands.observed[mass], entry, label, style)
    if bands.state is None:
        return
    for end in ends[1:]:  # the inner edges stay in sight where the state's band covers them
        axes.plot(ends[0], end, color=MEASURED, linestyle="--", linewidth=0.9, zorder=3)
    for mass, style in STATE_STYLES.items():
        fill_band(axes, panels, bands.state[mass], entry, f"state, {100 * mass:.0f} %", style)
    x, middle = wide(panels.places(entry), panels.row(bands.middle, entry), half=panels.half)
    axes.plot(x, middle, color=MIDDLE, linewidth=1.3, label="state, median")


def fill_band(
    axes: Axes, panels: Panels | UnitPanels, ends: Any, entry: int, label: str, style: Mapping[str, Any]
) -> tuple[np.ndarray, ...]:
    """One band of one entry, and where it stands: x, lower and upper end."""
    rows = (panels.row(end, entry) for end in ends)
    x, low, high = wide(panels.places(entry), *rows, half=panels.half)
    axes.fill_between(x, low, high, label=label, **style)
    return x, low, high


def draw_outside(axes: Axes, x: np.ndarray, outside: np.ndarray) -> None:
    """Hatch where a network is asked for what it never saw, halfway to the neighbours on both sides."""
    middles = (x[1:] + x[:-1]) / 2
    left, right = np.concatenate([x[:1], middles]), np.concatenate([middles, x[-1:]])
    label = "a network extrapolates"
    starts = np.flatnonzero(outside & ~np.concatenate([[False], outside[:-1]]))
    stops = np.flatnonzero(outside & ~np.concatenate([outside[1:], [False]]))
    for start, stop in zip(starts, stops, strict=True):
        axes.axvspan(left[start], right[stop], label=label, zorder=4, **BEYOND)
        label = "_" + label.lstrip("_")


def draw_shares(axes: Axes, x: np.ndarray, aleatoric: np.ndarray, epistemic: np.ndarray) -> None:
    """Two areas that fill the height; where there is no variance at all, nothing."""
    x, aleatoric, epistemic = wide(x, np.nan_to_num(aleatoric), np.nan_to_num(epistemic))
    axes.fill_between(x, 0.0 * epistemic, epistemic, label="epistemic: not known", **EPISTEMIC)
    axes.fill_between(x, epistemic, epistemic + aleatoric, label="aleatoric: noise", **ALEATORIC)
    axes.set_ylim(0.0, 1.0)


def chosen_site(observed: Mapping[str, Any], site: str | None) -> str:
    """The observed site to draw: the one that is named, or the only one."""
    names = ", ".join(observed)
    if not observed:
        raise ModelError("plots: the model observes nothing, so there is nothing to draw")
    if site is None and len(observed) > 1:
        raise ModelError(f"plots: the model observes {names}: choose one with site=")
    if site is not None and site not in observed:
        raise ModelError(f"plots: no observed site {site!r}: there are {names}")
    return site or next(iter(observed))


def state_of(forecast: Forecast, observed: Quantity) -> Quantity | None:
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


def forecast_panels(forecast: Forecast, site: str | None, along: str | None) -> Panels | UnitPanels:
    """The panels of one observed site of a forecast: small ones where its leading axis counts units."""
    return panels_beside(forecast.observed[chosen_site(forecast.observed, site)], forecast, along)


def panels_beside(quantity: Quantity, forecast: Forecast, along: str | None) -> Panels | UnitPanels:
    """The panels of a quantity that has the places and the units of a forecast, such as a difference of two."""
    own = [one.name for one in forecast.target.layout.latent if one.tag.across == quantity.across]
    anew = quantity.across is not None and bool(own) and set(own) <= set(forecast.drawn_anew)
    known = (forecast.labels, forecast.target.labels)
    return quantity_panels(quantity, forecast.inputs, along, known, anew=anew)


def quantity_panels(
    quantity: Quantity,
    inputs: Mapping[str, Any],
    along: str | None,
    known: Sequence[Mapping[str, Sequence[str]]] = (),
    *,
    anew: bool = False,
) -> Panels | UnitPanels:
    """The panels of any quantity; `known` are names of units by what they count, the first that knows them is heard."""
    across = quantity.across
    told = Site(quantity.name, quantity.draws.shape[1:], quantity.labels, quantity.unit, across, anew)
    if across is None or len(told.shape) < 2:
        return Panels(told, inputs, along)
    return UnitPanels(told, inputs, along, next((one[across] for one in known if one.get(across)), ()))


def panel_figure(panels: Panels, heights: Sequence[float], labels: Sequence[str]) -> tuple[Figure, list[Any]]:
    """A figure with rows of axes of these relative heights, one column a panel; the axes column by column."""
    from matplotlib.figure import Figure

    titles = panels.titles
    columns, rows = len(panels.shown), len(heights)
    width = 4.6 if panels.narrow else 1.2 + 4.4 * columns
    figure = Figure(figsize=(width, (3.0 if panels.narrow else 4.4) * sum(heights)), layout="constrained")
    grid = figure.subplots(rows, columns, sharex="col", squeeze=False, height_ratios=heights)
    for column, entry in enumerate(panels.shown):
        grid[0, column].set_title(titles[entry], fontsize=11)
        grid[-1, column].set_xlabel(panels.axis_name or "entry")
    for row, label in enumerate(labels):
        grid[row, 0].set_ylabel(label)
    return figure, list(grid.T)


def finish(figure: Figure, columns: Any, panels: Panels, title: str | None, note: str = "") -> None:
    """Title, ticks and legend of a figure of panels; without a title the caption stands elsewhere."""
    from matplotlib.ticker import MaxNLocator

    if title is not None:
        titled(figure, [title + panels.left_out, note])
    for several in columns:
        several[-1].xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
        for axes in several:
            axes.spines[["top", "right"]].set_visible(False)
    legend(figure, columns[0], 2 if len(columns) == 1 else min(5, 2 * len(columns) + 1))
    as_written(figure)
