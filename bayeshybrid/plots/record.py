"""The track record of a forecast beside that of a perfect one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from bayeshybrid.faults import ModelError
from bayeshybrid.plots.style import INK, MEASURED, QUIET, SHADE, STATE, as_written, legend

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from bayeshybrid.calibration import Calibration

PERFECT = {"color": STATE, "linewidth": 7.0, "alpha": 0.35, "solid_capstyle": "butt"}

__all__ = ["calibration"]


def calibration(result: Calibration, *, site: str | None = None) -> Figure:
    """How often measurements fell where the forecast said, beside a perfect forecast of the same size.

    Left, for each central range its share of measurements inside (marks), and the bar in which nine in ten
    perfect forecasts would lie. Right, for numbers, the distribution of the measurements' ranks in the forecast
    minus the even one, with the band that holds a perfect forecast's whole curve in 95 of 100 cases (Säilynoja,
    Bürkner and Vehtari 2022, "Graphical test for discrete uniformity"); for classes, how often a class came up
    against how probable it was said to be.

    **Arguments:**

    - `result`: what `bh.calibration.assess` returned.
    - `site`: which observed site; needed where there are several.

    **Returns:** a matplotlib `Figure`.

    **Raises:** `ModelError` for a site that is not there.

    ```python
    model = lambda t, y=None: numpyro.sample("y", dist.Normal(numpyro.sample("x", dist.Normal()) * t, 1.0), obs=y)
    ahead = bh.simulate(model, {"t": np.arange(4.0)}, key=0, draws=200)
    figure = bh.plots.calibration(bh.calibration.assess(ahead, {"y": np.array([0.1, -1.0, 0.4, 2.0])}))
    assert figure.axes[0].get_xlabel() == "share stated"
    ```
    """
    from matplotlib.figure import Figure

    if site is None and len(result.sites) > 1:
        raise ModelError(f"plots: the track record has {', '.join(result.sites)}: choose one with site=")
    if site is not None and site not in result.sites:
        raise ModelError(f"plots: no site {site!r} in the track record: there are {', '.join(result.sites)}")
    name = site or next(iter(result.sites))
    figure = Figure(figsize=(8.6, 4.0), layout="constrained")
    left, right = figure.subplots(1, 2)
    draw_coverage(left, result.sites[name])
    draw_second(right, result.sites[name])
    told = "in sample" if result.in_sample else "not used in the fit"
    figure.suptitle(f"Track record of {name} ({told})", fontsize=12)
    finish_record(figure, [left, right])
    return figure


def finish_record(figure: Figure, axes: list[Any]) -> None:
    """Spines and legend."""
    for one in axes:
        one.spines[["top", "right"]].set_visible(False)
    legend(figure, axes, 2)
    as_written(figure)


def draw_coverage(axes: Axes, found: Any) -> None:
    """Measured shares inside central ranges, beside what a perfect forecast of the same size would show."""
    axes.plot([0, 1], [0, 1], color=QUIET, linewidth=0.8)
    told = "nine in ten perfect forecasts"
    for turn, (level, (inside, compared)) in enumerate(found.counts.items()):
        figure = found.figures.get(f"coverage {100 * level:g} %")
        if figure is not None:
            axes.plot([level, level], [figure.low, figure.high], label=told, **PERFECT)
            told = "_" + told.lstrip("_")
        axes.annotate(
            f"{inside} of {compared}",
            (level, inside / max(compared, 1)),
            xytext=(-7, -11 if turn % 2 else 3),  # neighbours on one height stay apart
            textcoords="offset points",
            ha="right",
            fontsize=8,
        )
    levels = list(found.counts)
    shares = [inside / max(compared, 1) for inside, compared in found.counts.values()]
    axes.plot(levels, shares, "o", color=MEASURED, markeredgecolor=INK, label="this forecast", zorder=4)
    axes.set(xlim=(0, 1.02), ylim=(-0.02, 1.06), xlabel="share stated", ylabel="share of measurements inside")


def draw_second(axes: Axes, found: Any) -> None:
    """Ranks of numbers, reliability of classes."""
    if found.reliability is not None:
        _draw_reliability(axes, found.reliability)
    else:
        _draw_ranks(axes, found)


def _draw_ranks(axes, found):
    grid, low, high = found.pit_bands
    pit = np.sort(np.asarray(found.pit, float).ravel())
    # At the places of the band and nowhere else: between them it says nothing.
    share = np.searchsorted(pit, grid, side="right") / max(len(pit), 1)
    axes.fill_between(grid, low, high, facecolor=SHADE, edgecolor=STATE, label="perfect, 95 in 100 curves")
    axes.plot(grid, share - grid, "o-", color=MEASURED, markersize=3, linewidth=1.5, label="this forecast")
    axes.axhline(0.0, color=QUIET, linewidth=0.8)
    axes.set(
        xlim=(0, 1),
        xlabel="place of the measurement in the forecast",
        ylabel="share below, minus share stated",
    )


def _draw_reliability(axes, table):
    axes.plot([0, 1], [0, 1], color=QUIET, linewidth=0.8)
    known = np.isfinite(table.low)
    for row, (x, low, high) in enumerate(
        zip(table.stated[known], table.low[known], table.high[known], strict=True)
    ):
        axes.plot([x, x], [low, high], label="_" * (row > 0) + "nine in ten perfect forecasts", **PERFECT)
    axes.plot(
        table.stated, table.met, "o", color=MEASURED, markeredgecolor=INK, label="this forecast", zorder=4
    )
    axes.set(xlim=(0, 1), ylim=(-0.02, 1.02), xlabel="probability stated", ylabel="share that came true")
