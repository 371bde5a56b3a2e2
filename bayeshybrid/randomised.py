"""Densities whose maxima are random: the prior's centre and the data moved, member by member of an ensemble.

"Randomise, then optimise" (Bardsley, Solonen, Haario and Laine 2014): where unknowns and data are Gaussian and
the model is linear, the maximum of the randomised density is a draw of the posterior. Other priors and noises are
brought to that form by their normal scores `z = Phi^-1(F(x))` (Wang, Bardsley, Solonen, Cui and Marzouk 2017).

Where the size s of the noise is unknown, data moved once and for all would be noisier than the data, and s too
large. Here the data move with the current s, and the data's say in s is `-e^2 log s` instead of `-log s`, with e the
same number that moves the cell. In linear regression under flat priors for the coefficients and log s the point
where all slopes vanish is then a draw of their joint posterior: with residuals r of the least-squares fit and
hat matrix H it has `s^2 = |r|^2 / |(1 - H) e|^2` and fitted values `H (y + s e)`. The standard deviation of n
replicates is the sum of n - 1 such terms, `-x log s` with x a chi squared number, and a series with memory is a
chain of cells, each about its mean given those before it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jaxtyping import Array, Float
from numpyro.distributions.distribution import ExpandedDistribution, Independent, MaskedDistribution

from bayeshybrid.autocorrelation import Autocorrelated
from bayeshybrid.noise_kinds import NormalOrExact
from bayeshybrid.observation import EXACT, MISSING, Measured
from bayeshybrid.summaries import SummaryCell
from bayeshybrid.survey import normal_scores
from bayeshybrid.target import Target, log_prob
from bayeshybrid.tracing import JACOBIAN, abstract

# Families in which the noise is a size times a number about a location (on the log scale for the second)
LOCATED = (dist.Normal, dist.LogNormal, dist.StudentT, dist.Laplace, dist.Logistic, dist.Cauchy)
NEWTON_STEPS = 4

__all__ = ["Perturbation", "perturbation", "randomised_density", "unscored"]


class Perturbation(NamedTuple):
    """What makes one member differ from another: a pytree of arrays.

    - `prior`: unknown to a standard normal number for each entry, by which its normal score is moved.
    - `data`: observed site to the same for each cell.
    - `weights`: observed site to the weight of each cell, where the noise has no normal score or a cell is
      censored: exponential numbers of mean one (Newton and Raftery 1994, the weighted likelihood bootstrap).
    - `kept`: observed site to 1 or 0 along its first axis: what is trained on.
    - `randomised`: 1, or 0 where nothing is moved.
    """

    prior: dict[str, Array]
    data: dict[str, Array]
    weights: dict[str, Array]
    kept: dict[str, Array]
    randomised: Array


def perturbation(target: Target, key: Any, randomise: bool = True) -> Perturbation:
    """One member's perturbation; with `randomise=False` none, and nothing held out.

    ```python
    from bayeshybrid.randomised import perturbation
    model = lambda y=None: numpyro.sample("y", dist.Normal(numpyro.sample("x", dist.Normal()), 1.0), obs=y)
    moved = perturbation(bh.Target(model, {"y": np.array(2.0)}), jax.random.key(0))
    assert moved.prior["x"].shape == () and moved.data["y"].shape == () and float(moved.weights["y"]) > 0
    ```
    """
    scored, cells = _what_has_scores(target)
    keys = dict(zip((*scored, *cells), jax.random.split(key, len(scored) + len(cells)), strict=True))
    size = 1.0 if randomise else 0.0
    prior = {name: size * jax.random.normal(keys[name], shape) for name, shape in scored.items()}
    data, weights, kept = {}, {}, {}
    for name, (shape, rows, has_scores) in cells.items():
        normal_key, weight_key = jax.random.split(keys[name])
        if has_scores is not None:
            data[name] = size * jax.random.normal(normal_key, has_scores)
        weights[name] = jax.random.exponential(weight_key, shape) if randomise else jnp.ones(shape)
        kept[name] = jnp.ones(rows)
    return Perturbation(prior, data, weights, kept, jnp.asarray(size))


def randomised_density(
    target: Target, q: Float[Array, " size"], moved: Perturbation
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """What one member climbs by its gradient, and the log probability of what it does not train on.

    An unknown of normal score z counts as `-z^2/2 + e z`, which is a standard normal prior about `e`; a measured
    cell as `log p(y) - e z(y)`, which for Gaussian noise is the log density of `y` moved by `e` standard
    deviations. Unknowns without scores keep their prior, transforms included. The size of the noise learns from
    the cell as it is, weighted as the top of this file says, so that the gradient is not that of the value alone.

    **Arguments:**

    - `q`: the unknowns; `moved`: the member's perturbation.

    **Returns:** both as numbers; `-inf` where a solve failed.

    ```python
    from bayeshybrid.randomised import perturbation, randomised_density
    model = lambda y=None: numpyro.sample("y", dist.Normal(numpyro.sample("x", dist.Normal()), 1.0), obs=y)
    target = bh.Target(model, {"y": np.array(2.0)})
    plain = perturbation(target, jax.random.key(0), randomise=False)
    slope = jax.grad(lambda q: randomised_density(target, q, plain)[0])(jnp.array([1.0]))
    assert abs(slope[0]) < 1e-6  # the maximum is the posterior mean
    ```
    """
    found = target.run_at(q)
    observed = {site.name for site in target.layout.observed}
    trained = held_out = jnp.zeros(())
    for name, site in found.sites.items():
        if site["type"] != "sample" or name in target.layout.absent or _is_jacobian(name, moved.prior):
            continue
        scale = 1.0 if site["scale"] is None else site["scale"]
        if name in observed:
            moved_cells, plain_cells = _observed_terms(site, name, moved, scale)
            trained, held_out = trained + moved_cells, held_out + plain_cells
        elif name in moved.prior:
            score, noise = jnp.asarray(_scores(site["fn"], site["value"])), moved.prior[name]
            trained = trained + jnp.sum(scale * (-0.5 * score**2 + noise * score))
        else:
            trained = trained + jnp.sum(scale * log_prob(site))
    solved = jnp.array(True)
    for message in found.solutions.values():
        solved = solved & jnp.all(message["value"].ok)
    return jnp.where(solved, trained, -jnp.inf), jnp.where(solved, held_out, -jnp.inf)


def unscored(target: Target) -> tuple[str, ...]:
    """Unknowns whose prior has no distribution function to be randomised by.

    ```python
    from bayeshybrid.randomised import unscored
    def model(y=None):
        share = numpyro.sample("share", dist.Dirichlet(jnp.ones(3)))
        numpyro.sample("y", dist.Normal(share, 0.1), obs=y)
    assert unscored(bh.Target(model, {"y": np.ones(3) / 3})) == ("share",)
    ```
    """
    scored, _ = _what_has_scores(target)
    return tuple(site.name for site in target.layout.latent if site.name not in scored)


def _is_jacobian(name, scored):
    return any(name == JACOBIAN.format(site) for site in scored)


def _observed_terms(site, name, moved, scale):
    """What the trained cells of a site count, moved, and what the others do, as they are."""
    cells = _by_cell(site["fn"], site["value"])
    kept = _along_first(moved.kept[name], cells)
    held_out = jnp.sum((1.0 - kept) * cells)
    if name not in moved.data:
        return jnp.sum(scale * kept * moved.weights[name] * cells), held_out
    weight = jnp.where(_rough(site["fn"], site["value"], cells), moved.weights[name], 1.0)
    noise = moved.data[name]
    scores, growth = (
        _scores(site["fn"], site["value"], steady=True),
        _growth(site["fn"], site["value"], noise),
    )
    kept_scores = _along_first(moved.kept[name], scores)
    shift = jnp.sum(jnp.sqrt(scale) * kept_scores * noise * scores)
    growth = jnp.sum(jnp.sqrt(scale) * kept_scores * moved.randomised * growth)
    return jnp.sum(scale * kept * weight * cells) - shift - growth, held_out


def _along_first(mask, cells):
    """A mask over the first axis, shaped to multiply cells; a single value is held by its only entry."""
    return mask.reshape(mask.shape + (1,) * (cells.ndim - 1)) if cells.ndim else mask[0]


def _like(mask, array):
    """A mask over events, shaped like the cells of those events."""
    mask = jnp.asarray(mask)
    return jnp.broadcast_to(mask.reshape(mask.shape + (1,) * (array.ndim - mask.ndim)), array.shape)


def _by_cell(distribution, value):
    """Log probability of each independent cell."""
    if isinstance(distribution, Independent | ExpandedDistribution):
        return _by_cell(distribution.base_dist, value)
    if isinstance(distribution, MaskedDistribution):
        cells = _by_cell(distribution.base_dist, value)
        return jnp.where(_like(distribution._mask, cells), cells, 0.0)
    if isinstance(distribution, Measured):
        return distribution.cell_log_prob(value)
    return log_prob({"fn": distribution, "value": value})


def _rough(distribution, value, cells):
    """Cells that are known to lie below, above or between: they are weighted instead of moved."""
    while isinstance(distribution, Independent | ExpandedDistribution | MaskedDistribution):
        distribution = distribution.base_dist
    if not isinstance(distribution, Measured) or _is_series(distribution):
        return jnp.zeros(cells.shape, bool)
    kinds = distribution.kinds(value)
    return (kinds != EXACT) & (kinds != MISSING)


def _is_series(distribution):
    """Whether cells of noise with memory may be missing; they cannot be known to lie below or above."""
    base = distribution.base
    while isinstance(base, Independent):
        base = base.base_dist
    return isinstance(base, Autocorrelated)


def _scores(distribution, value, steady=False):
    """Normal scores entry by entry, zero where nothing was measured exactly; `None` where there are none.

    With `steady` the size of the noise counts as a constant.
    """
    if isinstance(distribution, Independent | ExpandedDistribution):
        return _scores(distribution.base_dist, value, steady)
    if isinstance(distribution, MaskedDistribution | Measured):
        masked = isinstance(distribution, MaskedDistribution)
        scores = _scores(distribution.base_dist if masked else distribution.base, value, steady)
        if scores is None:
            return None
        known = distribution._mask if masked else distribution.kinds(value) == EXACT
        return jnp.where(_like(known, scores), scores, 0.0)
    if isinstance(distribution, Autocorrelated):
        mean, sizes = distribution.conditionals(value)
        sizes = jax.lax.stop_gradient(sizes) if steady else sizes
        return jnp.where(sizes > 0.0, (value - mean) / jnp.where(sizes > 0.0, sizes, 1.0), 0.0)
    if isinstance(distribution, SummaryCell):  # what is moved is the mean
        sizes = distribution.sd / jnp.sqrt(jnp.maximum(distribution.n, 1.0))
        scores = (value - distribution.loc) / (jax.lax.stop_gradient(sizes) if steady else sizes)
        return jnp.where(distribution.spread | distribution.silent, 0.0, scores)
    if isinstance(distribution, dist.MultivariateNormal):
        centred = value - distribution.loc
        factor = jnp.asarray(distribution.scale_tril)
        factor = jax.lax.stop_gradient(factor) if steady else factor
        factor = jnp.broadcast_to(factor, (*centred.shape, centred.shape[-1]))
        return jax.scipy.linalg.solve_triangular(factor, centred[..., None], lower=True)[..., 0]
    if distribution.event_shape or distribution.support.is_discrete:
        return None
    if steady and isinstance(distribution, LOCATED):
        sizes = jax.lax.stop_gradient(distribution.scale)
        more = (jax.lax.stop_gradient(distribution.df),) if isinstance(distribution, dist.StudentT) else ()
        distribution = type(distribution)(*more, distribution.loc, sizes)
    if isinstance(distribution, dist.StudentT):
        return _scores_of_student(distribution, value)
    if isinstance(distribution, dist.Beta):  # JAX has no derivative of the beta function by its shapes
        shapes = (distribution.concentration1, distribution.concentration0)
        distribution = dist.Beta(*jax.lax.stop_gradient(shapes))
    if isinstance(distribution, NormalOrExact):
        return jnp.where(distribution.exact, 0.0, normal_scores(distribution, value))
    if isinstance(distribution, dist.Normal | dist.LogNormal):
        return normal_scores(distribution, value)
    try:
        distribution.cdf(value)
    except (NotImplementedError, AttributeError, ImportError):
        return None
    return normal_scores(distribution, value)


def _growth(distribution, value, noise):
    """By how much the say of each entry in the log size of its noise grows, times that log size."""
    if isinstance(distribution, Independent | ExpandedDistribution):
        return _growth(distribution.base_dist, value, noise)
    if isinstance(distribution, MaskedDistribution | Measured):
        masked = isinstance(distribution, MaskedDistribution)
        growth = _growth(distribution.base_dist if masked else distribution.base, value, noise)
        known = distribution._mask if masked else distribution.kinds(value) == EXACT
        return jnp.where(_like(known, growth), growth, 0.0)
    if isinstance(distribution, SummaryCell):
        degrees = distribution.degrees
        more = jnp.where(distribution.spread, _chi_squared(noise, degrees) - degrees, noise**2 - 1.0)
        return jnp.where(distribution.silent, 0.0, more * jnp.log(distribution.sd))
    if isinstance(distribution, Autocorrelated):
        sizes = distribution.conditionals(value)[1]
    elif isinstance(distribution, LOCATED):
        sizes = jnp.broadcast_to(jnp.asarray(distribution.scale), jnp.shape(value))
        sizes = (
            jnp.where(distribution.exact, 0.0, sizes) if isinstance(distribution, NormalOrExact) else sizes
        )
    else:
        return jnp.zeros(jnp.shape(value))
    return (noise**2 - 1.0) * jnp.where(sizes > 0.0, jnp.log(jnp.where(sizes > 0.0, sizes, 1.0)), 0.0)


def _chi_squared(score, degrees):
    """The chi squared number whose normal score this is.

    By Newton's method for its cube root, of which the normal score is nearly linear (Wilson and Hilferty 1931); far
    down the start is the leading term of the distribution function.
    """
    half = 0.5 * degrees
    share = 2.0 / (9.0 * degrees)
    log_low = (jax.scipy.stats.norm.logcdf(score) + jax.scipy.special.gammaln(half + 1.0)) / half
    low = jnp.cbrt(2.0 * jnp.exp(log_low) / degrees)
    root = jnp.maximum(1.0 - share + score * jnp.sqrt(share), jnp.minimum(low, 1.0))
    for _ in range(NEWTON_STEPS):
        x = half * root**3
        found = jax.scipy.special.ndtri(jax.scipy.special.gammainc(half, x))
        log_slope = (
            (half - 1.0) * jnp.log(x) - x - jax.scipy.special.gammaln(half) + jnp.log(3.0 * half * root**2)
        )
        step = (found - score) * jnp.exp(jax.scipy.stats.norm.logpdf(found) - log_slope)
        root = jnp.maximum(root - step, 0.5 * root)
    return degrees * root**3


def _scores_of_student(distribution, value):
    """Linear about the centre, where numpyro's distribution function has no derivative, nor any by its freedom."""
    freedom = jax.lax.stop_gradient(distribution.df)
    standard = (value - distribution.loc) / distribution.scale
    central = jnp.abs(standard) < 1e-5
    unit = dist.StudentT(freedom, 0.0, 1.0)
    slope = jnp.exp(unit.log_prob(0.0)) * jnp.sqrt(2.0 * jnp.pi)
    return jnp.where(central, slope * standard, normal_scores(unit, jnp.where(central, 1.0, standard)))


