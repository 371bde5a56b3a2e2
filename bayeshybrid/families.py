"""Fisher information of the families of noise: closed forms where there are, else the mean of score score'.

`log p(y | theta)` has, on average over y, the curvature `E[score score']` in its parameters `theta`. What has no
closed form is summed over quantiles, over counts, or over fixed draws.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jax.scipy.special import polygamma
from jaxtyping import Array, Float

from bayeshybrid.autocorrelation import Autocorrelated
from bayeshybrid.moments import LACKING, conditional_moments
from bayeshybrid.noise_kinds import Counts, NormalOrExact, OverdispersedCounts
from bayeshybrid.summaries import SummaryCell

QUADRATURE_STEP = 0.125
SAMPLED_POINTS = 512
# Counts: so many in single steps from the low end, then as many in equal steps over the rest
SINGLE_STEPS = 512
WIDER_STEPS = 1024
# A sum over counts that misses more than this share of the probability is no expectation
LOST_PROBABILITY = 0.01
# Above this size the covariance of a multivariate normal has too many entries: its mean alone is counted
LARGEST_COVARIANCE = 16

# Their support or their parts depend on the parameters in a way that the score does not know
IRREGULAR = (dist.Uniform, dist.MixtureSameFamily, dist.MixtureGeneral, dist.IntervalCensoredDistribution)

__all__ = ["Stated", "maker", "stated_information"]


class Stated(NamedTuple):
    """The parameters of a family over cells, the information about them, and its relative error.

    ```python
    from bayeshybrid.families import Stated
    assert Stated(jnp.zeros((3, 2)), jnp.zeros((3, 2, 2)), jnp.zeros(3)).parameters.shape == (3, 2)
    ```
    """

    parameters: Float[Array, "cells parameters"]
    information: Float[Array, "cells parameters parameters"]
    error: Float[Array, " cells"]


def stated_information(
    inner: dist.Distribution, shape: tuple[int, ...], closed: bool = True
) -> Stated | None:
    """Parameters and Fisher information of a distribution over cells of a shape.

    **Arguments:**

    - `inner`: a distribution whose wrappers were taken off; its batch may be smaller than the cells.
    - `shape`: that of the cells, without the event of a vector.
    - `closed`: use the closed forms.

    **Returns:** the parameters, differentiable, and their information, held fixed; `None` for vectors other than
    categories, the multivariate normal and autocorrelated series, for mixtures, and for the uniform distribution.

    ```python
    from bayeshybrid.families import stated_information
    exact, summed = (stated_information(dist.Poisson(np.ones(3)), (3,), closed) for closed in (True, False))
    assert np.allclose(exact.information, summed.information)
    ```
    """
    if isinstance(inner, IRREGULAR):
        return None
    if isinstance(inner, dist.CategoricalProbs | dist.CategoricalLogits):
        return _categories(inner, shape)
    if isinstance(inner, dist.MultivariateNormal | dist.LowRankMultivariateNormal):
        return _multivariate(inner, shape)
    if isinstance(inner, Autocorrelated):
        return _series(inner, shape)
    if inner.event_shape:
        return None
    known = next((FAMILIES[kind] for kind in type(inner).__mro__ if kind in FAMILIES), None)
    if known is None or not closed:
        return _generic(inner, shape)
    read, blocks = known
    parameters = _columns(read(inner), shape)
    fixed = jax.lax.stop_gradient(parameters)
    return Stated(parameters, _blocks(blocks(*fixed.T)), jnp.zeros(len(parameters)))


def _columns(parameters, shape):
    """Parameters of any shape as `(cells, parameters)`."""
    return jnp.stack([jnp.ravel(jnp.broadcast_to(jnp.asarray(p, float), shape)) for p in parameters], axis=1)


def _blocks(entries):
    """Nested entries `(p, p)` of arrays `(cells,)` as `(cells, p, p)`; a flat list is a diagonal."""
    if not isinstance(entries[0], list):
        entries = [
            [entry if i == j else jnp.zeros_like(entry) for j in range(len(entries))]
            for i, entry in enumerate(entries)
        ]
    return jnp.stack([jnp.stack(row, axis=-1) for row in entries], axis=-2)


def maker(inner: dist.Distribution) -> Callable[..., Any] | None:
    """How to make a distribution from the parameters that `stated_information` reads; `None` where it cannot.

    ```python
    from bayeshybrid.families import maker
    assert maker(dist.Normal(0.0, 1.0))(3.0, 2.0).mean == 3.0
    ```
    """
    for kind in type(inner).__mro__:
        if kind in MAKERS:
            return MAKERS[kind]
        if kind in FAMILIES:
            return None
    return _remade(inner)[1]


# Families with closed forms: how their parameters are read, and the information


def _normal(loc, scale):
    return [1 / scale**2, 2 / scale**2]


def _student(df, loc, scale):
    """Lange, Little and Taylor (1989), "Robust statistical modeling using the t distribution", appendix B."""
    by_df = 0.25 * (polygamma(1, df / 2) - polygamma(1, (df + 1) / 2)) - (df + 5) / (
        2 * df * (df + 1) * (df + 3)
    )
    cross = -2 / (scale * (df + 1) * (df + 3))
    zero = jnp.zeros_like(df)
    return [
        [by_df, zero, cross],
        [zero, (df + 1) / (df + 3) / scale**2, zero],
        [cross, zero, 2 * df / (df + 3) / scale**2],
    ]


def _gamma(concentration, rate):
    return [[polygamma(1, concentration), -1 / rate], [-1 / rate, concentration / rate**2]]


def _beta(one, zero):
    joint = polygamma(1, one + zero)
    return [[polygamma(1, one) - joint, -joint], [-joint, polygamma(1, zero) - joint]]


def _normal_or_exact(loc, scale, exact):
    """A cell without noise is predicted without doubt, which tells nothing by its slope."""
    noisy = 1.0 - exact
    return [noisy / scale**2, 2 * noisy / scale**2, jnp.zeros_like(loc)]


def _summary(loc, sd, n, spread):
    """Of the mean that of a normal cell; of the standard deviation two for each degree of freedom."""
    degrees = jnp.maximum(n - 1.0, 0.0)
    by_mean = jnp.where(spread > 0, 0.0, n / sd**2)
    by_sd = jnp.where(spread > 0, 2 * degrees, 2.0 * (n >= 1.0)) / sd**2
    return [by_mean, by_sd, jnp.zeros_like(sd), jnp.zeros_like(sd)]


def _overdispersed(mean, concentration):
    """By mean and concentration, which tell nothing of each other; that of the concentration is summed."""
    possible = (mean > 0.0) & (concentration > 0.0)
    by_mean = jnp.where(possible, 1 / (mean + mean**2 / concentration), jnp.nan)
    block, _ = _over_counts(
        lambda k: OverdispersedCounts(mean, k), (concentration,), OverdispersedCounts(mean, concentration)
    )
    return [by_mean, block[:, 0, 0]]


def _binomial_probs(probs, count):
    return [count / (probs * (1 - probs)), jnp.zeros_like(probs)]


def _binomial_logits(logits, count):
    return [count * jax.nn.sigmoid(logits) * jax.nn.sigmoid(-logits), jnp.zeros_like(logits)]


FAMILIES: dict[type, tuple[Callable[[Any], tuple[Any, ...]], Callable[..., Any]]] = {
    NormalOrExact: (lambda d: (d.loc, d.scale, d.exact), _normal_or_exact),
    dist.Normal: (lambda d: (d.loc, d.scale), _normal),
    dist.LogNormal: (lambda d: (d.loc, d.scale), _normal),
    dist.Laplace: (lambda d: (d.loc, d.scale), lambda loc, scale: [1 / scale**2, 1 / scale**2]),
    dist.StudentT: (lambda d: (d.df, d.loc, d.scale), _student),
    dist.Exponential: (lambda d: (d.rate,), lambda rate: [1 / rate**2]),
    dist.Gamma: (lambda d: (d.concentration, d.rate), _gamma),
    dist.Beta: (lambda d: (d.concentration1, d.concentration0), _beta),
    dist.Poisson: (lambda d: (d.rate,), lambda rate: [1 / jnp.where(rate > 0.0, rate, 0.0)]),
    OverdispersedCounts: (lambda d: (d.expected, d.concentration), _overdispersed),
    SummaryCell: (lambda d: (d.loc, d.sd, d.n, d.spread), _summary),
    dist.GammaPoisson: (lambda d: (d.concentration / d.rate, d.concentration), _overdispersed),
    dist.BernoulliProbs: (lambda d: (d.probs,), lambda probs: [1 / (probs * (1 - probs))]),
    dist.BernoulliLogits: (
        lambda d: (d.logits,),
        lambda logits: [jax.nn.sigmoid(logits) * jax.nn.sigmoid(-logits)],
    ),
    dist.BinomialProbs: (lambda d: (d.probs, d.total_count), _binomial_probs),
    dist.BinomialLogits: (lambda d: (d.logits, d.total_count), _binomial_logits),
}
# For censored cells: the same families from the same parameters
MAKERS: dict[type, Callable[..., Any]] = {
    NormalOrExact: lambda loc, scale, exact: NormalOrExact(loc, scale),
    dist.Normal: dist.Normal,
    dist.LogNormal: dist.LogNormal,
    Counts: Counts,
    OverdispersedCounts: OverdispersedCounts,
    SummaryCell: SummaryCell,
    dist.Laplace: dist.Laplace,
    dist.Exponential: dist.Exponential,
    dist.Gamma: dist.Gamma,
    dist.Poisson: dist.Poisson,
    dist.GammaPoisson: dist.NegativeBinomial2,
}


def _categories(inner, shape):
    """Of probabilities `diag(1 / p)`, of logits `diag(p) - p p'`."""
    name = "probs" if isinstance(inner, dist.CategoricalProbs) else "logits"
    stated = getattr(inner, name)
    classes = stated.shape[-1]
    parameters = jnp.broadcast_to(stated, (*shape, classes)).reshape(-1, classes)
    p = jax.lax.stop_gradient(jnp.broadcast_to(inner.probs, (*shape, classes)).reshape(-1, classes))
    eye = jnp.eye(classes)[None]
    if name == "probs":
        block = eye * jnp.where(p > 0, 1 / jnp.where(p > 0, p, 1.0), 0.0)[:, None, :]
    else:
        block = eye * p[:, None, :] - p[:, :, None] * p[:, None, :]
    return Stated(parameters, block, jnp.zeros(len(p)))


def _multivariate(inner, shape):
    """Mean and covariance in coordinates whitened here: the information of the mean is then one.

    Of the covariance it is `tr(S^-1 dS S^-1 dS) / 2`, so half the square of the whitened change.
    """
    size = inner.event_shape[0]
    mean = jnp.broadcast_to(inner.loc, (*shape, size)).reshape(-1, size)
    covariance = jnp.broadcast_to(inner.covariance_matrix, (*shape, size, size)).reshape(-1, size, size)
    root = jnp.linalg.cholesky(jax.lax.stop_gradient(covariance))

    def whitened(columns):
        return jax.scipy.linalg.solve_triangular(root, columns, lower=True)

    parameters = whitened(mean[..., None])[..., 0]
    if size <= LARGEST_COVARIANCE:
        turned = whitened(jnp.swapaxes(whitened(covariance), 1, 2)) / np.sqrt(2.0)
        parameters = jnp.concatenate([parameters, turned.reshape(len(turned), -1)], axis=1)
    count, width = parameters.shape
    return Stated(parameters, jnp.broadcast_to(jnp.eye(width), (count, width, width)), jnp.zeros(count))


def _series(inner, shape):
    """Means, log sds, log timescale and white share of series, and the information of a normal vector about them.

    Of the mean it is the inverse covariance; of whatever the covariance S depends on `tr(S^-1 dS S^-1 dS) / 2`
    (Mardia and Marshall 1984), written with the correlations R: `R^-1 R + 1` entry by entry for the log sds.
    """
    wide = inner.expand(shape)
    size = inner.event_shape[0]
    known = (~wide.skipped).reshape(-1, size)
    sd = jnp.where(known, wide.sd.reshape(-1, size), 1.0)
    columns = [jnp.where(known, wide.loc.reshape(-1, size), 0.0), jnp.log(sd)]
    columns += [jnp.log(wide.timescale).reshape(-1, 1)]
    columns += [] if wide.white is None else [wide.white.reshape(-1, 1)]
    fixed = jax.lax.stop_gradient((wide.times, wide.timescale, wide.white))
    information = jax.vmap(_of_series)(
        jax.lax.stop_gradient(sd), known, *(None if x is None else x.reshape(len(known), -1) for x in fixed)
    )
    return Stated(jnp.concatenate(columns, axis=1), information, jnp.zeros(len(known)))


def _of_series(sd, known, times, timescale, white):
    """Of one series; cells that were not measured stand apart from the others and count nothing."""
    size = len(sd)
    eye = jnp.eye(size)
    other = known[:, None] & known[None, :] & (eye == 0)
    gaps = jnp.where(other, jnp.abs(times[:, None] - times[None, :]), 0.0) / timescale[0]
    decay = jnp.where(other, jnp.exp(-gaps), 0.0)
    share = 1.0 if white is None else 1.0 - white[0]
    correlations = eye + share * decay
    inverse = jnp.linalg.inv(correlations)
    slopes = [share * decay * gaps] + ([] if white is None else [-decay])
    turned = [inverse @ slope for slope in slopes]
    of_mean = inverse / (sd[:, None] * sd[None, :])
    of_sd = inverse * correlations + eye
    of_rest = 0.5 * jnp.stack([jnp.stack([jnp.sum(a * b.T) for b in turned]) for a in turned])
    cross = jnp.stack([jnp.diagonal(a) for a in turned], axis=1)
    of_mean, of_sd = (jnp.where(known[:, None] & known[None, :], x, 0.0) for x in (of_mean, of_sd))
    covariance = jnp.concatenate(
        [jnp.concatenate([of_sd, cross], axis=1), jnp.concatenate([cross.T, of_rest], axis=1)]
    )
    return jax.scipy.linalg.block_diag(of_mean, covariance)


# Any other family of single numbers: the mean of score score'


def _remade(inner):
    """The real parameters that a distribution was given, and how to make it from others."""
    leaves, tree = jax.tree.flatten(inner)
    real = [i for i, leaf in enumerate(leaves) if jnp.issubdtype(jnp.result_type(leaf), jnp.floating)]

    def make(*parameters):
        changed = list(leaves)
        for i, parameter in zip(real, parameters, strict=True):
            changed[i] = parameter
        return jax.tree.unflatten(tree, changed)

    return [leaves[i] for i in real], make


def _generic(inner, shape):
    leaves, make = _remade(inner)
    try:
        inside = all(jnp.broadcast_shapes(jnp.shape(leaf), shape) == shape for leaf in leaves)
    except ValueError:
        inside = False
    if not leaves or not inside:
        return None
    parameters = _columns(leaves, shape)
    fixed = tuple(jax.lax.stop_gradient(parameters).T)
    spread = make(*(column.reshape(shape) for column in fixed))
    wide = jax.lax.stop_gradient(inner).expand(shape) if inner.batch_shape != shape else inner

    def flat(*columns):
        return make(*columns)

    if inner.is_discrete:
        block, error = _over_counts(flat, fixed, wide)
    else:
        block, error = _over_quantiles(flat, fixed, wide, spread)
    return Stated(parameters, block, error)


def _mean_square_score(make, parameters, values, weights):
    """Weighted mean of score score' over `values`, `(points, cells)`, with its sum of weights and of squares."""

    def total(parameters, value):
        return jnp.sum(make(*parameters).log_prob(value))

    def step(sums, point):
        value, weight = point
        score = jnp.stack(jax.grad(total)(parameters, value), axis=-1)
        sound = jnp.all(jnp.isfinite(score), axis=-1) & (weight > 0)
        score = jnp.where(sound[:, None], score, 0.0)
        square = score[:, :, None] * score[:, None, :]
        weight = jnp.where(sound, weight, 0.0)[:, None, None]
        return (sums[0] + weight * square, sums[1] + weight * square**2, sums[2] + weight[:, 0, 0]), None

    count, cells = len(parameters), values.shape[1]
    empty = jnp.zeros((cells, count, count))
    (squares, fourths, total_weight), _ = jax.lax.scan(
        step, (empty, empty, jnp.zeros(cells)), (values, weights)
    )
    scale = total_weight[:, None, None]
    return squares / scale, fourths / scale, total_weight


