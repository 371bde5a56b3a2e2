"""Log probabilities of lying below, above or between, accurate far out in the tails.

For every distribution that is a monotone image of a normal they are computed from the normal score, so that
neither value nor gradient is lost where the distribution function rounds to 0 or 1. Each function takes a
mask of the cells wanted; the others get zero and no gradient, so no NaN of an unwanted branch survives.
"""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float

from .faults import ModelError

_FAR = -20.0
_NARROW = 1e-5
_HALF_LOG_TWO_PI = 0.5 * math.log(2.0 * math.pi)


def log_normal_cdf(z: Float[ArrayLike, "..."]) -> Float[Array, "..."]:
    """log Phi(z), with a gradient that stays finite however far out.

    Below -20 by the asymptotic series of Mills' ratio (Abramowitz and Stegun 26.2.12), whose error there is
    below 1e-12; JAX's own derivative is a difference of squares of z, lost beyond 1e8.

    ```python
    from bayeshybrid.tails import log_normal_cdf
    assert np.isclose(log_normal_cdf(0.0), np.log(0.5))
    assert np.isclose(jax.grad(log_normal_cdf)(-1e10), 1e10)
    ```
    """
    z = jnp.asarray(z) * 1.0
    near = z > _FAR
    far = jnp.where(near, _FAR, z)
    inverse = 1.0 / jnp.square(far)
    series = -inverse * (
        1.0 - 3.0 * inverse * (1.0 - 5.0 * inverse * (1.0 - 7.0 * inverse * (1.0 - 9.0 * inverse)))
    )
    tail = -0.5 * jnp.square(far) - jnp.log(-far) - _HALF_LOG_TWO_PI + jnp.log1p(series)
    return jnp.where(near, jax.scipy.special.log_ndtr(jnp.where(near, z, 0.0)), tail)


def log_normal_between(low: Float[ArrayLike, "..."], high: Float[ArrayLike, "..."]) -> Float[Array, "..."]:
    """log(Phi(high) - Phi(low)), `-inf` where high is not above low.

    Both tails are computed on the side where Phi is small; an interval too narrow for a difference by the
    density at its middle times its width, whose relative error is (width z)^2 / 24.

    ```python
    from bayeshybrid.tails import log_normal_between
    assert np.isclose(log_normal_between(-1.0, 1.0), np.log(0.6826895))
    ```
    """
    low, high = jnp.broadcast_arrays(jnp.asarray(low) * 1.0, jnp.asarray(high) * 1.0)
    proper = high > low
    low, high = jnp.where(proper, low, -1.0), jnp.where(proper, high, 1.0)
    upper_side = low + high > 0.0
    low, high = jnp.where(upper_side, -high, low), jnp.where(upper_side, -low, high)
    width = high - low
    middle = 0.5 * (low + high)
    narrow = width * jnp.maximum(1.0, jnp.abs(middle)) < _NARROW
    thin = -0.5 * jnp.square(middle) - _HALF_LOG_TWO_PI + jnp.log(width)
    # The branch not taken sees a unit interval, whose gradient is finite.
    low, high = jnp.where(narrow, -1.0, low), jnp.where(narrow, 1.0, high)
    above = log_normal_cdf(high)
    wide = above + _log1mexp(above - log_normal_cdf(low))
    return jnp.where(proper, jnp.where(narrow, thin, wide), -jnp.inf)


def _log1mexp(x: Array) -> Array:
    """log(1 - exp(-x)) for x > 0 (Maechler 2012)."""
    near = x < math.log(2.0)
    return jnp.where(
        near,
        jnp.log(-jnp.expm1(-jnp.where(near, x, 0.5))),
        jnp.log1p(-jnp.exp(-jnp.where(near, 1.0, x))),
    )


def log_cdf(base: dist.Distribution, value: Array, wanted: Bool[Array, "..."]) -> Array:
    """log P(Y <= value) where wanted, zero elsewhere.

    ```python
    from bayeshybrid.tails import log_cdf
    assert np.isclose(log_cdf(dist.LogNormal(0.0, 1.0), jnp.ones(()), jnp.array(True)), np.log(0.5))
    ```
    """
    return _tail(base, value, wanted, below=True)


def log_sf(base: dist.Distribution, value: Array, wanted: Bool[Array, "..."]) -> Array:
    """log P(Y > value) where wanted, zero elsewhere.

    ```python
    from bayeshybrid.tails import log_sf
    assert np.isclose(log_sf(dist.Exponential(2.0), jnp.array(300.0), jnp.array(True)), -600.0)
    ```
    """
    return _tail(base, value, wanted, below=False)


