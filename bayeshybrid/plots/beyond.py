"""Where a forecast asks networks for what they never met."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from bayeshybrid.plots.panels import Panels
from bayeshybrid.plots.units import UnitPanels

if TYPE_CHECKING:
    from bayeshybrid.extrapolation import Asked

HALF = 0.5

__all__ = ["extrapolated", "extrapolation_words"]


def extrapolated(panels: Panels | UnitPanels, asked: Mapping[str, Asked]) -> np.ndarray | None:
    """Positions at which half of the draws or more ask some network outside what it met; `None` where unknown.

    `(time,)` in the order of the inputs, or `(unit, time)`.
    """
    units = isinstance(panels, UnitPanels)
    shape = panels.shape[:2] if units else panels.x.shape
    found = [one.along for one in asked.values() if one.along is not None]
    fitting = [along.reshape(shape) for along in found if along.size == math.prod(shape)]
    if units:  # units that share their times may share their questions
        fitting += [
            np.broadcast_to(along, shape) for along in found if along.size == shape[1] != np.prod(shape)
        ]
    return np.max(fitting, axis=0) >= HALF if fitting else None


def extrapolation_words(asked: Mapping[str, Asked]) -> str:
    """How much of what networks are asked lies outside what they met, in words; nothing where nothing does."""
    told = [
        f"the network {name} is asked outside what it met in the fit in {_percent(one.outside)} of its calls"
        for name, one in asked.items()
        if one.outside > 0
    ]
    words = "; ".join(told)
    return words[:1].upper() + words[1:]


def _percent(share):
    return "less than 1 %" if share < 0.005 else f"{100 * share:.0f} %"