def _over_quantiles(make, parameters, wide, spread):
    """By the trapezoidal rule over the normal score of y (see `moments`), or from fixed draws.

    The points lie half a step beside zero, where the density of a symmetric family may have a kink.
    """
    end = 8.0 if jnp.zeros(()).dtype == jnp.float64 else 5.0
    z = np.arange(-end + QUADRATURE_STEP / 2, end, QUADRATURE_STEP)
    level = jax.scipy.special.ndtr(jnp.asarray(z))
    shape = wide.batch_shape
    try:
        values = jax.vmap(lambda u: spread.icdf(jnp.broadcast_to(u, shape)))(level)
        weights = np.exp(-(z**2) / 2)
    except LACKING:
        values = jax.vmap(wide.sample)(jax.random.split(jax.random.key(0), SAMPLED_POINTS))
        weights = np.ones(SAMPLED_POINTS)
    values = values.reshape(len(weights), -1)
    weights = jnp.broadcast_to(jnp.asarray(weights / weights.sum())[:, None], values.shape)
    mean, square, _ = _mean_square_score(make, parameters, values, weights)
    if len(z) == len(values):
        return mean, jnp.zeros(values.shape[1])
    largest = jnp.argmax(jnp.diagonal(mean, axis1=1, axis2=2), axis=1)
    pick = jnp.arange(len(largest))
    first, second = mean[pick, largest, largest], square[pick, largest, largest]
    return mean, jnp.sqrt(jnp.maximum(second - first**2, 0.0) / SAMPLED_POINTS) / first