def log_between(base: dist.Distribution, low: Array, high: Array, wanted: Bool[Array, "..."]) -> Array:
    """log P(low < Y <= high) where wanted, zero elsewhere.

    ```python
    from bayeshybrid.tails import log_between
    inside = log_between(dist.Normal(0.0, 1.0), jnp.array(-1.0), jnp.array(1.0), jnp.array(True))
    assert np.isclose(inside, np.log(0.6826895))
    ```
    """
    low, high = _placed(base, low, wanted), _placed(base, high, wanted)
    first, last = _normal_score(base, low), _normal_score(base, high)
    if first is not None and last is not None:
        (z_low, sign), (z_high, _) = first, last
        z_low, z_high = (jnp.where(wanted, z, side) for z, side in ((z_low, -sign), (z_high, sign)))
        z_low, z_high = jnp.where(sign > 0, z_low, z_high), jnp.where(sign > 0, z_high, z_low)
        return jnp.where(wanted, log_normal_between(z_low, z_high), 0.0)
    above = _distribution_function(base, high) - _distribution_function(base, low)
    return jnp.where(wanted, _safe_log(jnp.where(wanted, above, 1.0)), 0.0)


def _tail(base: dist.Distribution, value: Array, wanted: Array, below: bool) -> Array:
    value = _placed(base, value, wanted)
    score = _normal_score(base, value)
    if score is not None:
        z, sign = score
        z = jnp.where(wanted, z if below else -z, 0.0) * sign
        return jnp.where(wanted, log_normal_cdf(z), 0.0)
    if not below:
        closed = _log_survival(base, value)
        if closed is not None:
            return jnp.where(wanted, closed, 0.0)
    probability = _distribution_function(base, value)
    probability = probability if below else 1.0 - probability
    return jnp.where(wanted, _safe_log(jnp.where(wanted, probability, 1.0)), 0.0)


def _placed(base: Any, value: Array, wanted: Array) -> Array:
    """The value where wanted, elsewhere one inside the support, whose transforms and gradients are finite."""
    value = jnp.broadcast_to(value, jnp.broadcast_shapes(jnp.shape(value), jnp.shape(wanted)))
    try:
        inside = jnp.asarray(base.support.feasible_like(value), value.dtype)
    except NotImplementedError:
        inside = jnp.zeros_like(value)
    return jnp.where(wanted, value, inside)


def _normal_score(base: Any, value: Any) -> tuple[Array, Any] | None:
    """The value as a standard normal score, and whether it rises (1) or falls (-1) with it."""
    if isinstance(base, dist.ExpandedDistribution | dist.MaskedDistribution):
        return _normal_score(base.base_dist, value)
    if isinstance(base, dist.Normal):
        return (value - _lead(base.loc, value)) / _lead(base.scale, value), 1
    if not isinstance(base, dist.TransformedDistribution) or base.event_shape:
        return None
    sign: Any = 1
    for transform in reversed(base.transforms):
        try:
            sign = sign * transform.sign
        except NotImplementedError:
            return None
        value = transform.inv(value)
    score = _normal_score(base.base_dist, value)
    return None if score is None else (score[0], sign * score[1])


def _lead(parameter: Any, value: Array) -> Array:
    parameter = jnp.asarray(parameter)
    return parameter.reshape((1,) * max(0, value.ndim - parameter.ndim) + parameter.shape)


def _log_survival(base: Any, value: Array) -> Array | None:
    """Closed forms for what survival analysis uses, at values inside the support."""
    if isinstance(base, dist.ExpandedDistribution):
        return _log_survival(base.base_dist, value)
    if isinstance(base, dist.Exponential):
        return -_lead(base.rate, value) * value
    if isinstance(base, dist.Weibull):
        return -jnp.power(value / _lead(base.scale, value), _lead(base.concentration, value))
    return None


def _distribution_function(base: Any, value: Array) -> Array:
    while isinstance(base, dist.ExpandedDistribution | dist.MaskedDistribution):
        base = base.base_dist
    try:
        return base.cdf(value)
    except NotImplementedError:
        raise ModelError(
            f"observe: {type(base).__name__} has no cumulative distribution function, so its cells cannot "
            "be censored; "
            "use dist.Normal, dist.LogNormal or dist.StudentT."
        ) from None


def _safe_log(probability: Array) -> Array:
    """log, with probabilities that round to zero held at the smallest number and without gradient."""
    probability = jnp.asarray(probability)
    return jnp.log(jnp.clip(probability, jnp.finfo(probability.dtype).tiny, 1.0))
