"""What the data told of each unknown, and what a network may have taken from it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from bayeshybrid.faults import ModelError
from bayeshybrid.plots.style import GROUPS, INK, QUIET, STATE, as_written, legend
from bayeshybrid.plots.unknowns import MOVED_MUCH, MOVED_SOME

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from bayeshybrid.identifiability import Identifiability

MARKS = ("o", "s", "^", "D", "v", "P")

__all__ = ["identifiability"]


def identifiability(found: Identifiability) -> Figure:
    """How much the data told of each unknown, and which share of that a network may have taken.

    Left, contraction: 0 where the data said nothing, 1 where they said everything, with lines at 0.5 and 0.9.
    Right, where there are networks, absorption: 0 untouched, 1 eaten; the mark at the stated size of the
    network's weights, the line from half to twice of it.

    **Arguments:**

    - `found`: what `bh.identifiability.assess` returned.

    **Returns:** a matplotlib `Figure`.

    **Raises:** `ModelError` where there is no parameter.

    ```python
    model = lambda y=None: numpyro.sample("y", dist.Normal(numpyro.sample("x", dist.Normal()), 1.0), obs=y)
    posterior = bh.infer(model, {"y": np.array(2.0)}, bh.NUTS(draws=50, warmup=50), key=0)
    figure = bh.plots.identifiability(bh.identifiability.assess(posterior))
    assert figure.axes[0].get_xlabel() == "told by the data"
    ```
    """
    from matplotlib.figure import Figure

    if not found.parameters:
        raise ModelError("plots.identifiability: no parameter was examined")
    networks = list(dict.fromkeys(network for _, network in found.absorption))
    columns = 2 if networks else 1
    figure = Figure(
        figsize=(1.2 + 3.6 * columns, 1.2 + 0.3 * len(found.parameters) + 0.3 * bool(networks)),
        layout="constrained",
    )
    axes = figure.subplots(1, columns, sharey=True, squeeze=False)[0]
    _draw_contraction(axes[0], found)
    if networks:
        _draw_absorption(axes[1], found, networks)
    for one in axes:
        one.set_xlim(-0.03, 1.03)
        one.spines[["top", "right"]].set_visible(False)
        one.tick_params(axis="y", length=0)
    legend(figure, axes, 3)
    as_written(figure)
    return figure


def _draw_contraction(axes, found):
    places = np.arange(len(found.parameters))
    told = np.array([parameter.contraction for parameter in found.parameters])
    axes.barh(places, np.clip(np.nan_to_num(told), 0.0, 1.0), height=0.6, color="#A6CCE5", edgecolor=STATE)
    for limit in (MOVED_SOME, MOVED_MUCH):
        axes.axvline(limit, color=QUIET, linewidth=0.8, linestyle=":")
    axes.set_yticks(places, [parameter.name for parameter in found.parameters], parse_math=False)
    axes.set_ylim(len(places) - 0.4, -0.6)
    axes.set_xlabel("told by the data")


def _draw_absorption(axes, found, networks):
    for number, network in enumerate(networks):
        label, style = f"taken by {network}", GROUPS[number % len(GROUPS)]
        for place, parameter in enumerate(found.parameters):
            at = found.absorption.get((parameter.name, network))
            if at is None:
                continue
            y = place + 0.18 * (number - (len(networks) - 1) / 2)
            axes.plot([min(at.values()), max(at.values())], [y, y], color=style["edgecolor"], linewidth=2)
            axes.plot(
                [at[1.0]],
                [y],
                MARKS[number % len(MARKS)],
                markerfacecolor=style["facecolor"],
                markeredgecolor=INK,
                label=label,
            )
            label = "_" + label.lstrip("_")
    axes.set_xlabel("share taken by a network")
