"""Mean, variance and class probabilities of an observation's distribution.

A forecast splits variance by the law of total variance, so it needs the conditional moments of each observed
site. Where numpyro has no closed form the quantile function is integrated, and where that is missing too, 32
draws stand in, with their error. What is censored is forecast as if it were not: the moments are those of the
quantity, not of the instrument.
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

QUADRATURE_STEP = 0.125
SAMPLED_POINTS = 32
# An integrand that has not fallen below this share of the whole where the grid ends has a tail too heavy to tell
HEAVY = 1e-3
CIRCLE_POINTS = 513

CATEGORIES = (dist.CategoricalProbs, dist.CategoricalLogits)
UNDEFINED = (dist.Cauchy, dist.HalfCauchy)
TRUNCATED = (
    dist.LeftTruncatedDistribution,
    dist.RightTruncatedDistribution,
    dist.TwoSidedTruncatedDistribution,
)
CENSORED = (dist.LeftCensoredDistribution, dist.RightCensoredDistribution, dist.IntervalCensoredDistribution)
WRAPPERS = (ExpandedDistribution, Independent, MaskedDistribution, Measured, *CENSORED)
# ImportError: numpyro asks for another package for the quantiles of some families, such as Student's t
LACKING = (NotImplementedError, AttributeError, ValueError, ImportError)

__all__ = ["Moments", "conditional_moments", "is_category"]


class Moments(NamedTuple):
    """Conditional moments of one observed site, element by element.

    **Arguments:**

    - `mean`, `variance`: shaped like the observation; infinite where they are, NaN where the distribution has
      none or its tail is too heavy to tell.
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
    found = _exact(inner) or _quadrature(inner)
    if found is not None:
        mean, variance = (jnp.broadcast_to(x, shape) for x in found)
        return Moments(mean, variance, jnp.zeros(shape), None)
    return _sampled(distribution, shape, key)


def is_category(distribution: dist.Distribution) -> bool:
    """Whether values are the numbers of classes, whose mean and spread mean nothing.

    ```python
    from bayeshybrid.moments import is_category
    assert is_category(dist.Categorical(np.ones((4, 3)) / 3).to_event(1)) and not is_category(dist.Poisson(2.0))
    ```
    """
    return isinstance(_inner(distribution), CATEGORIES)


def _inner(distribution):
    """The distribution without wrappers that leave the moments of an element alone."""
    while isinstance(distribution, WRAPPERS):
        distribution = distribution.base if isinstance(distribution, Measured) else distribution.base_dist
    return distribution


def _categories(distribution, shape):
    probabilities = jnp.broadcast_to(distribution.probs, (*shape, distribution.probs.shape[-1]))
    values = jnp.arange(probabilities.shape[-1], dtype=probabilities.dtype)
    mean = probabilities @ values
    return Moments(mean, probabilities @ values**2 - mean**2, jnp.zeros(shape), probabilities)


def _exact(distribution):
    """Mean and variance where a formula gives them, else `None`."""
    if isinstance(distribution, UNDEFINED):
        nothing = jnp.full(distribution.shape(), jnp.nan)
        return nothing, nothing
    if isinstance(distribution, TRUNCATED) and not isinstance(distribution.base_dist, dist.Normal):
        return None  # numpyro calls all moments of a truncated Cauchy NaN, though two-sided it has them
    if isinstance(distribution, dist.VonMises):
        return _on_a_circle(distribution)
    if isinstance(distribution, dist.FoldedDistribution):
        return _folded(distribution.base_dist)
    try:
        mean, variance = (jnp.asarray(x, float) for x in (distribution.mean, distribution.variance))
    except LACKING:
        return _shifted(distribution)
    if isinstance(distribution, dist.StudentT | dist.MultivariateStudentT):
        mean = jnp.where(jnp.isinf(mean), jnp.nan, mean)  # numpyro's infinity where there is none
    return mean, variance


def _shifted(distribution):
    """Moments of a distribution that is another one moved and stretched."""
    transforms = getattr(distribution, "transforms", ())
    if not transforms or not all(isinstance(t, dist.transforms.AffineTransform) for t in transforms):
        return None
    found = _exact(_inner(distribution.base_dist))
    if found is None:
        return None
    mean, variance = (jnp.broadcast_to(x, distribution.shape()) for x in found)
    for transform in transforms:
        loc, scale = (jnp.broadcast_to(x, distribution.shape()) for x in (transform.loc, transform.scale))
        mean, variance = loc + scale * mean, scale**2 * variance
    return mean, variance


