"""Small multiples: one panel for each unit, on shared axes, with its own times."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from bayeshybrid.observation import MISSING
from bayeshybrid.plots.cells import Cells, draw_cells
from bayeshybrid.plots.panels import WITHIN, Bands, draw_bands, draw_outside, draw_shares, fill_band
from bayeshybrid.plots.style import (
    COMPONENTS,
    FILLED,
    INK,
    QUIET,
    SHADE,
    as_written,
    legend,
    marks,
    titled,
    wide,
)
from bayeshybrid.plots.units import UnitPanels

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FEW_UNITS = 4  # so many stand in one row, with a second row below
WIDTH, HEIGHT = 2.35, 1.9
NARROWEST = 4.6  # for a title above one panel
FAR = 0.6  # a component's name stands where its line is at least this share of its furthest from the others
NEUTRAL = {"facecolor": "#EFEFEF", "edgecolor": "#777777"}
USED, HELD_OUT = "data, used in the fit", "data, held out"


def unit_figure(
    panels: UnitPanels, units: Sequence[int], heights: Sequence[float] = (1.0,), labels: Sequence[str] = ()
) -> tuple[Figure, dict[int, list[Axes]]]:
    """A figure with one panel a unit, all on the same axes; several rows of them where they are few.

    **Returns:** the figure, and of each unit its axes from top to bottom.
    """
    from matplotlib.figure import Figure

    count = len(units)
    if len(heights) > 1:
        size = (1.0 + 3.1 * count, 3.0 * sum(heights) + 0.6)
        figure = Figure(figsize=size, layout="constrained")
        grid = figure.subplots(
            len(heights), count, sharex=True, sharey="row", squeeze=False, height_ratios=heights
        )
        found = {unit: list(grid[:, column]) for column, unit in enumerate(units)}
        for row, label in enumerate(labels):
            grid[row, 0].set_ylabel(label)
    else:
        columns = _columns(count)
        lines = -(-count // columns)
        size = (max(NARROWEST, 0.8 + WIDTH * columns), 1.3 + HEIGHT * lines)
        figure = Figure(figsize=size, layout="constrained")
        grid = figure.subplots(lines, columns, sharex=True, sharey=True, squeeze=False)
        found = {unit: [grid.flat[place]] for place, unit in enumerate(units)}
        for place in range(count, lines * columns):
            figure.delaxes(grid.flat[place])
            grid.flat[place - columns].tick_params(labelbottom=True)
        figure.supylabel(labels[0] if labels else panels.words, fontsize=10)
    for column in grid.T:  # below the lowest panel of each column
        lowest = [axes for axes in column if axes.figure is not None][-1]
        lowest.set_xlabel(panels.axis_name or "entry", fontsize=9)
    for unit, several in found.items():
        several[0].set_title(panels.unit_titles[unit], fontsize=9 if len(heights) == 1 else 11)
        for axes in several:
            axes.spines[["top", "right"]].set_visible(False)
            axes.tick_params(labelsize=8)
    return figure, found


def _columns(count):
    """Few gaps in the last line, and a shape that is a little wider than high."""
    if count <= 3:
        return max(count, 1)
    return min(range(3, 7), key=lambda c: (-count % c) / c + abs(c - 1.25 * np.sqrt(count)) / 2)


def finish_units(figure: Figure, axes: Mapping[int, Sequence[Axes]], lines: Sequence[str]) -> None:
    """Title lines, ticks and one legend."""
    from matplotlib.ticker import MaxNLocator

    several = [one for column in axes.values() for one in column]
    width = figure.get_figwidth()
    titled(figure, lines)
    for one in several:
        one.xaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10]))
    legend(figure, several, max(1, min(5, int(width // 2.1))))
    as_written(figure)


def draw_unit(
    axes: Axes, panels: UnitPanels, bands: Bands, unit: int, seen: Sequence[Any] = (), *, direct: bool = True
) -> None:
    """The bands of one unit and its data; several components in colours of their own, each with its name.

    `seen`: of each set of data its times `(unit, n)`, its cells `(unit, n, component)`, label and style.
    """
    first = unit * panels.components
    several = panels.components > 1
    for part in range(panels.components):
        if several:
            _draw_component(axes, panels, bands, first + part, part)
        else:
            draw_bands(axes, panels, bands, first)
        for times, cells, label, style in seen:
            own = {**style, "markersize": 4.0, **(_in_colour(style, part) if several else {})}
            draw_cells(axes, times[unit], cells.at((unit, slice(None), part)), label, own)
    if several:
        _explain(axes, seen, bands.state is not None)
        if direct:
            name_components(axes, panels, bands.middle, unit)


def _draw_component(axes, panels, bands, entry, part):
    line, ground, hatch, dashes, _ = COMPONENTS[part % len(COMPONENTS)]
    style = {"facecolor": ground, "edgecolor": line, "hatch": hatch, "alpha": 0.35, "linewidth": 0.6}
    fill_band(axes, panels, bands.observed[0.9], entry, "_new", {**style, "linestyle": "--"})
    if bands.state is not None:
        strong = {"facecolor": line, "edgecolor": "none", "alpha": 0.4, "linewidth": 0.0}
        fill_band(axes, panels, bands.state[0.9], entry, "_state", strong)
    x, middle = wide(panels.places(entry), panels.row(bands.middle, entry), half=panels.half)
    axes.plot(x, middle, color=line, linestyle=dashes, linewidth=1.4, label="_median")


def _in_colour(style, part):
    line, _, _, _, marker = COMPONENTS[part % len(COMPONENTS)]
    face = "white" if style["markerfacecolor"] == "white" else line
    return {"marker": marker, "markerfacecolor": face, "markeredgecolor": line}


def _explain(axes, seen, state):
    """Legend entries in grey: the colours are named in the panel."""
    axes.fill_between([], [], [], label="new measurement, 90 %", hatch="//", linestyle="--", **NEUTRAL)
    if state:
        axes.fill_between([], [], [], label="state, 90 %", facecolor="#AAAAAA", edgecolor="none")
    for line in axes.lines:
        if line.get_label() in {label for _, _, label, _ in seen}:
            line.set_label("_" + line.get_label())
    for _, _, label, style in seen:
        axes.plot([], [], linestyle="none", label=label, **style)


def name_components(axes: Axes, panels: UnitPanels, middle: np.ndarray, unit: int) -> None:
    """Each component's name at its line, late where that is still well apart from the lines of the others."""
    first = unit * panels.components
    x = panels.places(first)
    lines = np.stack([panels.row(middle, first + part) for part in range(panels.components)])
    if not len(x):
        return
    apart = np.abs(lines[:, None] - lines[None])
    apart[np.arange(len(lines)), np.arange(len(lines))] = np.inf
    for part, name in enumerate(panels.component_names):
        gap = np.nan_to_num(apart[part].min(axis=0), nan=-1.0)
        at = int(np.flatnonzero(gap >= FAR * gap.max())[-1])
        share = (x[at] - x[0]) / (np.ptp(x) or 1.0)
        lowest = lines[part, at] <= np.nanmin(lines[:, at])
        axes.annotate(
            name,
            (x[at], lines[part, at]),
            xytext=(0, -3 if lowest else 3),
            textcoords="offset points",
            ha="left" if share < 0.4 else "right" if share > 0.75 else "center",
            va="top" if lowest else "bottom",
            fontsize=8,
            color=COMPONENTS[part % len(COMPONENTS)][0],
            fontweight="bold",
            zorder=6,
            bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.6, "pad": 0.5},
        )


