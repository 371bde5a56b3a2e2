"""The unknowns before and after the data."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from bayeshybrid.faults import ModelError
from bayeshybrid.plots.style import AFTER, BEFORE, INK, QUIET, as_written, legend, titled
from bayeshybrid.posterior import Posterior
from bayeshybrid.summary import entry_name, names_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLUMNS = 4
MOST_OF_UNITS = 6
MOVED_MUCH, MOVED_SOME = 0.9, 0.5

__all__ = ["density", "moved", "parameters"]


def parameters(posterior: Posterior) -> Figure:
    """Each unknown before and after the data: prior and posterior side by side, and how far it moved.

    Half of each panel is the density of the prior (left, hatched), half that of the posterior (right, filled),
    each drawn to the same width; the bars are central 90 % intervals. Above stand the name and, in words, how
    much the data narrowed it: *moved much* for a contraction above 0.9, *some* above 0.5, else *hardly*.
    Weights of networks are left out: they mean little one by one; so are the values of more than six units.

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
    layout = posterior.target.layout
    left_out = sum(int(np.prod(site.shape)) for site in layout.latent if _of_many_units(site))
    rest = f"{left_out} values of single units are not shown" if left_out else ""
    titled(figure, ["Unknowns before and after the data", rest])
    legend(figure, [figure.axes[0]], 3)
    as_written(figure)
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


def _entries(posterior):
    """Title, unit, prior draws or `None`, posterior draws and contraction of each unknown number."""
    for site in posterior.target.layout.latent:
        if site.tag.kind == "weight" or _of_many_units(site):
            continue
        after, before, told = (x[site.name] for x in (posterior, posterior.prior, posterior.contraction))
        for index in np.ndindex(after.shape[1:]):
            title = entry_name(site.name, index, *names_of(site.tag, posterior.target.labels))
            contraction = float(np.asarray(told)[index])
            prior = before[(slice(None), *index)] if np.isfinite(contraction) else None
            yield title, site.tag.unit or "", prior, after[(slice(None), *index)], contraction


def _of_many_units(site):
    return site.tag.across is not None and int(np.prod(site.shape)) > MOST_OF_UNITS


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
