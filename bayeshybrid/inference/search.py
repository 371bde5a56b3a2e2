"""The search for basins: many starts from the prior, optimised together, told apart by what they predict."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import numpy as np

from bayeshybrid.inference.method import Basin
from bayeshybrid.inference.optimise import FIRST_PHASE, SECOND_PHASE, climb
from bayeshybrid.inference.trajectories import slopes
from bayeshybrid.inference.whitening import DENSE_UP_TO
from bayeshybrid.progress import Progress
from bayeshybrid.survey import ask
from bayeshybrid.target import Target

STARTS = 32
SAME_PREDICTION = 0.3
SAME_HEIGHT = 2.0
NEGLIGIBLE = 0.01
AT_MOST = 4
OUT_OF_REACH = 10.0
PROPOSALS = 1000
KHAT_LIMIT = min(1 - 1 / np.log10(PROPOSALS), 0.7)
SAME_WEIGHT = 0.01
NO_BETTER = 2.0

__all__ = ["Search", "at_initial_values", "basins_of", "find_basins", "spread_of"]


@dataclass(frozen=True)
class Search:
    """What the search found, for the result to report.

    - `basins`: those that carry at least a hundredth of the mass, largest first.
    - `left_out`: the others: regions where searches ended that carry less, or are flat.
    - `starts`, `failed`: searches begun, and those that never found a finite density.
    - `notes`: what a reader must know, in words.
    """

    basins: tuple[Basin, ...]
    left_out: tuple[Basin, ...]
    starts: int
    failed: int
    notes: tuple[str, ...]

    def __str__(self) -> str:
        lines = [f"{self.starts} searches, {len(self.basins)} basin(s) kept, {len(self.left_out)} left out"]
        for basin in self.basins + self.left_out:
            kept = "kept" if any(basin is other for other in self.basins) else "left out"
            share = f"mass {basin.mass:.3g}" if np.isfinite(basin.mass) else "mass not known"
            lines.append(
                f"  log density {basin.log_density:.2f}, {len(basin.members)} searches, {share}, {kept}"
            )
        return "\n".join([*lines, *self.notes])


def find_basins(
    target: Target,
    starts: np.ndarray,
    key: Any,
    progress: Progress,
    stated: Target | None = None,
    spread: np.ndarray | None = None,
) -> Search:
    """Optimise many starts together and cluster where they end.

    **Arguments:**

    - `target`: the density.
    - `starts`: unconstrained points of finite density, `(n, size)`.
    - `key`: a JAX key for the importance sampling of the masses.
    - `progress`: told what is going on.
    - `stated`: the model with adaptive solves, where `target` solves on grids: what basins predict is asked of it.
    - `spread`: the unit of length of each unknown, by default that of the starts.

    **Returns:** a `Search`. Where no search ends in a maximum, its one basin is the best point found, with no
    curvature and no mass, and a note that says so.
    """
    progress.start("search for basins", FIRST_PHASE + SECOND_PHASE)
    spread = spread_of(starts) if spread is None else spread
    asked = partial(_in_units, target, spread)
    ends, values = climb(asked, starts / spread, lambda done: progress.update(done, "climbing"))
    progress.update(FIRST_PHASE + SECOND_PHASE, "curvature")
    found = basins_of(target, ends * spread, values, starts, spread, key, stated)
    progress.finish(f"{len(found.basins)} of {len(found.basins + found.left_out)} basins kept")
    return found


def basins_of(
    target: Target,
    ends: np.ndarray,
    values: np.ndarray,
    starts: np.ndarray,
    spread: np.ndarray,
    key: Any,
    stated: Target | None = None,
) -> Search:
    """The basins in which searches from `starts` came to `ends`, `(n, size)`, of log density `values`.

    For the other arguments, and for what comes back, see `find_basins`.
    """
    finite = np.isfinite(values)
    ends, values = ends[finite], values[finite]
    basins = _with_curvature(target, _cluster(stated or target, ends, values, spread))
    basins = _with_masses(target, basins, key)
    kept, left_out, notes = _keep(basins, target.layout.size)
    if kept and kept[0].factor is None and target.layout.size <= DENSE_UP_TO:
        kept, notes = _out_of_the_neck(stated or target, kept, starts, notes)
    return Search(kept, left_out, len(starts), int(np.sum(~finite)), notes)


def spread_of(starts: np.ndarray) -> np.ndarray:
    """Half the width of the middle two thirds of the starts: the unit of length; 1 where they are all the same.

    ```python
    from bayeshybrid.inference.search import spread_of
    assert spread_of(np.array([[0.0, 1.0], [3.0, 1.0], [6.0, 1.0]])).tolist() == [2.0, 1.0]
    ```
    """
    low, high = np.quantile(starts, [1 / 6, 5 / 6], axis=0)
    return np.where(high > low, (high - low) / 2, 1.0)


def _in_units(target, spread, points):
    """Log density and gradient at points measured in `spread`, so that no unit is too large or small to climb."""
    values, gradients = slopes(target, points * spread)
    return values, gradients * spread


def _cluster(target, ends, values, spread):
    """End points that predict the same and lie equally high, best first."""
    if not len(ends):
        return []
    predicted, noise = _predict(target, ends)
    order = np.argsort(-values)
    groups: list[list[int]] = []
    for i in order:
        for group in groups:
            head = group[0]
            distance = np.abs(predicted[i] - predicted[head]) / noise[head]
            if np.max(distance, initial=0.0) < SAME_PREDICTION and values[head] - values[i] < SAME_HEIGHT:
                group.append(int(i))
                break
        else:
            groups.append([int(i)])
    return [
        Basin(ends[group[0]], float(values[group[0]]), ends[group], None, spread, float("nan"), float("nan"))
        for group in groups
    ]


def _predict(target, ends):
    """What each point expects to be observed, and the noise about it, as flat rows; the point itself if nothing is."""
    if not target.layout.observed:
        return ends, np.ones_like(ends)
    told = ask(target, ends, ["mean", "variance"])
    mean, variance = (
        np.concatenate([x.reshape(len(ends), -1) for x in told[which].values()], axis=1)
        for which in ("mean", "variance")
    )
    return np.nan_to_num(mean), np.sqrt(np.nan_to_num(variance, nan=1.0)) + 1e-12


def _with_curvature(target, basins):
    """The whitening factor at each mode, where the mode is a maximum; only those within reach of the best."""
    best = max((basin.log_density for basin in basins), default=0.0)
    done = []
    for basin in basins:
        reachable = best - basin.log_density < 30.0 + target.layout.size
        small = target.layout.size <= DENSE_UP_TO
        factor = _curvature(target, basin.mode, basin.spread) if reachable and small else None
        done.append(replace(basin, factor=factor))
    return done


def _curvature(target, mode, spread, step=1e-3):
    """Lower factor of the inverse Hessian by central differences of the gradient, `None` off a maximum.

    In units of the spread of the starts a curvature below 1e-6 is a thousand times flatter than the prior.
    """
    hessian, gradient = _hessian(target, mode, spread, step)
    if not np.all(np.isfinite(hessian)):
        return None
    values, vectors = np.linalg.eigh(-0.5 * (hessian + hessian.T))
    if values.min() <= max(1e-6, 1e-9 * values.max()):
        return None
    covariance = (vectors / values) @ vectors.T
    if gradient @ covariance @ gradient > 0.5:
        return None
    return spread[:, None] * np.linalg.cholesky(covariance)


def _hessian(target, mode, spread, step):
    size = len(mode)
    shifts = step * np.eye(size)
    middle = mode / spread
    points = np.concatenate([middle + shifts, middle - shifts, middle[None]])
    values, gradients = _in_units(target, spread, points)
    gradients[~np.isfinite(values)] = np.nan
    return (gradients[:size] - gradients[size : 2 * size]) / (2 * step), gradients[-1]


def _with_masses(target, basins, key):
    """Each basin's share by its Gaussian approximation; by importance sampling where several could matter."""
    shaped = [basin for basin in basins if basin.factor is not None]
    if not shaped:
        return basins
    volumes = np.array([b.log_density + np.sum(np.log(np.diag(b.factor))) for b in shaped])
    rough = np.exp(volumes - volumes.max())
    rough = rough / rough.sum()
    near = [b for b, share in zip(shaped, rough, strict=True) if share > NEGLIGIBLE**2]
    masses = {id(b): (float(share), 0.0) for b, share in zip(shaped, rough, strict=True)}
    if len(near) > 1:
        estimated = _importance_masses(target, near, rough[rough > NEGLIGIBLE**2], key)
        masses |= {id(b): pair for b, pair in zip(near, estimated, strict=True)}
    return [
        replace(b, mass=masses[id(b)][0], mass_error=masses[id(b)][1]) if id(b) in masses else b
        for b in basins
    ]