def _over_counts(make, parameters, wide):
    """By a sum over counts: singly from the low end, then in equal steps, each standing for its neighbours."""
    told = conditional_moments(wide, jax.random.key(0))
    middle, width = (jnp.ravel(x)[None] for x in (told.mean, jnp.sqrt(told.variance)))
    low = jnp.maximum(jnp.floor(middle - 8.0 * width), 0.0)
    step = jnp.maximum(1.0, jnp.ceil((middle + 16.0 * width - low - SINGLE_STEPS) / WIDER_STEPS))
    single = low + jnp.arange(float(SINGLE_STEPS))[:, None]
    wider = (
        low + SINGLE_STEPS + step * jnp.arange(float(WIDER_STEPS))[:, None] + jnp.floor((step - 1.0) / 2.0)
    )
    values = jnp.concatenate([single, wider])
    sizes = jnp.concatenate([jnp.ones_like(single), jnp.broadcast_to(step, wider.shape)])
    flat = make(*parameters)
    inside = jax.vmap(flat.support)(values)
    values = jnp.where(inside, values, jnp.round(middle))
    weights = jnp.where(inside, jnp.exp(jax.vmap(flat.log_prob)(values)) * sizes, 0.0)
    mean, _, found = _mean_square_score(make, parameters, values, jnp.nan_to_num(weights))
    error = jnp.abs(found - 1.0)
    return mean, jnp.where(error < LOST_PROBABILITY, error, jnp.nan)
