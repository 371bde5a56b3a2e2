"""What a change does, over time: the difference of two forecasts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bayeshybrid.faults import ModelError
from bayeshybrid.plots.beyond import extrapolated, extrapolation_words
from bayeshybrid.plots.multiples import finish_units, name_components, unit_figure
from bayeshybrid.plots.panels import Panels, draw_outside, fill_band, finish, panel_figure, panels_beside
from bayeshybrid.plots.style import COMPONENTS, INK, MIDDLE, STATE_STYLES, wide
from bayeshybrid.plots.units import UnitPanels

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from bayeshybrid.contrast import Contrast
    from bayeshybrid.forecast import Quantity

THROUGH = {
    "facecolor": "none",
    "edgecolor": "#B5491C",
    "hatch": "\\\\\\\\",
    "linestyle": "--",
    "linewidth": 0.9,
    "zorder": 3,
}
SHARE = 0.005

__all__ = ["contrast"]


def contrast(contrast: Contrast, *, name: str | None = None, along: str | None = None) -> Figure:
    """The difference that a change makes, over time, and beside it the part that came through a network.

    Filled bands hold 50 and 90 % of the paired draws of the difference, the line is its median. The hatched band
    holds 90 % of the part that came through networks: it is what followed in the data, and nothing says that it
    follows when somebody intervenes. Cross-hatched, as in `forecast`, is where a network is asked under the
    change for what it never met.

    **Arguments:**

    - `contrast`: what the difference of two forecasts gave, `changed - baseline`.
    - `name`: which of its quantities, observed or latent; needed where several sites are observed.
    - `along`: as for `fit`.

    **Returns:** a matplotlib `Figure` with a panel for each component, or for each unit.

    **Raises:** `ModelError` for a quantity or an argument that is not there.

    ```python
    def model(t, y=None):
        k = bh.parameter("k", bh.prior_interval(0.1, 1.0))
        bh.observe("y", dist.Normal(jnp.exp(-k * t), 0.1), obs=y)
    data = {"t": np.arange(3.0), "y": np.array([1.0, 0.6, 0.4])}
    posterior = bh.infer(model, data, bh.NUTS(draws=100, warmup=100), key=0)
    effect = posterior.predict(key=1, change={"k": lambda k: k / 2}) - posterior.predict(key=1)
    assert bh.plots.contrast(effect).axes[0].get_ylabel() == "difference in y"
    ```
    """
    quantity = _chosen(contrast, name)
    forecast = contrast.changed
    panels = panels_beside(quantity, forecast, along)
    parts = _Parts(quantity, contrast.through_networks.get(quantity.name))
    outside = extrapolated(panels, forecast.extrapolation)
    what = ", ".join(forecast.changed) or "the inputs"
    title = f"Difference in {quantity.name} that a change of {what} makes"
    notes = _in_words(contrast, quantity.name)
    if isinstance(panels, UnitPanels):
        return _of_units(panels, parts, outside, [title, *notes])
    figure, columns = panel_figure(panels, (0.9,), (f"difference in {panels.words}",))
    for entry, (axes,) in zip(panels.shown, columns, strict=True):
        parts.draw(axes, panels, entry)
        if outside is not None:
            draw_outside(axes, panels.x, outside[panels.order])
    finish(figure, columns, panels, title, ". ".join(notes))
    return figure


def _chosen(contrast, name):
    known = {**contrast.latent, **contrast.observed}
    if name is None and len(contrast.observed) != 1:
        raise ModelError(f"plots.contrast: choose one with name=: {', '.join(known)}")
    if name is not None and name not in known:
        raise ModelError(f"plots.contrast: no {name!r} among the differences: there are {', '.join(known)}")
    return known[name or next(iter(contrast.observed))]


def _in_words(contrast, name):
    """How much of the difference came through networks, and how far these were led out of what they met."""
    if not contrast.through_networks:
        return []
    share = contrast.network_share(name)
    part = "less than 1 %" if share < SHARE else f"{100 * share:.0f} %"
    beyond = extrapolation_words(contrast.changed.extrapolation)
    return [f"{part} of it came through a network"] + [beyond] * bool(beyond)


class _Parts:
    """The difference and what of it came through networks, as bands that were computed once."""

    def __init__(self, whole: Quantity, through: Quantity | None) -> None:
        self.bands = {mass: whole.interval(mass) for mass in STATE_STYLES}
        self.middle = whole.quantile(0.5)
        self.through = None if through is None else (through.interval(0.9), through.quantile(0.5))

    def draw(self, axes: Axes, panels: Panels | UnitPanels, entry: int, colour: int | None = None) -> None:
        """One entry on a line at zero; of several components in one panel each in its colour."""
        axes.axhline(0.0, color=INK, linewidth=0.9, label="_no difference")
        line = MIDDLE if colour is None else COMPONENTS[colour % len(COMPONENTS)][0]
        for mass, style in STATE_STYLES.items():
            own = (
                style
                if colour is None
                else {"facecolor": line, "edgecolor": line, "alpha": 0.25, "linewidth": 0.6}
            )
            fill_band(axes, panels, self.bands[mass], entry, f"difference, {100 * mass:.0f} %", own)
        x, middle = wide(panels.places(entry), panels.row(self.middle, entry), half=panels.half)
        axes.plot(x, middle, color=line, linewidth=1.4, label="difference, median")
        if self.through is not None:
            band, median = self.through
            fill_band(axes, panels, band, entry, "through a network, 90 %", THROUGH)
            x, middle = wide(panels.places(entry), panels.row(median, entry), half=panels.half)
            told = "through a network, median"
            axes.plot(x, middle, color=THROUGH["edgecolor"], linestyle="--", linewidth=1.3, label=told)


def _of_units(panels, parts, outside, lines):
    figure, axes = unit_figure(panels, panels.shown, labels=[f"difference in {panels.words}"])
    several = panels.components > 1
    for unit, (one,) in axes.items():
        for part in range(panels.components):
            parts.draw(one, panels, unit * panels.components + part, part if several else None)
        if several and unit == panels.shown[0]:
            name_components(one, panels, parts.middle, unit)
        if outside is not None:
            draw_outside(one, panels.places(unit * panels.components), panels.along(outside, unit))
    finish_units(figure, axes, [*lines, panels.left_out])
    return figure