def unit_fit(panels: UnitPanels, bands: Bands, cells: Cells, residuals: Any, title: str) -> Figure:
    """The data of every unit on what the model expects of it; with few units their residuals below."""
    times, own = panels.points({panels.site.name: cells})
    few = len(panels.shown) <= FEW_UNITS
    heights, labels = ((1.0, 0.45), (panels.words, "residual (sd)")) if few else ((1.0,), (panels.words,))
    figure, axes = unit_figure(panels, panels.shown, heights, labels)
    for unit, several in axes.items():
        direct = few or unit == panels.shown[0]
        draw_unit(several[0], panels, bands, unit, [(times, own, USED, FILLED)], direct=direct)
        if few:
            draw_residuals(several[1], panels, residuals, unit)
    finish_units(figure, axes, (title, panels.left_out))
    return figure


def draw_residuals(axes: Axes, panels: UnitPanels, residuals: Any, unit: int) -> None:
    """Residuals of one unit over its times, with the range of two standard deviations."""
    axes.axhspan(-WITHIN, WITHIN, color=SHADE, zorder=0)
    axes.axhline(0.0, color=QUIET, linewidth=0.8)
    values = np.reshape(residuals, (*panels.shape[:2], panels.components))[unit]
    for part in range(panels.components):
        style = {**FILLED, **(_in_colour(FILLED, part) if panels.components > 1 else {})}
        marks(axes, panels.times[unit], values[:, part], "_residual", style)
    reach = np.max(np.abs(values[np.isfinite(values)]), initial=0.0)
    low, high = axes.get_ylim()
    axes.set_ylim(min(low, -3.0, -1.1 * reach), max(high, 3.0, 1.1 * reach))


