"""Colours, hatches and what every picture shares."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's colours, of different lightness, so that they stay apart in grey; hatch and edge tell them too.
STATE, MIDDLE, MEASURED, INK, QUIET = "#0072B2", "#00406B", "#B86E00", "#222222", "#777777"
OBSERVED_BAND = {"edgecolor": MEASURED, "linestyle": "--", "linewidth": 0.8}
STATE_BAND = {"edgecolor": STATE, "linestyle": "-", "linewidth": 0.8}
OBSERVED_STYLES = {
    0.9: {"facecolor": "#FDF3DF", "hatch": "//", **OBSERVED_BAND},
    0.5: {"facecolor": "#F8DDA6", "hatch": "////", **OBSERVED_BAND},
}
STATE_STYLES = {0.9: {"facecolor": "#A6CCE5", **STATE_BAND}, 0.5: {"facecolor": "#5BA3D0", **STATE_BAND}}
SHADE = "#EBEBEB"
ALEATORIC = {"facecolor": "#F0F0F0", "edgecolor": "#999999", "hatch": "..", "linewidth": 0.8}
EPISTEMIC = {"facecolor": "#009E73", "edgecolor": "#00513B", "linewidth": 0.8}
BEFORE = {"facecolor": "#FBE8C4", "hatch": "//", **OBSERVED_BAND}
AFTER = {"facecolor": "#5BA3D0", **STATE_BAND}
FILLED = {"marker": "o", "markersize": 4.5, "markerfacecolor": INK, "markeredgecolor": INK}
BEYOND = {"facecolor": "none", "edgecolor": "#B0567F", "hatch": "xx", "linewidth": 0.0, "alpha": 0.7}
# Groups of unknowns: neighbours differ in lightness, and every one in its hatch.
GROUPS = tuple(
    {"facecolor": face, "edgecolor": edge, "hatch": hatch, "linewidth": 0.8}
    for face, edge, hatch in (
        ("#0072B2", "#003A5C", ""),
        ("#F2C14E", "#8A5F00", "//"),
        ("#009E73", "#00513B", "\\\\"),
        ("#F3B6D3", "#8E3B66", "xx"),
        ("#B5491C", "#5E2008", "--"),
        ("#9AD1EC", "#1F6E96", "||"),
        ("#6B5B95", "#342A52", "++"),
        ("#C9D68B", "#5E6B1E", "oo"),
    )
)
# Components of one unit in one panel: line, ground, hatch, line style and mark of each.
COMPONENTS = (
    ("#0072B2", "#A6CCE5", "//", "-", "o"),
    ("#B5491C", "#F3C9AE", "\\\\", "--", "s"),
    ("#00755A", "#A5DCC9", "..", "-.", "^"),
    ("#8E3B66", "#F3B6D3", "xx", ":", "D"),
    ("#2F2F2F", "#CFCFCF", "--", (0, (5, 1)), "v"),
    ("#8A5F00", "#F6DFA0", "||", (0, (1, 1)), "P"),
)
LEFT_OVER = {"facecolor": "#FFFFFF", "edgecolor": "#777777", "hatch": "xxx", "linewidth": 0.8}
OPEN = {"marker": "s", "markersize": 5.5, "markerfacecolor": "white", "markeredgecolor": INK}


def wide(x: np.ndarray, *rows: np.ndarray, half: float = 0.4) -> tuple[np.ndarray, ...]:
    """A single entry becomes as wide as a step, or nothing of it would be seen."""
    if len(x) != 1:
        return x, *rows
    return np.array([x[0] - half, x[0] + half]), *(np.repeat(row, 2) for row in rows)


def marks(axes: Axes, x: np.ndarray, values: np.ndarray, label: str, style: Mapping[str, Any]) -> None:
    """Points without a line."""
    axes.plot(x, values, linestyle="none", label=label, zorder=5, **style)


def legend(figure: Figure, several: Sequence[Axes], columns: int) -> None:
    """One legend below the figure for what these axes show, each label once."""
    found = {}
    for axes in several:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            found.setdefault(label, handle)
    figure.legend(
        found.values(), found.keys(), loc="outside lower center", ncols=columns, frameon=False, fontsize=9
    )


def titled(figure: Figure, lines: Sequence[str]) -> None:
    """A title above a figure, and further lines as far as there are any, no wider than the figure."""
    width = figure.get_figwidth()
    size = 12 if width > 6 else 10
    fitting = int(12.5 * width * 12 / size)
    told = [row for line in lines for row in textwrap.wrap(line, fitting)]
    figure.suptitle("\n".join(told), fontsize=size)


def as_written(figure: Figure) -> None:
    """Names and units are shown as the user wrote them: a dollar sign begins no formula."""
    from matplotlib.text import Text

    for text in figure.findobj(Text):
        text.set_parse_math(False)
