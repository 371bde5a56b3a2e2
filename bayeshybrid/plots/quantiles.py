"""The visual predictive check: quantiles of all units together, beside those of replicated data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from bayeshybrid.faults import ModelError
from bayeshybrid.fit import FitCheck
from bayeshybrid.plots.panels import Panels, chosen_site, quantity_panels
from bayeshybrid.plots.style import INK, MEASURED, MIDDLE, STATE, as_written, legend, marks, titled
from bayeshybrid.plots.units import UnitPanels
from bayeshybrid.posterior import Posterior
from bayeshybrid.visual_predictive import BINS, VisualCheck

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DRAWS = 1000
FAINT = {
    "marker": "o",
    "markersize": 3.0,
    "markerfacecolor": "#555555",
    "markeredgecolor": "none",
    "alpha": 0.5,
}
OUTER = {"facecolor": "#F8DDA6", "edgecolor": MEASURED, "hatch": "//", "linewidth": 0.6, "alpha": 0.8}
INNER = {"facecolor": "#5BA3D0", "edgecolor": STATE, "linewidth": 0.6, "alpha": 0.8}

__all__ = ["visual_predictive_check"]


def visual_predictive_check(
    posterior: Posterior,
    *,
    key: Any = 0,
    site: str | None = None,
    along: str | None = None,
    new: Sequence[str] | None = None,
    bins: int | Sequence[float] = BINS,
    corrected: bool = False,
) -> Figure:
    """Quantiles of the data of all units by time, on the ranges that replicated data give for them.

    In bins of time the 10, 50 and 90 % quantiles of the data are lines, and the ranges that hold the same
    quantiles of 90 % of replicated data sets are boxes: filled for the median, hatched for the outer two (Holford
    2005, "The visual predictive check: superiority to standard diagnostic (Rorschach) plots"). Faint points are
    the data. Below, where values are known only to lie below a limit, the share of those in each bin.

    **Arguments:**

    - `posterior`: what `infer` returned.
    - `key`: for the replicated data, an integer or a JAX key.
    - `site`, `along`: as for `fit`.
    - `new`: what is drawn anew in the replicated data; by default the units that the site's leading axis counts,
      so that differences between units are checked too.
    - `bins`: how many bins of about equally many values; or their edges.
    - `corrected`: whether values are brought to the typical prediction of their bin, for units that differ by
      dose or covariates; see `bayeshybrid.visual_predictive.visual_check`.

    **Returns:** a matplotlib `Figure` with one column for each component of the site.

    **Raises:** `ModelError` for a site or an argument that is not there, where nothing says when the values were
    measured, or for classes.

    ```python
    model = lambda t, y=None: numpyro.sample("y", dist.Normal(numpyro.sample("x", dist.Normal()) * t, 1.0), obs=y)
    data = {"t": np.arange(12.0), "y": 0.1 * np.arange(12.0)}
    posterior = bh.infer(model, data, bh.NUTS(draws=100, warmup=100), key=0)
    assert bh.plots.visual_predictive_check(posterior, bins=3).axes[0].get_xlabel() == "t"
    ```
    """
    layout = posterior.target.layout
    name = chosen_site({one.name: one for one in layout.observed}, site)
    if new is None:
        across = next(one.tag.across for one in layout.observed if one.name == name)
        own = any(one.tag.across == across for one in layout.latent)
        new = (across,) if across is not None and own else ()
    checked = posterior.check(key=key, draws=DRAWS, new=new or ())
    panels = quantity_panels(checked.replicated[name], checked.inputs, along, (posterior.target.labels,))
    found = visual_checks(panels, checked, bins, corrected)
    inside, compared = np.sum([one.inside for one in found], axis=0)
    told = f"{inside} of {compared} quantiles inside the range of 90 % of replicated data"
    whose = f"{', '.join(new)} drawn anew, in sample" if new else "in sample"
    return draw_visual_check(checked, found, [f"Visual predictive check of {name} ({whose})", told])


def visual_checks(
    panels: Panels | UnitPanels,
    checked: FitCheck,
    bins: int | Sequence[float] = BINS,
    corrected: bool = False,
) -> list[VisualCheck]:
    """The figures of a visual predictive check, one for each component of a site."""
    name = panels.site.name
    if not panels.axis_name:
        raise ModelError(
            f"plots: no argument of the model has the shape of the times of {name!r}, so there is nothing to draw its "
            "quantiles along: name one with along="
        )
    labels = checked.replicated[name].labels
    entries = labels if len(labels) > 1 else (None,)
    settings = {"bins": bins, "corrected": corrected}
    return [checked.by_time(panels.axis_name, name, entry=entry, **settings) for entry in entries]


def draw_visual_check(checked: FitCheck, found: Sequence[VisualCheck], lines: Sequence[str] = ()) -> Figure:
    """The picture of `visual_predictive_check` from its figures."""
    from matplotlib.figure import Figure

    censored = any(np.any(one.below > 0) for one in found)
    heights = (1.0, 0.4) if censored else (1.0,)
    width = max(6.2, 1.2 + 4.4 * len(found)) if lines else 4.6 * len(found)
    figure = Figure(figsize=(width, 3.9 * sum(heights)), layout="constrained")
    grid = figure.subplots(len(heights), len(found), sharex=True, squeeze=False, height_ratios=heights)
    for column, one in zip(grid.T, found, strict=True):
        _draw_quantiles(column[0], one)
        if not one.corrected:
            _draw_data(column[0], checked, one)
        column[0].set_title(one.entry, fontsize=11)
        column[0].set_ylabel(f"{one.site} ({one.unit})" if one.unit else one.site)
        if censored:
            _draw_share_below(column[1], one)
        column[-1].set_xlabel(one.time)
    for axes in grid.flat:
        axes.spines[["top", "right"]].set_visible(False)
    if lines:
        titled(figure, lines)
    legend(figure, list(grid.flat), 2 if len(found) == 1 else 4)
    as_written(figure)
    return figure


def _draw_quantiles(axes, found):
    middle = int(np.argmin(np.abs(np.asarray(found.levels) - 0.5)))
    for place in (*(i for i in range(len(found.levels)) if i != middle), middle):
        inner = place == middle
        told = "median" if inner else "outer quantiles"
        low, _, high = found.simulated[:, place].T
        _boxes(axes, found.edges, low, high, f"{told}, replicated data", INNER if inner else OUTER)
        axes.plot(
            found.centres,
            found.observed[:, place],
            color=MIDDLE if inner else "#7A4900",
            linestyle="-" if inner else "--",
            marker="o",
            markersize=4,
            linewidth=1.6,
            zorder=5,
            label=f"{told} of the data",
        )


def _boxes(axes, edges, low, high, label, style):
    for left, right, bottom, top in zip(edges, edges[1:], low, high, strict=False):
        if np.isfinite(bottom) and np.isfinite(top):
            axes.fill_between([left, right], bottom, top, label=label, **style)


def _draw_data(axes, checked, found):
    values = checked.observed[found.site]
    labels = checked.replicated[found.site].labels
    if found.entry:
        values = values[..., labels.index(found.entry)]
    times = np.asarray(checked.inputs[found.time], float)
    lead = 0 if times.shape == values.shape[: times.ndim] else 1
    times = times.reshape((1,) * lead + times.shape + (1,) * (values.ndim - lead - times.ndim))
    times = np.broadcast_to(times, values.shape)
    marks(axes, times.ravel(), values.ravel(), "data", FAINT)
    limits = np.unique(checked.values[found.site][checked.kinds[found.site] == 2])
    for limit in limits if len(limits) <= 3 else ():
        axes.axhline(limit, color=INK, linewidth=0.8, linestyle=":", label="limit")


def _draw_share_below(axes, found):
    low, _, high = found.below_simulated.T
    _boxes(axes, found.edges, low, high, "_below", INNER)
    axes.plot(found.centres, found.below, color=MIDDLE, marker="o", markersize=4, linewidth=1.6, zorder=5)
    axes.set_ylim(-0.03, 1.03 if max(found.below.max(), high.max()) > 0.5 else 0.55)
    axes.set_ylabel("share below\nthe limit")