def _what_has_scores(target) -> tuple[Mapping[str, tuple], Mapping[str, tuple]]:
    """Shapes of the scores of unknowns, and of each observed site its cells, rows and scores; found by tracing."""

    def look(q):
        sites = target.run_at(q).sites
        scored = {site.name: _shape_of_scores(sites[site.name]) for site in target.layout.latent}
        cells = {}
        for site in target.layout.observed:
            shape = _by_cell(sites[site.name]["fn"], sites[site.name]["value"]).shape
            cells[site.name] = (shape, shape[:1] or (1,), _shape_of_scores(sites[site.name]))
        return {name: shape for name, shape in scored.items() if shape is not None}, cells

    return abstract(look, jnp.zeros(target.layout.size))


def _shape_of_scores(site):
    """The shape of a site's scores, `None` where it has none or they have no derivative."""
    leaves, structure = jax.tree.flatten((site["fn"], site["value"]))
    real = [jnp.issubdtype(jnp.result_type(leaf), jnp.floating) for leaf in leaves]

    def total(some):
        some = iter(some)
        given = [next(some) if is_real else leaf for is_real, leaf in zip(real, leaves, strict=True)]
        return jnp.sum(jnp.asarray(_scores(*jax.tree.unflatten(structure, given))))

    scores = _scores(site["fn"], site["value"])
    if scores is None:
        return None
    try:
        jax.eval_shape(jax.grad(total), [leaf for is_real, leaf in zip(real, leaves, strict=True) if is_real])
    except (NotImplementedError, ValueError):
        return None
    return scores.shape