def unit_forecast(
    panels: UnitPanels,
    bands: Bands,
    given: Sequence[tuple[Mapping[str, Any] | None, str, Mapping[str, Any]]],
    shares: Sequence[np.ndarray],
    titles: Sequence[str],
    outside: np.ndarray | None = None,
) -> Figure:
    """The forecast of every unit beside its data; with few units the shares of the variance below.

    `given`: data with their words and marks; `shares`: the aleatoric and the epistemic part; `outside`: in the
    form `(unit, time)`, where networks are asked for what they never met.
    """
    seen = [(*panels.points(data), words, style) for data, words, style in given if data is not None]
    few = len(panels.shown) <= FEW_UNITS
    heights, labels = ((1.0, 0.4), (panels.words, "share of variance")) if few else ((1.0,), (panels.words,))
    figure, axes = unit_figure(panels, panels.shown, heights, labels)
    for unit, several in axes.items():
        direct = few or unit == panels.shown[0]
        draw_unit(several[0], panels, bands, unit, seen, direct=direct)
        first, x = unit * panels.components, panels.places(unit * panels.components)
        if few:
            parts = [
                np.mean([panels.row(part, first + i) for i in range(panels.components)], 0) for part in shares
            ]
            draw_shares(several[1], x, *parts)
        for one in several:
            if given and given[0][0] is not None:
                mark_end(one, x, seen[0][0][unit], seen[0][1].at(unit))
            if outside is not None:
                draw_outside(one, x, panels.along(outside, unit))
    finish_units(figure, axes, (*titles, panels.left_out))
    return figure


def mark_end(axes: Axes, x: np.ndarray, times: np.ndarray, cells: Cells) -> None:
    """A dotted line where the data of a unit end, if the forecast leads beyond."""
    known = np.any(cells.kinds != MISSING, axis=-1)
    if known.any() and len(x) and times[known].max() < x[-1]:
        axes.axvline(times[known].max(), color=INK, linewidth=0.9, linestyle=":", label="_end of data")


def one_each(
    panels: UnitPanels, units: Sequence[int], draw: Callable[[Axes, int], None]
) -> tuple[list[Figure], Figure]:
    """One small figure a unit, all on the same axes, and a figure that explains their marks.

    For a page that sets them side by side: as many in a row as it has room for.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figures, several = [], []
    for unit in units:
        figure = Figure(figsize=(2.5, 2.0), layout="constrained")
        axes = figure.subplots()
        draw(axes, unit)
        axes.set_title(panels.unit_titles[unit], fontsize=9.5)
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=8.5)
        figures.append(figure)
        several.append(axes)
    for limits in ("xlim", "ylim"):
        ends = np.array([getattr(axes, f"get_{limits}")() for axes in several])
        for axes in several:
            getattr(axes, f"set_{limits}")(ends[:, 0].min(), ends[:, 1].max())
    for axes in several:
        axes.xaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10]))
        axes.yaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 2.5, 5, 10]))
    for figure in figures:
        as_written(figure)
    return figures, _key(several)


def _key(several):
    """What the marks of these axes mean, without any axes."""
    from matplotlib.figure import Figure

    found = {}
    for axes in several:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            found.setdefault(label, handle)
    figure = Figure(figsize=(4.6, 0.24 * -(-len(found) // 2) + 0.1))
    figure.legend(found.values(), found.keys(), loc="center", ncols=2, frameon=False, fontsize=9)
    as_written(figure)
    return figure
