"""What networks have become in the fit, and what they add to the model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from bayeshybrid import configuration
from bayeshybrid.functions import network_outputs, visited_points
from bayeshybrid.keys import as_key
from bayeshybrid.posterior import Posterior
from bayeshybrid.survey import ask, draw_prior

SOME_DRAWS = 256
PLACES = 64

__all__ = ["Contribution", "contributions"]


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
