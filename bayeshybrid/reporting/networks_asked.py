"""What networks were asked in the fit and are asked in the forecast, and what they add to the model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from bayeshybrid import configuration
from bayeshybrid.forecast import Forecast
from bayeshybrid.functions import REGION_DRAWS, network_outputs, visited_points
from bayeshybrid.keys import as_key
from bayeshybrid.posterior import Posterior
from bayeshybrid.survey import ask, draw_prior

EVERYTHING = 10**7
SOME_DRAWS = 256
PLACES = 64

__all__ = ["Asked", "Contribution", "contributions", "questions"]


@dataclass(frozen=True)
class Asked:
    """How far the forecast leads a network out of what it was asked in the fit.

    - `outside`: share of its questions in the forecast that lie outside: beyond the range that one of its inputs
      took in the fit, or further from the middle, in the units of the fit's own spread, than any question there.
    - `along`: that share for each position where the forecast asks one question for each; else `None`.
    - `ranges`: of each input, its smallest and largest value in the fit and in the forecast, `(input, 4)`.
    """

    outside: float
    along: np.ndarray | None
    ranges: np.ndarray


@dataclass(frozen=True)
class Contribution:
    """What a network has become over the questions of the fit.

    - `size`: root mean square of its mean output; `doubt`: of the standard deviation of its output over draws;
      `before`: of its output under the prior; each by output.
    - `moved`: by observed site, root mean square change of the expected measurement if the network said nothing,
      over the standard deviation of the data's expected values; none where the network cannot be silenced.
    """

    size: np.ndarray
    doubt: np.ndarray
    before: np.ndarray
    unit: str | None
    moved: dict[str, float]


def questions(posterior: Posterior, forecast: Forecast) -> dict[str, Asked]:
    """By network, how far the forecast leads it out of what it was asked in the fit."""
    target = posterior.target
    if not target.layout.networks or forecast.origin is None:
        return {}
    left_out = target.layout.observation_arguments
    inputs = {name: value for name, value in forecast.inputs.items() if name not in left_out}
    points = forecast.origin.points
    with configuration.scope():
        seen = visited_points(target, points, most=EVERYTHING)
        now = visited_points(target, points, inputs, most=EVERYTHING)
    return {
        name: _compare(seen[name], now[name], min(REGION_DRAWS, len(points)))
        for name in seen
        if len(seen[name]) and len(now.get(name, ()))
    }


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


def contributions(posterior: Posterior) -> dict[str, Contribution]:
    """By network, what it has become, and what would change without it."""
    target = posterior.target
    if not target.layout.networks:
        return {}
    flat = posterior.unconstrained.reshape(-1, posterior.unconstrained.shape[-1])
    some = flat[np.linspace(0, len(flat) - 1, min(SOME_DRAWS, len(flat))).astype(int)]
    with configuration.scope():
        places = visited_points(target, some, most=PLACES)
        unknown, _ = draw_prior(target, as_key(0), SOME_DRAWS)
        found = {}
        for name, at in places.items():
            outputs = network_outputs(target, some, name, at)
            prior = network_outputs(target, unknown, name, at)
            found[name] = Contribution(
                size=_rms(outputs.mean(axis=0)),
                doubt=_rms(outputs.std(axis=0)),
                before=_rms(prior.std(axis=0)),
                unit=target.networks(flat[0])[name].unit,
                moved=_without(target, some, name),
            )
    return found


def _rms(values: Any) -> np.ndarray:
    """Root mean square over places, by output."""
    return np.sqrt(np.mean(np.square(values), axis=0))


def _without(target, points, name):
    """What the expected measurements change by when the network is silenced, over their own spread."""
    silent = [s for s in target.layout.latent if s.tag.group == name and s.tag.initial == "zero"]
    if not silent:
        return {}
    quiet = points.copy()
    for site in silent:
        quiet[:, site.start : site.stop] = 0.0
    wanted = ["mean", "log_likelihood"]
    said, unsaid = ask(target, points, wanted), ask(target, quiet, wanted)
    solved = np.isfinite(said["log_likelihood"]) & np.isfinite(unsaid["log_likelihood"])
    moved = {}
    for site, means in said["mean"].items():
        if not solved.any() or means.dtype.kind not in "fi":
            continue
        change, spread = (unsaid["mean"][site] - means)[solved], means[solved].mean(axis=0).std(axis=0).mean()
        if spread > 0 and np.all(np.isfinite(change)):
            moved[site] = float(
                np.sqrt(np.median(np.mean(change**2, axis=tuple(range(1, change.ndim))))) / spread
            )
    return moved
