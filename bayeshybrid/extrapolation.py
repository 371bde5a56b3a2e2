"""How far a forecast leads networks out of what they were asked in the fit."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import jax
import numpy as np

from bayeshybrid import configuration
from bayeshybrid.data import check_arguments
from bayeshybrid.functions import REGION_DRAWS, visited_points
from bayeshybrid.layout import split_arguments

if TYPE_CHECKING:
    from bayeshybrid.forecast import Forecast

EVERYTHING = 10**7

__all__ = ["Asked", "asked_of_networks", "questions"]


@dataclass(frozen=True)
class Asked:
    """How far a forecast leads a network out of what it was asked in the fit.

    - `outside`: share of its questions in the forecast that lie outside: beyond the range that one of its inputs
      took in the fit, or further from the middle, in the units of the fit's own spread, than any question there.
    - `along`: that share for each question of the forecast, over the draws followed, in the order of the solution's
      entries (units, then times); `None` where draws ask differently often.
    - `ranges`: of each input, its smallest and largest value in the fit and in the forecast, `(input, 4)`.
    """

    outside: float
    along: np.ndarray | None
    ranges: np.ndarray


def questions(forecast: Forecast) -> dict[str, Asked]:
    """By network, how far the forecast leads it out of what it was asked in the fit; see `Forecast.extrapolation`."""
    target = forecast.target
    if not target.layout.networks or forecast.origin is None:
        return {}
    with configuration.scope():
        seen = visited_points(target, forecast.origin.points, most=EVERYTHING)
        now = asked_of_networks(forecast)
    followed = min(REGION_DRAWS, len(forecast.kept))
    return {
        name: _compare(seen[name], now[name], followed)
        for name in seen
        if len(seen[name]) and len(now.get(name, ()))
    }


def asked_of_networks(forecast: Forecast, most: int = EVERYTHING) -> dict[str, np.ndarray]:
    """At which inputs each network is asked in a forecast, over 16 of its draws, `(place, number of inputs)`.

    **Arguments:**

    - `forecast`: what was forecast.
    - `most`: how many points are kept of each network, evenly spaced among all.
    """
    target = forecast.target
    if not target.layout.networks:
        return {}
    left_out = target.layout.observation_arguments
    inputs = {name: value for name, value in forecast.inputs.items() if name not in left_out}
    arrays, fixed, _ = split_arguments(
        target.model, check_arguments(target.model, inputs), dict(target.fixed)
    )
    unknowns = (*forecast.carried, *forecast.continued, *forecast.drawn_anew)
    total = len(forecast.kept)
    rows = np.linspace(0, total - 1, min(REGION_DRAWS, total)).astype(int) * forecast.replicates
    drawn = {name: forecast.latent[name].draws[rows] for name in unknowns if name in forecast.latent}
    found = {}
    for name, points in _visited(target, tuple(sorted(fixed.items())), arrays, drawn).items():
        points = np.asarray(points).reshape(-1, points.shape[-1])
        points = points[np.all(np.isfinite(points), axis=1)]
        found[name] = points[np.linspace(0, len(points) - 1, min(most, len(points))).astype(int)]
    return found


@partial(jax.jit, static_argnums=1)
def _visited(target, fixed, arrays, drawn):
    arguments = {**arrays, **{name: value.value for name, value in fixed}}

    def one(unknowns):
        visited = target.outcome(unknowns, arguments, visit=True).visited
        return {name: inputs for name, (inputs, _) in visited.items()}

    return jax.lax.map(one, drawn)


def _compare(seen, now, followed):
    low, high = seen.min(axis=0), seen.max(axis=0)
    beyond = np.any((now < low) | (now > high), axis=1) | (_distance(seen, now) > _distance(seen, seen).max())
    along = beyond.reshape(followed, -1).mean(axis=0) if len(now) % followed == 0 else None
    ranges = np.stack([low, high, now.min(axis=0), now.max(axis=0)], axis=1)
    return Asked(float(beyond.mean()), along, ranges)


def _distance(seen, points):
    """From the middle, in units of the spread of what was seen (Mahalanobis)."""
    middle = seen.mean(axis=0)
    spread = np.atleast_2d(np.cov(seen, rowvar=False))
    inverse = np.linalg.pinv(spread, hermitian=True)
    away = points - middle
    return np.sqrt(np.maximum(np.einsum("ij,jk,ik->i", away, inverse, away), 0.0)) * (1 - 1e-12)