def _importance_masses(target, basins, rough, key, freedom=5.0):
    """Shares by importance sampling from a mixture of Student t about the modes, with standard errors.

    A draw counts for the basin whose component explains it best. NaN where the Pareto shape of the weights is
    too heavy for them to be believed (Vehtari et al. 2024, "Pareto smoothed importance sampling").
    """
    log_weights, owner = _importance_weights(target, basins, rough / rough.sum(), key, freedom)
    finite = np.isfinite(log_weights)
    if not finite.sum() > 100 or not _tail_shape(log_weights[finite]) < KHAT_LIMIT:
        return [(float("nan"), float("nan"))] * len(basins)
    weights = np.where(finite, np.exp(log_weights - log_weights[finite].max()), 0.0)
    weights = weights / weights.sum()
    shares = [float(weights[owner == b].sum()) for b in range(len(basins))]
    errors = [
        float(np.sqrt(np.sum(weights**2 * ((owner == b) - share) ** 2))) for b, share in enumerate(shares)
    ]
    return list(zip(shares, errors, strict=True))


def _tail_shape(log_weights):
    """Pareto shape of the largest weights; minus infinity where all are the same, for then it means nothing."""
    from arviz_stats.base import array_stats

    if np.std(log_weights) < SAME_WEIGHT:
        return -np.inf
    ratios = np.exp(log_weights - log_weights.max())
    return np.asarray(array_stats.pareto_khat(ratios[None], r_eff=1.0, tail="right")).item()