def _folded(base):
    """Moments of |X|: E X^2 is that of X, and E|X| = |E X| + 2 E(part of X beyond zero, seen from its mean).

    That part is the integral of the tail probability, here over x = sd exp(t) by the trapezoidal rule.
    """
    found = _exact(_inner(base))
    if found is None:
        return None
    mean, variance = (jnp.broadcast_to(x, base.shape()) for x in found)
    try:
        t = np.arange(-40.0, 12.0, QUADRATURE_STEP)

        def weighted(t):
            x = jnp.sqrt(variance) * jnp.exp(t)
            return x * jnp.where(mean > 0, base.cdf(-x), 1.0 - base.cdf(x))

        beyond = QUADRATURE_STEP * jnp.sum(jax.vmap(weighted)(jnp.asarray(t)), axis=0)
    except LACKING:
        return None
    folded = jnp.abs(mean) + 2.0 * beyond
    return folded, jnp.maximum(0.0, variance + mean**2 - folded**2)


def _on_a_circle(distribution):
    """Moments of an angle as the number between -pi and pi that is drawn, not the circular ones of numpyro."""
    loc, concentration = (
        jnp.broadcast_to(x, distribution.shape()) for x in (distribution.loc, distribution.concentration)
    )
    half = jnp.minimum(jnp.pi, 12.0 / jnp.sqrt(concentration))
    step = jnp.linspace(-1.0, 1.0, CIRCLE_POINTS).reshape(-1, *(1,) * loc.ndim) * half[None]
    weight = jnp.exp(concentration[None] * (jnp.cos(step) - 1.0))
    weight = weight / weight.sum(axis=0, keepdims=True)
    angle = (loc[None] + step + jnp.pi) % (2 * jnp.pi) - jnp.pi
    mean = jnp.sum(weight * angle, axis=0)
    return mean, jnp.sum(weight * (angle - mean[None]) ** 2, axis=0)


def _quadrature(distribution):
    """Moments of the quantile function: the mean of q(Phi(z))^k for z standard normal.

    The trapezoidal rule in z converges exponentially for integrands that are analytic and fall as fast as the
    normal density (Trefethen and Weideman 2014, "The exponentially convergent trapezoidal rule"). The grid ends
    where the distribution function can no longer be told from 1.
    """
    if distribution.event_shape or distribution.is_discrete:
        return None
    end = 8.0 if jnp.zeros(()).dtype == jnp.float64 else 5.0
    z = np.arange(-end, end + QUADRATURE_STEP / 2, QUADRATURE_STEP)
    density = np.exp(-(z**2) / 2)
    shape = (-1, *(1,) * len(distribution.batch_shape))
    weight = jnp.asarray(density / density.sum()).reshape(shape)
    level = jax.scipy.special.ndtr(jnp.asarray(z))
    try:
        values = jax.vmap(lambda u: distribution.icdf(jnp.broadcast_to(u, distribution.batch_shape)))(level)
    except LACKING:
        return None
    mean = jnp.sum(weight * values, axis=0)
    centred = values - mean[None]
    variance = jnp.sum(weight * centred**2, axis=0)
    distance = jnp.sum(weight * jnp.abs(centred), axis=0)
    edge = jnp.maximum(jnp.abs(centred[0]), jnp.abs(centred[-1]))
    share = float(density[-1] / density.sum() / QUADRATURE_STEP)
    told = share * edge <= HEAVY * distance
    mean = jnp.where(told, mean, jnp.nan)
    return mean, jnp.where(told & (share * edge**2 <= HEAVY * variance), variance, jnp.nan)


def _sampled(distribution, shape, key):
    try:
        draws = jnp.asarray(distribution.sample(key, (SAMPLED_POINTS,)), float)
    except LACKING:
        nothing = jnp.full(shape, jnp.nan)
        return Moments(nothing, nothing, jnp.zeros(shape), None)
    variance = draws.var(axis=0, ddof=1)
    return Moments(draws.mean(axis=0), variance, jnp.sqrt(variance / SAMPLED_POINTS), None)
