"""Pictures of a fit, a forecast and the unknowns: matplotlib figures, made without any global state.

What differs by colour differs also by hatch or line, so that the pictures survive grey print and colour blindness.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from bayeshybrid.faults import ModelError
from bayeshybrid.forecast import Forecast, Quantity
from bayeshybrid.posterior import Posterior

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_PANELS = 6
DRAWS = 1000
COLUMNS = 4
MOVED_MUCH, MOVED_SOME = 0.9, 0.5

# Okabe and Ito's colours, of different lightness, so that they stay apart in grey; hatch and edge tell them too.
STATE, MEASURED, INK, QUIET = "#0072B2", "#B86E00", "#222222", "#777777"
OBSERVED_BAND = {"edgecolor": MEASURED, "linestyle": "--", "linewidth": 0.8}
STATE_BAND = {"edgecolor": STATE, "linestyle": "-", "linewidth": 0.8}
OBSERVED_STYLES = {
    0.9: {"facecolor": "#FDF3DF", "hatch": "//", **OBSERVED_BAND},
    0.5: {"facecolor": "#F8DDA6", "hatch": "////", **OBSERVED_BAND},
}
STATE_STYLES = {0.9: {"facecolor": "#A6CCE5", **STATE_BAND}, 0.5: {"facecolor": "#5BA3D0", **STATE_BAND}}
ALEATORIC = {"facecolor": "0.94", "edgecolor": "0.6", "hatch": "..", "linewidth": 0.8}
EPISTEMIC = {"facecolor": "#009E73", "edgecolor": "#00513B", "linewidth": 0.8}
BEFORE = {"facecolor": "#FBE8C4", "hatch": "//", **OBSERVED_BAND}
AFTER = {"facecolor": "#5BA3D0", **STATE_BAND}
FILLED = {"marker": "o", "markersize": 4.5, "markerfacecolor": INK, "markeredgecolor": INK}
OPEN = {"marker": "s", "markersize": 5.5, "markerfacecolor": "white", "markeredgecolor": INK}
WITHIN = 2.0  # a residual beyond two standard deviations deserves a look

__all__ = ["fit", "forecast", "moved", "parameters"]


def fit(posterior: Posterior, *, key: Any = 0, site: str | None = None, along: str | None = None) -> Figure:
    """The data beside what the fitted model would have produced in their place, residuals below.

    One column for each entry along the last axis of the observed site (at most six). Above, bands that hold 50
    and 90 %: hatched for a new measurement, filled for the state. Below, (data - mean) / sd of the new
    measurements, with the range of two sd shaded. The data were used in the fit: a picture in sample.

    **Arguments:**

    - `posterior`: what `infer` returned.
    - `key`: for the replicated data, an integer or a JAX key.
    - `site`: which observed site; needed where there are several.
    - `along`: the argument of the model that is the horizontal axis; by default the first one-dimensional one
      that is as long as the site's first axis, else the number of the entry.

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
    name = _site(predicted, site)
    panels = _Panels(predicted, name, along)
    figure, rows = _figure(panels, "residual (sd)", 0.45)
    data, residuals = (panels.split(values) for values in (checked.observed[name], checked.residuals[name]))
    for i, (above, below) in enumerate(rows):
        panels.draw_bands(above, i)
        _marks(above, panels.x, data[i], "data, used in the fit", FILLED)
        below.axhspan(-WITHIN, WITHIN, color="0.92", zorder=0)
        below.axhline(0.0, color=QUIET, linewidth=0.8)
        _marks(below, panels.x, residuals[i], "_residual", FILLED)
        reach = np.nanmax(np.abs(residuals[i]), initial=0.0)
        below.set_ylim(-max(3.0, 1.1 * reach), max(3.0, 1.1 * reach))
    count, cells = checked.inside[name]
    _finish(figure, rows, panels, f"Fit of {name}: {count} of {cells} data inside the 90 % band (in sample)")
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
    name = _site(forecast, site)
    panels = _Panels(forecast, name, along)
    figure, rows = _figure(panels, "share of variance", 0.4)
    parts = [panels.split(part.share[name]) for part in (forecast.aleatoric, forecast.epistemic)]
    seen = [
        (panels.points(given), words, style)
        for given, words, style in (
            (_data_of(fitted), "data, used in the fit", FILLED),
            (data, "data, held out", OPEN),
        )
        if given is not None
    ]
    for i, (above, below) in enumerate(rows):
        panels.draw_bands(above, i)
        for (x, values), words, style in seen:
            _marks(above, x, values[i], words, style)
        _draw_shares(below, panels.x, parts[0][i], parts[1][i])
        if fitted is not None:
            for axes in (above, below):
                axes.axvline(
                    np.max(seen[0][0][0]), color=INK, linewidth=0.9, linestyle=":", label="_end of data"
                )
    _finish(figure, rows, panels, f"Forecast of {name}")
    return figure


