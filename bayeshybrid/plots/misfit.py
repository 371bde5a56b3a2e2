"""Where the data stray from what the fitted model expects: over time, and unit by unit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from bayeshybrid.fit import FitCheck
from bayeshybrid.plots.panels import WITHIN, Panels, chosen_site, finish, panel_figure, quantity_panels
from bayeshybrid.plots.style import (
    COMPONENTS,
    FILLED,
    INK,
    QUIET,
    SHADE,
    STATE,
    as_written,
    legend,
    marks,
    titled,
)
from bayeshybrid.plots.units import UnitPanels, counted
from bayeshybrid.posterior import Posterior

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DRAWS = 1000
NAMED = 30  # so many units have their names on an axis
BIN = 8  # values of a mean over time, at least
ODD = {"marker": "o", "markersize": 4.5, "markerfacecolor": "#B5491C", "markeredgecolor": "#5E2008"}
DOT = {"marker": "o", "markersize": 3.5, "markerfacecolor": INK, "markeredgecolor": "none", "alpha": 0.6}
ROWS = ("residual (sd)", "prediction error (normal score)")

__all__ = ["residuals"]


def residuals(
    posterior: Posterior,
    *,
    key: Any = 0,
    site: str | None = None,
    along: str | None = None,
    new: Sequence[str] = (),
) -> Figure:
    """How far each measurement lies from what the fitted model expects, over time and unit by unit.

    Above, standardised residuals, (data - mean) / sd of replicated data, with the range of two sd. Below,
    normalised prediction distribution errors: the data, decorrelated within each unit, as normal scores of the
    replicated data, standard normal if the model is right, with the same range. The line is their mean in bins of
    time. To the right the same by unit, where the site's leading axis counts units: bars are the units' means,
    grey boxes where a right model puts them; units that leave theirs are drawn in another colour.

    **Arguments:**

    - `posterior`: what `infer` returned.
    - `key`: for the replicated data, an integer or a JAX key.
    - `site`, `along`: as for `fit`.
    - `new`: what is drawn anew in the replicated data, such as `("subject",)`, as for `Posterior.check`. Without
      it each unit keeps what was inferred of it, and its errors spread less than those of new data.

    **Returns:** a matplotlib `Figure`.

    **Raises:** `ModelError` for a site or an argument that is not there.

    ```python
    model = lambda t, y=None: numpyro.sample("y", dist.Normal(numpyro.sample("x", dist.Normal()) * t, 1.0), obs=y)
    data = {"t": np.arange(4.0), "y": np.ones(4)}
    figure = bh.plots.residuals(bh.infer(model, data, bh.NUTS(draws=100, warmup=100), key=0))
    assert figure.axes[0].get_ylabel() == "residual (sd)"
    ```
    """
    checked = posterior.check(key=key, draws=DRAWS, new=new)
    name = chosen_site(checked.replicated, site)
    known = (posterior.target.labels,)
    panels = quantity_panels(checked.replicated[name], checked.inputs, along, known)
    told = f"{', '.join(new)} drawn anew, in sample" if new else "in sample"
    return draw_misfit(panels, checked, f"Residuals of {name} ({told})")


def draw_misfit(panels: Panels | UnitPanels, checked: FitCheck, title: str | None = None) -> Figure:
    """The picture of `residuals` from what was compared."""
    name, found = panels.site.name, _rows(panels, checked)
    if isinstance(panels, UnitPanels):
        return _of_units(panels, checked, found, title)
    figure, columns = panel_figure(panels, (0.8,) * len(found), ROWS[: len(found)])
    for entry, several in zip(panels.shown, columns, strict=True):
        for axes, values in zip(several, found, strict=True):
            _reference(axes, panels.row(values, entry))
            marks(axes, panels.x, panels.row(values, entry), "_data", FILLED)
            _mean_in_bins(axes, panels.x, panels.row(values, entry))
    finish(figure, columns, panels, title, " ".join(remarks(checked, name)))
    return figure


def misfit_apart(panels: UnitPanels, checked: FitCheck) -> list[Figure]:
    """The same picture for a page, in two parts that can stand one below the other: over time, and by unit."""
    from matplotlib.figure import Figure

    found, rows = _rows(panels, checked), checked.by_unit.get(panels.site.name, ())
    odd = [place for place, row in enumerate(rows) if row.unusual]
    drawn = []
    for width, draw in ((4.6, _over_time), (max(4.6, min(7.0, 0.8 + 0.18 * panels.units)), _by_unit)):
        figure = Figure(figsize=(width, 0.7 + 2.1 * len(found)), layout="constrained")
        grid = figure.subplots(len(found), 1, sharex=True, squeeze=False)[:, 0]
        for row, values in enumerate(found):
            draw(grid[row], panels, values, odd, rows if row else ())
            grid[row].set_ylabel(ROWS[row], fontsize=9)
        if draw is _by_unit:
            _unit_ticks(grid[-1], panels)
        else:
            grid[-1].set_xlabel(panels.axis_name or "entry")
        _finish(figure, list(grid), 2)
        drawn.append(figure)
    return drawn


def _rows(panels, checked):
    """Residuals, and prediction errors where there are any."""
    name = panels.site.name
    found = [checked.residuals[name], checked.scores[name]]
    return found[: 1 + bool(np.any(np.isfinite(found[1])))]


def _finish(figure, several, columns):
    for axes in several:
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=8)
    legend(figure, several, columns)
    as_written(figure)


def remarks(checked: FitCheck, name: str) -> list[str]:
    """What a reader of residuals must know, line by line."""
    told = []
    censored = checked.censored.get(name, 0)
    if censored:
        told.append(f"{censored} censored values are left out, so what is shown is a selection.")
    if name in checked.errors and checked.errors[name].note:
        told.append(f"The prediction errors are {checked.errors[name].note}.")
    return told


def _of_units(panels, checked, found, title):
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    name = panels.site.name
    odd = [place for place, row in enumerate(checked.by_unit.get(name, ())) if row.unusual]
    wide = 4.6 + min(6.0, 1.6 + 0.22 * panels.units)
    figure = Figure(figsize=(wide, 0.9 + 2.5 * len(found)), layout="constrained")
    ratios = (4.6, wide - 4.6)
    grid = figure.subplots(len(found), 2, sharex="col", sharey="row", squeeze=False, width_ratios=ratios)
    for row, values in enumerate(found):
        left, right = grid[row]
        _over_time(left, panels, values, odd, ())
        _by_unit(right, panels, values, odd, checked.by_unit.get(name, ()) if row else ())
        left.set_ylabel(ROWS[row])
    grid[-1, 0].set_xlabel(panels.axis_name or "entry")
    grid[-1, 0].xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    _unit_ticks(grid[-1, 1], panels)
    if title is not None:
        titled(figure, [title, *remarks(checked, name)])
    _finish(figure, list(grid.flat), 3)
    return figure


def _over_time(axes, panels, values, odd, _):
    whole = np.reshape(values, (*panels.shape[:2], panels.components))
    _reference(axes, whole)
    usual = [unit for unit in range(panels.units) if unit not in odd]
    for part, part_name in enumerate(panels.component_names):
        line, _, _, _, marker = COMPONENTS[part % len(COMPONENTS)]
        style = DOT if not part_name else {**DOT, "marker": marker, "markerfacecolor": line}
        marks(axes, panels.times[usual].ravel(), whole[usual, :, part].ravel(), part_name or "_data", style)
        marks(axes, panels.times[odd].ravel(), whole[odd, :, part].ravel(), "_odd", ODD)
    _mean_in_bins(axes, np.repeat(panels.times.ravel(), panels.components), whole.ravel())


def _by_unit(axes, panels, values, odd, rows):
    whole = np.reshape(values, (panels.units, -1))
    _reference(axes, whole)
    for unit in range(panels.units):
        known = whole[unit][np.isfinite(whole[unit])]
        own = "stray from a right model" if unit in odd else "_data"
        marks(axes, np.full(len(known), unit), known, own, ODD if unit in odd else DOT)
        if not len(known):
            continue
        ends = [unit - 0.35, unit + 0.35]
        axes.plot(ends, [known.mean()] * 2, color=STATE, linewidth=2.0, zorder=6, label="mean of a unit")
        if unit < len(rows) and np.all(np.isfinite(rows[unit].mean_range)):
            told = "range of a unit's mean, right model"
            axes.fill_between(ends, *rows[unit].mean_range, facecolor="#C9C9C9", edgecolor="none", label=told)
    axes.set_xlim(-0.7, panels.units - 0.3)


def _reference(axes: Axes, values: np.ndarray) -> None:
    """The grey range in which nearly all should lie, and a height that holds the values."""
    axes.axhspan(-WITHIN, WITHIN, color=SHADE, zorder=0, label="within two sd")
    axes.axhline(0.0, color=QUIET, linewidth=0.8)
    reach = 1.1 * np.max(np.abs(values[np.isfinite(values)]), initial=0.0)
    axes.set_ylim(-max(3.0, reach), max(3.0, reach))


def _mean_in_bins(axes, x, values):
    """The mean of about equally many values, where there are enough for two."""
    known = np.isfinite(values) & np.isfinite(x)
    x, values = np.asarray(x)[known], np.asarray(values)[known]
    bins = min(8, len(x) // BIN, len(np.unique(x)))
    if bins < 2:
        return
    edges = np.unique(np.quantile(x, np.linspace(0, 1, bins + 1)))
    place = np.clip(np.searchsorted(edges, x, side="right") - 1, 0, len(edges) - 2)
    met = np.unique(place)
    at, mean = ([part[place == one].mean() for one in met] for part in (x, values))
    axes.plot(at, mean, "-", color=STATE, linewidth=1.6, zorder=6, label="mean over time")


def _unit_ticks(axes, panels):
    step = -(-panels.units // NAMED)
    places = np.arange(0, panels.units, step)
    names = [panels.unit_names[place] for place in places]
    turned = sum(map(len, names)) > 40
    axes.set_xticks(places, names, rotation=90 if turned else 0, fontsize=8)
    axes.set_xlabel(panels.site.across + (f", {counted(panels.units, 'unit')}" if step > 1 else ""))
