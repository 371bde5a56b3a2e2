"""Mean, variance and class probabilities of an observation's distribution.

A forecast splits variance by the law of total variance, so it needs the conditional moments of each observed
site. numpyro has no closed form for transformed, censored, truncated or folded distributions; there the
quantile function is integrated, and where that is missing too, 32 draws stand in, with their error.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jaxtyping import Array, Float
from numpyro.distributions.distribution import ExpandedDistribution, Independent, MaskedDistribution

from bayeshybrid.observation import Measured

QUADRATURE_POINTS = 64
SAMPLED_POINTS = 32

CATEGORIES = (dist.CategoricalProbs, dist.CategoricalLogits, dist.OrderedLogistic)
UNDEFINED = (dist.Cauchy, dist.HalfCauchy)

__all__ = ["Moments", "conditional_moments"]


class Moments(NamedTuple):
    """Conditional moments of one observed site, element by element.

    **Arguments:**

    - `mean`, `variance`: shaped like the observation; NaN where the distribution has none.
    - `error`: standard error of `mean` where it comes from draws, zero where it does not.
    - `probabilities`: for categories, shape `(..., categories)`; `None` otherwise.

    ```python
    from bayeshybrid.moments import Moments
    exact = Moments(jnp.zeros(3), jnp.ones(3), jnp.zeros(3), None)
    assert exact.variance.shape == (3,)
    ```
    """

    mean: Float[Array, "..."]
    variance: Float[Array, "..."]
    error: Float[Array, "..."]
    probabilities: Float[Array, "... categories"] | None


def conditional_moments(distribution: dist.Distribution, key: Any) -> Moments:
    """The conditional mean and variance of a distribution, by the best route that it offers.

    **Arguments:**

    - `distribution`: any numpyro distribution, with its batch.
    - `key`: a JAX key, used only where moments must come from draws.

    **Returns:** `Moments` in the shape of one draw.

    ```python
    from bayeshybrid.moments import conditional_moments
    found = conditional_moments(dist.LogNormal(jnp.zeros(2), 0.5), jax.random.key(0))
    assert jnp.allclose(found.mean, jnp.exp(0.125))
    ```
    """
    inner = _inner(distribution)
    shape = distribution.shape()
    if isinstance(inner, CATEGORIES):
        return _categories(inner, shape)
    if isinstance(inner, UNDEFINED):
        nothing = jnp.full(shape, jnp.nan)
        return Moments(nothing, nothing, jnp.zeros(shape), None)
    found = _closed(inner)
    if found is None:
        found = _quadrature(inner)
    if found is not None:
        mean, variance = (jnp.broadcast_to(x, shape) for x in found)
        return Moments(mean, variance, jnp.zeros(shape), None)
    return _sampled(distribution, key)


def _inner(distribution):
    """The distribution without wrappers that leave the moments of an element alone."""
    while isinstance(distribution, ExpandedDistribution | Independent | MaskedDistribution | Measured):
        distribution = getattr(distribution, "base_dist", None) or distribution.base
    return distribution


def _categories(distribution, shape):
    probabilities = jnp.broadcast_to(distribution.probs, (*shape, distribution.probs.shape[-1]))
    values = jnp.arange(probabilities.shape[-1], dtype=probabilities.dtype)
    mean = probabilities @ values
    return Moments(mean, probabilities @ values**2 - mean**2, jnp.zeros(shape), probabilities)


def _closed(distribution):
    """numpyro's own formulas, `None` where it has none; it returns NaN for some families."""
    if isinstance(distribution, dist.FoldedDistribution):
        return None
    try:
        return jnp.asarray(distribution.mean, float), jnp.asarray(distribution.variance, float)
    except (NotImplementedError, AttributeError, ValueError):
        return None


def _quadrature(distribution):
    """Moments of the quantile function: the mean of q(u)^k over u = Phi(z), z standard normal.

    Gauss-Hermite in z (Abramowitz and Stegun 1972, 25.4.46) is exact for quantile functions that are
    polynomials in z up to degree 127, and puts its points where a normal-like tail needs them.
    """
    if distribution.event_shape:
        return None
    z, weight = np.polynomial.hermite_e.hermegauss(QUADRATURE_POINTS)
    batch = (1,) * len(distribution.batch_shape)
    u = jnp.asarray(jax.scipy.stats.norm.cdf(z)).reshape(-1, *batch)
    weight = jnp.asarray(weight / weight.sum()).reshape(-1, *batch)
    try:
        quantiles = distribution.icdf(jnp.broadcast_to(u, (u.shape[0], *distribution.batch_shape)))
    except (NotImplementedError, AttributeError):
        return None
    mean = jnp.sum(weight * quantiles, axis=0)
    return mean, jnp.sum(weight * (quantiles - mean[None]) ** 2, axis=0)


def _sampled(distribution, key):
    draws = jnp.asarray(distribution.sample(key, (SAMPLED_POINTS,)), float)
    variance = draws.var(axis=0, ddof=1)
    return Moments(draws.mean(axis=0), variance, jnp.sqrt(variance / SAMPLED_POINTS), None)