def parameters(posterior: Posterior) -> Figure:
    """Each unknown before and after the data: prior and posterior side by side, and how far it moved.

    Half of each panel is the density of the prior (left, hatched), half that of the posterior (right, filled),
    each drawn to the same width; the bars are central 90 % intervals. Above stand the name and, in words, how
    much the data narrowed it: *moved much* for a contraction above 0.9, *some* above 0.5, else *hardly*.
    Weights of networks are left out: they mean little one by one.

    **Arguments:**

    - `posterior`: what `infer` returned.

    **Returns:** a matplotlib `Figure`.

    **Raises:** `ModelError` where the model has no unknowns but weights.

    ```python
    model = lambda y=None: numpyro.sample("y", dist.Normal(numpyro.sample("x", dist.Normal()), 1.0), obs=y)
    posterior = bh.infer(model, {"y": np.array(2.0)}, bh.NUTS(draws=50, warmup=50), key=0)
    assert bh.plots.parameters(posterior).axes[0].get_title(loc="left").startswith("x\\nmoved")
    ```
    """
    from matplotlib.figure import Figure

    entries = list(_entries(posterior))
    if not entries:
        raise ModelError("plots.parameters: the model has no unknowns but weights of networks")
    columns = min(COLUMNS, len(entries))
    lines = -(-len(entries) // columns)
    figure = Figure(figsize=(2.6 * columns + 0.4, 2.6 * lines + 0.7), layout="constrained")
    for place, (title, unit, prior, after, contraction) in enumerate(entries):
        axes = figure.add_subplot(lines, columns, place + 1)
        _draw_before_and_after(axes, prior, after)
        axes.set_title(f"{title}\n{moved(contraction)}", fontsize=9, loc="left")
        axes.set_ylabel(unit, fontsize=9)
    figure.suptitle("Unknowns before and after the data", fontsize=11)
    _legend(figure, [figure.axes[0]], 3)
    return figure


def moved(contraction: float) -> str:
    """How much the data narrowed an unknown, in words.

    ```python
    from bayeshybrid.plots import moved
    assert moved(0.95) == "moved much (0.95)" and moved(0.2) == "moved hardly (0.20)"
    ```
    """
    if not np.isfinite(contraction):
        return "no prior to compare with"
    word = "much" if contraction > MOVED_MUCH else "some" if contraction > MOVED_SOME else "hardly"
    return f"moved {word} ({contraction:.2f})"


class _Panels:
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
        x, middle = _wide(self.x, self.split(self.state.quantile(0.5))[panel])
        axes.plot(x, middle, color="#00406B", linewidth=1.3, label="state, median")

    def _band(self, axes, quantity, panel, mass, label, style):
        low, high = (self.split(end)[panel] for end in quantity.interval(mass))
        x, low, high = _wide(self.x, low, high)
        axes.fill_between(x, low, high, label=label, **style)
        return x, low, high


def _wide(x, *rows):
    """A single entry becomes as wide as a step, or nothing of it would be seen."""
    if len(x) > 1:
        return x, *rows
    return np.array([x[0] - 0.4, x[0] + 0.4]), *(np.repeat(row, 2) for row in rows)


def _site(forecast, site):
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


def _data_of(given):
    """Data as given; of a posterior those of its observed sites, NaN where not measured exactly."""
    if not isinstance(given, Posterior):
        return given
    return {**given.target.inputs(), **given.check(key=0, draws=1).observed}


def _figure(panels, below, share):
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


def _marks(axes, x, values, label, style):
    axes.plot(x, values, linestyle="none", label=label, zorder=5, **style)


def _draw_shares(axes, x, aleatoric, epistemic):
    """Two areas that fill the height; where there is no variance at all, nothing."""
    x, aleatoric, epistemic = _wide(x, np.nan_to_num(aleatoric), np.nan_to_num(epistemic))
    axes.fill_between(x, 0.0 * epistemic, epistemic, label="epistemic: not known", **EPISTEMIC)
    axes.fill_between(x, epistemic, epistemic + aleatoric, label="aleatoric: noise", **ALEATORIC)
    axes.set_ylim(0.0, 1.0)


def _finish(figure, rows, panels, title):
    from matplotlib.ticker import MaxNLocator

    figure.suptitle(title + panels.left_out, fontsize=12)
    for above, below in rows:
        below.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
        for axes in (above, below):
            axes.spines[["top", "right"]].set_visible(False)
    _legend(figure, rows[0], min(5, 2 * len(rows) + 1))


def _legend(figure, several, columns):
    """One legend below the figure for what these axes show, each label once."""
    found = {}
    for axes in several:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            found.setdefault(label, handle)
    figure.legend(
        found.values(), found.keys(), loc="outside lower center", ncols=columns, frameon=False, fontsize=9
    )


def _entries(posterior):
    """Title, unit, prior draws or `None`, posterior draws and contraction of each unknown number."""
    for site in posterior.target.layout.latent:
        if site.tag.kind == "weight":
            continue
        after, before, told = (x[site.name] for x in (posterior, posterior.prior, posterior.contraction))
        for index in np.ndindex(after.shape[1:]):
            words = [str(i) for i in index]
            if words and site.tag.labels:
                words[-1] = site.tag.labels[index[-1]]
            title = f"{site.name}[{', '.join(words)}]" if words else site.name
            contraction = float(np.asarray(told)[index])
            prior = before[(slice(None), *index)] if np.isfinite(contraction) else None
            yield title, site.tag.unit or "", prior, after[(slice(None), *index)], contraction


def _draw_before_and_after(axes, prior, after):
    """Two halves of a violin, the prior's to the left, cut where hardly anything of it is left."""
    ends = [after.min(), after.max()] + ([] if prior is None else list(np.quantile(prior, [0.01, 0.975])))
    grid = np.linspace(min(ends), max(ends), 400)
    halves = ((-1.0, prior, "before: prior", BEFORE), (1.0, after, "after: posterior", AFTER))
    for side, draws, label, style in halves:
        if draws is None:
            continue
        height = density(draws, grid)
        axes.fill_betweenx(grid, 0.0, side * height / max(height.max(), 1e-300), label=label, **style)
        ends = np.quantile(draws, [0.05, 0.95])
        told = "central 90 %" if side > 0 else "_central 90 %"
        axes.plot([0.06 * side] * 2, ends, color=INK, linewidth=2.2, solid_capstyle="butt", label=told)
    axes.axvline(0.0, color=QUIET, linewidth=0.6)
    axes.set_xlim(-1.1, 1.1)
    axes.set_ylim(grid[0], grid[-1])
    axes.set_xticks([])
    axes.spines[["top", "right", "bottom"]].set_visible(False)
    axes.tick_params(labelsize=8)


def density(draws: np.ndarray, grid: np.ndarray) -> np.ndarray:
    """The density of draws at the points of a grid, by Gaussian kernels reflected at both ends of the draws.

    Reflection keeps the mass of a prior that ends abruptly, at zero for a positive one. The width is
    Silverman's rule of thumb (1986, equation 3.31).

    ```python
    from bayeshybrid.plots import density
    uniform = density(np.linspace(0.0, 1.0, 501), np.array([0.0, 0.5, 2.0]))
    assert np.allclose(uniform, [1.0, 1.0, 0.0], atol=0.02)
    ```
    """
    draws = draws[np.linspace(0, len(draws) - 1, min(len(draws), 2000)).astype(int)]
    low, high = draws.min(), draws.max()
    quartiles = np.quantile(draws, [0.25, 0.75])
    spread = min(draws.std(), (quartiles[1] - quartiles[0]) / 1.34) or draws.std() or 1e-300
    width = 0.9 * spread * len(draws) ** -0.2

    def kernels(at):
        return np.exp(-0.5 * ((at[:, None] - draws) / width) ** 2).sum(axis=1)

    inside = (grid >= low) & (grid <= high)
    total = kernels(grid) + kernels(2 * low - grid) + kernels(2 * high - grid)
    return np.where(inside, total, 0.0) / (len(draws) * width * np.sqrt(2 * np.pi))