def _importance_weights(target, basins, rough, key, freedom):
    size = target.layout.size
    rng = np.random.default_rng(np.asarray(jax.random.key_data(key)).ravel())
    drawn = rng.choice(len(basins), PROPOSALS, p=rough)
    z = rng.standard_normal((PROPOSALS, size)) * np.sqrt(freedom / rng.chisquare(freedom, PROPOSALS))[:, None]
    points = np.stack([basins[b].mode + basins[b].factor @ row for b, row in zip(drawn, z, strict=True)])
    parts = np.stack(
        [
            np.log(share) + _log_student(points, basin, freedom)
            for basin, share in zip(basins, rough, strict=True)
        ]
    )
    proposal = np.logaddexp.reduce(parts, axis=0)
    values = slopes(target, points)[0]
    return values - proposal, np.argmax(parts, axis=0)


def _log_student(points, basin, freedom):
    """Log density of a multivariate Student t, without the constant that all basins share."""
    white = np.linalg.solve(basin.factor, (points - basin.mode).T)
    size = len(basin.mode)
    tail = -0.5 * (freedom + size) * np.log1p(np.sum(white**2, axis=0) / freedom)
    return tail - np.sum(np.log(np.diag(basin.factor)))


def _keep(basins, size):
    """Basins that carry mass, those left out, and a note where nothing looks like a maximum."""
    shaped = [basin for basin in basins if basin.factor is not None]
    if not shaped:
        note = (
            "no search ended in a maximum: chains start at the best points found, without curvature"
            if size <= DENSE_UP_TO
            else f"{size} unknowns: the curvature at the mode was not computed, and other basins were not weighed"
        )
        if not basins:
            return (), (), ("no search found a finite density",)
        head, rest = basins[0], tuple(basins[1:])
        members = np.concatenate([basin.members for basin in basins])[:STARTS]
        return (replace(head, members=members),), rest, (note,)
    if basins[0].log_density > max(b.log_density for b in shaped) + OUT_OF_REACH:
        note = "the highest searches did not end in a maximum: chains start there, without curvature"
        unknown = (replace(b, mass=float("nan"), mass_error=float("nan")) for b in basins[1:])
        return (basins[0],), tuple(unknown), (note,)
    heavy = [b for b in shaped if not b.mass < NEGLIGIBLE]
    heavy = sorted(heavy, key=lambda b: -b.log_density)[:AT_MOST]
    if len(heavy) == 1:
        heavy = [replace(heavy[0], mass=1.0, mass_error=0.0)]
    modes = [b.mode for b in heavy]
    left_out = tuple(b for b in basins if not any(b.mode is mode for mode in modes))
    return tuple(heavy), left_out, ()


def _out_of_the_neck(target, kept, starts, notes):
    """Starts instead of ends, where climbing has raised the density of the prior and not the likelihood.

    That is a density without bound, as in the neck of a funnel: there it is high in next to no volume. Draws of a
    round posterior lie half as many below its top as it has unknowns.
    """
    ends = kept[0].members
    asked = ["log_likelihood", "log_density"]
    before, after = ask(target, starts, asked), ask(target, ends, asked)
    best = before["log_likelihood"].max()
    fits = before["log_likelihood"] > best - NO_BETTER
    raised = after["log_density"].max() - np.median(before["log_density"][fits])
    if after["log_likelihood"].max() > best + NO_BETTER or raised < target.layout.size + OUT_OF_REACH:
        return kept, notes
    fitting = starts[fits]
    note = "the searches climbed in the prior's density alone, as in a funnel: chains start at prior draws that fit"
    return (replace(kept[0], mode=fitting[0], members=fitting), *kept[1:]), (*notes[:-1], note)


def at_initial_values(target: Target, starts: np.ndarray) -> np.ndarray:
    """Starts with the sites tagged `initial="zero"` at zero."""
    starts = np.array(starts)
    for site in target.layout.latent:
        if site.tag.initial == "zero":
            starts[:, site.start : site.stop] = 0.0
    return starts
