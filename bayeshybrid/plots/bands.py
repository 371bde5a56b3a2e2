"""The fit and the forecast as bands beside the data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from bayeshybrid.fit import FitCheck
from bayeshybrid.forecast import Forecast
from bayeshybrid.plots.beyond import extrapolated, extrapolation_words
from bayeshybrid.plots.cells import checked_cells, data_of
from bayeshybrid.plots.multiples import HELD_OUT, USED, unit_fit, unit_forecast
from bayeshybrid.plots.panels import (
    WITHIN,
    Bands,
    Panels,
    draw_bands,
    draw_outside,
    draw_shares,
    finish,
    forecast_panels,
    panel_figure,
)
from bayeshybrid.plots.style import FILLED, INK, OPEN, QUIET, SHADE, marks
from bayeshybrid.plots.units import UnitPanels
from bayeshybrid.posterior import Posterior

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DRAWS = 1000

__all__ = ["fit", "forecast"]


def fit(posterior: Posterior, *, key: Any = 0, site: str | None = None, along: str | None = None) -> Figure:
    """The data beside what the fitted model would have produced in their place, residuals below.

    One column for each entry along the last axis of the observed site (at most six). Above, bands that hold 50
    and 90 %: hatched for a new measurement, filled for the state. Below, (data - mean) / sd of the new
    measurements, with the range of two sd shaded. The data were used in the fit: a picture in sample.

    Where the site's leading axis counts units (`across=`), a small panel for each unit instead, on its own times,
    all on the same axes; at most 24, evenly chosen. A triangle stands at the limit of what is only known to lie
    below or above it. Residuals stand below up to four units, else see `residuals`.

    **Arguments:**

    - `posterior`: what `infer` returned.
    - `key`: for the replicated data, an integer or a JAX key.
    - `site`: which observed site; needed where there are several.
    - `along`: the argument of the model that is the horizontal axis; by default the first one-dimensional one
      that is as long as the site's first axis, else the number of the entry. For units one of shape
      `(unit, time)`, or `(time,)` for all.

    **Returns:** a matplotlib `Figure`; `figure.savefig("fit.png")` writes it.

    **Raises:** `ModelError` for a site or an argument that is not there.

    ```python
    model = lambda t, y=None: numpyro.sample("y", dist.Normal(numpyro.sample("x", dist.Normal()) * t, 1.0), obs=y)
    data = {"t": np.arange(4.0), "y": np.ones(4)}
    figure = bh.plots.fit(bh.infer(model, data, bh.NUTS(draws=50, warmup=50), key=0))
    assert len(figure.axes) == 2 and figure.axes[1].get_xlabel() == "t"
    ```
    """
    predicted = posterior.predict(key=key, draws=DRAWS)
    checked = posterior.check(key=key, draws=DRAWS)
    panels = forecast_panels(predicted, site, along)
    name = panels.site.name
    count, compared = checked.inside[name]
    title = f"Fit of {name}: {count} of {compared} data inside the 90 % band (in sample)"
    if isinstance(panels, UnitPanels):
        bands = Bands(predicted, name)
        left_out = checked.censored.get(name, 0)
        title += f", {left_out} censored" * bool(left_out)
        cells = checked_cells(posterior.target, checked)[name]
        return unit_fit(panels, bands, cells, checked.residuals[name], title)
    return draw_fit(panels, predicted, checked, title)


def draw_fit(panels: Panels, predicted: Forecast, checked: FitCheck, title: str | None = None) -> Figure:
    """The picture of `fit` from what was replicated and compared."""
    name = panels.site.name
    bands = Bands(predicted, name)
    figure, columns = panel_figure(panels, (1.0, 0.45), (panels.words, "residual (sd)"))
    data, residuals = (panels.split(values) for values in (checked.observed[name], checked.residuals[name]))
    for i, (above, below) in zip(panels.shown, columns, strict=True):
        draw_bands(above, panels, bands, i)
        marks(above, panels.x, data[i], USED, FILLED)
        below.axhspan(-WITHIN, WITHIN, color=SHADE, zorder=0)
        below.axhline(0.0, color=QUIET, linewidth=0.8)
        marks(below, panels.x, residuals[i], "_residual", FILLED)
        reach = np.max(np.abs(residuals[i][np.isfinite(residuals[i])]), initial=0.0)
        below.set_ylim(-max(3.0, 1.1 * reach), max(3.0, 1.1 * reach))
    finish(figure, columns, panels, title)
    return figure


def forecast(
    forecast: Forecast,
    *,
    data: Mapping[str, Any] | None = None,
    fitted: Posterior | Mapping[str, Any] | None = None,
    site: str | None = None,
    along: str | None = None,
) -> Figure:
    """Where a new measurement will fall and where the state is, and below how much of that is not known.

    One column for each entry along the last axis of the observed site (at most six). Above, bands that hold 50
    and 90 %: hatched with a dashed edge for a new measurement, filled with a solid edge for the state. Below, the
    variance of a new measurement in two parts: aleatoric (hatched), which would remain if every unknown
    were known, and epistemic (filled), which more data would shrink.

    Where at least half of the draws ask a network for what it never met in the fit the picture is cross-hatched,
    and a line says for which share of its calls that is so.

    Where the site's leading axis counts units, a small panel for each, as for `fit`; the shares of the variance
    stand below up to four units (the mean of its components), else see `budget`.

    **Arguments:**

    - `forecast`: what `predict` or `simulate` returned.
    - `data`: measurements that the fit has not seen, as a mapping like the model's data: the site's values
      and, where they belong to other inputs than the forecast's, the horizontal axis. Open marks.
    - `fitted`: the posterior, or a mapping as for `data`, whose data were used in the fit. Filled marks.
    - `site`, `along`: as for `fit`.

    **Returns:** a matplotlib `Figure`.

    **Raises:** `ModelError` for a site or an argument that is not there.

    ```python
    model = lambda t, y=None: numpyro.sample("y", dist.Normal(numpyro.sample("x", dist.Normal()) * t, 1.0), obs=y)
    posterior = bh.infer(model, {"t": np.arange(4.0), "y": np.ones(4)}, bh.NUTS(draws=50, warmup=50), key=0)
    ahead = posterior.predict({"t": np.arange(6.0)}, key=1)
    figure = bh.plots.forecast(ahead, fitted=posterior, data={"t": np.array([5.0]), "y": np.array([1.0])})
    assert figure.axes[1].get_ylabel() == "share of variance"
    ```
    """
    panels = forecast_panels(forecast, site, along)
    changed = f" under a change of {', '.join(forecast.changed)}" if forecast.changed else ""
    title = f"Forecast of {panels.site.name}{changed}"
    asked = forecast.extrapolation
    outside, words = extrapolated(panels, asked), extrapolation_words(asked)
    if isinstance(panels, UnitPanels):
        name = panels.site.name
        given = [(data_of(fitted), USED, FILLED), (data, HELD_OUT, OPEN)]
        shares = [part.share[name] for part in (forecast.aleatoric, forecast.epistemic)]
        return unit_forecast(panels, Bands(forecast, name), given, shares, (title, words), outside)
    return draw_forecast(panels, forecast, data, fitted, outside=outside, title=title, note=words)


def draw_forecast(
    panels: Panels,
    forecast: Forecast,
    data: Mapping[str, Any] | None,
    fitted: Posterior | Mapping[str, Any] | None,
    *,
    outside: np.ndarray | None = None,
    shares: bool = True,
    title: str | None = None,
    note: str = "",
) -> Figure:
    """The picture of `forecast`, a note below its title; hatched where `outside` is true along the horizontal axis."""
    name = panels.site.name
    bands = Bands(forecast, name)
    rows = 2 if shares else 1
    figure, columns = panel_figure(panels, (1.0, 0.4)[:rows], (panels.words, "share of variance")[:rows])
    parts = [panels.split(part.share[name]) for part in (forecast.aleatoric, forecast.epistemic)]
    seen = [
        (panels.points(given), words, style)
        for given, words, style in (
            (data_of(fitted), USED, FILLED),
            (data, HELD_OUT, OPEN),
        )
        if given is not None
    ]
    for i, several in zip(panels.shown, columns, strict=True):
        draw_bands(several[0], panels, bands, i)
        for (x, values), words, style in seen:
            marks(several[0], x, values[i], words, style)
        if shares:
            draw_shares(several[1], panels.x, parts[0][i], parts[1][i])
        for axes in several:
            if fitted is not None:
                end = np.max(seen[0][0][0])
                axes.axvline(end, color=INK, linewidth=0.9, linestyle=":", label="_end of data")
            if outside is not None:
                draw_outside(axes, panels.x, outside[panels.order])
    finish(figure, columns, panels, title, note)
    return figure
