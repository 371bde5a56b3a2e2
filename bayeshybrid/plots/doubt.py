"""Where the doubt of a forecast comes from, as shares that fill the height."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from bayeshybrid.forecast import Forecast
from bayeshybrid.plots.multiples import finish_units, unit_figure
from bayeshybrid.plots.panels import Panels, finish, forecast_panels, panel_figure
from bayeshybrid.plots.site import Site
from bayeshybrid.plots.style import ALEATORIC, GROUPS, LEFT_OVER, wide
from bayeshybrid.plots.units import UnitPanels

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from bayeshybrid.uncertainty import Budget

__all__ = ["budget"]


def budget(budget: Budget, *, forecast: Forecast | None = None, along: str | None = None) -> Figure:
    """Where the variance of a new measurement comes from, stacked to one, entry by entry.

    One column for each entry along the last axis of the observed site (at most six). At the bottom the groups of
    unknowns, each with a colour and a hatch of its own, then what could not be attributed, then in pale grey what
    would remain if every unknown were known. A row that came out negative is drawn as nothing. Where the site's
    leading axis counts units, a small panel for each, as for `fit`.

    **Arguments:**

    - `budget`: what `bh.uncertainty.budget` returned.
    - `forecast`: the forecast that was split: it gives the horizontal axis, else the number of the entry.
    - `along`: as for `fit`.

    **Returns:** a matplotlib `Figure`.

    ```python
    from bayeshybrid.uncertainty import Budget
    one, three = np.ones(4), 3 * np.ones(4)
    rows = {"noise": one, "rates": three, "not attributed": 0 * one}
    told = Budget("y", "K", (), "identity", rows, {}, one + three, three, ("rates",), (), {}, one, (), 0 * one)
    assert bh.plots.budget(told).axes[0].get_ylabel() == "share of variance"
    ```
    """
    title = f"Where the doubt about {budget.site} comes from"
    known = getattr(forecast, "observed", {}).get(budget.site)
    if forecast is not None and known is not None and known.draws.shape[1:] == np.shape(budget.total):
        panels = forecast_panels(forecast, budget.site, along)
        if isinstance(panels, UnitPanels):
            return _of_units(panels, budget, title)
        return draw_budget(panels, budget, title)
    site = Site(budget.site, np.shape(budget.total), tuple(budget.labels), budget.unit)
    panels = Panels(site, forecast.inputs if forecast is not None else {}, along)
    return draw_budget(panels, budget, title)


def draw_budget(panels: Panels, budget: Budget, title: str | None = None) -> Figure:
    """The picture of `budget` on panels that were made."""
    figure, columns = panel_figure(panels, (1.0,), ("share of variance",))
    for i, (axes,) in zip(panels.shown, columns, strict=True):
        _stack(axes, budget, panels.x, lambda values, entry=i: panels.row(values, entry), panels.half)
        axes.set_xlim(panels.x.min() - 0.4 * (len(panels.x) == 1), None)
    finish(figure, columns, panels, title)
    return figure


def _of_units(panels, budget, title):
    """A small panel a unit, its components together."""
    figure, axes = unit_figure(panels, panels.shown, labels=["share of variance"])
    for unit, (one,) in axes.items():
        entries = range(unit * panels.components, (unit + 1) * panels.components)
        x = panels.places(entries[0])
        _stack(
            one,
            budget,
            x,
            lambda values, those=entries: sum(panels.row(values, i) for i in those),
            panels.half,
        )
    finish_units(figure, axes, (title, panels.left_out))
    return figure


def _stack(axes, budget, x, row_of, half):
    """The rows of a budget at one entry, stacked to one; a row that came out negative is nothing."""
    order = [*budget.groups, *(name for name in reversed(budget.rows) if name not in budget.groups)]
    rows = np.stack([row_of(np.maximum(budget.rows[name], 0.0)) for name in order])
    total = rows.sum(axis=0)
    shares = np.divide(rows, total, out=np.zeros_like(rows), where=total > 0)
    tops, styles = np.cumsum(shares, axis=0), row_styles(budget)
    for share, top, name in zip(shares, tops, order, strict=True):
        places, low, high = wide(x, top - share, top, half=half)
        axes.fill_between(places, low, high, label=name, **styles[name])
    axes.set_ylim(0.0, 1.0)


def row_styles(budget: Budget) -> dict[str, dict]:
    """Row name to how it is drawn: groups in strong colours, what cannot be told apart hatched, noise pale."""
    groups = {name: GROUPS[i % len(GROUPS)] for i, name in enumerate(budget.groups)}
    noise = dict.fromkeys(budget.rows, ALEATORIC)
    return {**noise, "not attributed": LEFT_OVER, **groups}
