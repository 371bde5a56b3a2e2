"""Log probabilities of lying below, above or between, accurate far out in the tails.

For every distribution that is a monotone image of a normal they are computed from the normal score, so that
neither value nor gradient is lost where the distribution function rounds to 0 or 1. Each function takes a
mask of the cells wanted; the others get zero and no gradient, so no NaN of an unwanted branch survives. A
distribution may know better: then it has the methods `log_cdf(value)` and `log_sf(value)`.
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
    bare = _bare(base)
    if hasattr(bare, "log_sf"):
        above, below = (bare.log_sf(low), bare.log_sf(high)), (bare.log_cdf(high), bare.log_cdf(low))
        upper = above[0] < below[0]  # on the side where the tail is small
        large, small = (jnp.where(upper, *pair) for pair in zip(above, below, strict=True))
        inside = jnp.exp(large) - jnp.exp(small)
    else:
        inside = _distribution_function(base, high) - _distribution_function(base, low)
    return jnp.where(wanted, safe_log(jnp.where(wanted, inside, 1.0)), 0.0)


def _tail(base: dist.Distribution, value: Array, wanted: Array, below: bool) -> Array:
    value = _placed(base, value, wanted)
    score = _normal_score(base, value)
    if score is not None:
        z, sign = score
        z = jnp.where(wanted, z if below else -z, 0.0) * sign
        return jnp.where(wanted, log_normal_cdf(z), 0.0)
    closed = _closed(base, value, below)
    if closed is not None:
        return jnp.where(wanted, closed, 0.0)
    probability = _distribution_function(base, value)
    probability = probability if below else 1.0 - probability
    return jnp.where(wanted, safe_log(jnp.where(wanted, probability, 1.0)), 0.0)


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
    base = _bare(base)
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


def _bare(base: Any) -> Any:
    while isinstance(base, dist.ExpandedDistribution | dist.MaskedDistribution):
        base = base.base_dist
    return base


def _closed(base: Any, value: Array, below: bool) -> Array | None:
    """What a distribution knows itself, and closed forms for what survival analysis uses, inside the support."""
    base = _bare(base)
    if hasattr(base, "log_sf"):
        return base.log_cdf(value) if below else base.log_sf(value)
    if isinstance(base, dist.StudentT):
        t = (value - _lead(base.loc, value)) / _lead(base.scale, value)
        return safe_log(student_below(t if below else -t, _lead(base.df, value)))
    if isinstance(base, dist.Exponential) and not below:
        return -_lead(base.rate, value) * value
    if isinstance(base, dist.Weibull) and not below:
        return -jnp.power(value / _lead(base.scale, value), _lead(base.concentration, value))
    return None


def _distribution_function(base: Any, value: Array) -> Array:
    base = _bare(base)
    if isinstance(base, dist.StudentT):
        t = (value - _lead(base.loc, value)) / _lead(base.scale, value)
        return student_below(t, _lead(base.df, value))
    try:
        return base.cdf(value)
    except NotImplementedError:
        raise ModelError(
            f"observe: {type(base).__name__} has no cumulative distribution function, so its cells cannot "
            "be censored; "
            "use dist.Normal, dist.LogNormal or dist.StudentT."
        ) from None


def safe_log(probability: Float[ArrayLike, "..."]) -> Float[Array, "..."]:
    """log, with probabilities that round to zero held at the smallest number and without gradient.

    ```python
    from bayeshybrid.tails import safe_log
    assert np.isfinite(safe_log(0.0)) and jax.grad(safe_log)(0.0) == 0.0
    ```
    """
    probability = jnp.asarray(probability)
    return jnp.log(jnp.clip(probability, jnp.finfo(probability.dtype).tiny, 1.0))


# Distribution functions that JAX can evaluate but not differentiate by all of their parameters


def incomplete_beta(
    a: Float[ArrayLike, "..."], b: Float[ArrayLike, "..."], x: Float[ArrayLike, "..."]
) -> Float[Array, "..."]:
    """The regularised incomplete beta function I_x(a, b), differentiable in all three.

    By its shapes through central differences, whose error is about 1e-8 of the value in double precision; JAX
    has no derivative there.

    ```python
    from bayeshybrid.tails import incomplete_beta
    slope = jax.grad(incomplete_beta)(1.0, 1.0, 0.3)  # I_x(a, 1) = x^a
    assert np.isclose(slope, 0.3 * np.log(0.3), atol=1e-4)
    ```
    """
    a, b, x = jnp.broadcast_arrays(*(jnp.asarray(v) * 1.0 for v in (a, b, x)))
    return _incomplete_beta(a, b, x)


@jax.custom_jvp
def _incomplete_beta(a, b, x):
    return jax.scipy.special.betainc(a, b, x)


def _moving(tangent: Any) -> bool:
    return not isinstance(tangent, jax.custom_derivatives.SymbolicZero)


def _by_difference(function: Any, at: Array) -> Array:
    step = at * float(jnp.finfo(at.dtype).eps) ** (1 / 3)
    return (function(at + step) - function(at - step)) / (2.0 * step)


def _beta_slope(primals, tangents):
    (a, b, x), (da, db, dx) = primals, tangents
    slope = jnp.zeros_like(x)
    if _moving(dx):
        inside = (x > 0.0) & (x < 1.0)
        safe = jnp.where(inside, x, 0.5)
        gammaln = jax.scipy.special.gammaln  # betaln has an error of 1e-6
        log_whole = gammaln(a) + gammaln(b) - gammaln(a + b)
        log_density = (a - 1.0) * jnp.log(safe) + (b - 1.0) * jnp.log1p(-safe) - log_whole
        slope = slope + jnp.where(inside, jnp.exp(log_density), 0.0) * dx
    if _moving(da):
        slope = slope + _by_difference(lambda a: _incomplete_beta(a, b, x), a) * da
    if _moving(db):
        slope = slope + _by_difference(lambda b: _incomplete_beta(a, b, x), b) * db
    return _incomplete_beta(a, b, x), slope


_incomplete_beta.defjvp(_beta_slope, symbolic_zeros=True)


def student_below(t: Float[ArrayLike, "..."], degrees: Float[ArrayLike, "..."]) -> Float[Array, "..."]:
    """P(T <= t) of Student's t, without loss where t is far below zero, differentiable in both.

    ```python
    from bayeshybrid.tails import student_below
    assert np.isclose(student_below(-1.0, 1.0), 0.25) and np.isclose(jax.grad(student_below)(0.0, 1.0), 1 / np.pi)
    ```
    """
    t, degrees = jnp.broadcast_arrays(jnp.asarray(t) * 1.0, jnp.asarray(degrees) * 1.0)
    return _student_below(t, degrees)


@jax.custom_jvp
def _student_below(t, degrees):
    square = jnp.square(t)
    tail = 0.5 * jax.scipy.special.betainc(
        0.5 * degrees, 0.5 * jnp.ones_like(t), degrees / (degrees + square)
    )
    return jnp.where(t < 0.0, tail, 1.0 - tail)


def _student_slope(primals, tangents):
    (t, degrees), (dt, ddegrees) = primals, tangents
    slope = jnp.zeros_like(t)
    if _moving(dt):
        slope = slope + jnp.exp(dist.StudentT(degrees, 0.0, 1.0).log_prob(t)) * dt
    if _moving(ddegrees):
        slope = slope + _by_difference(lambda degrees: _student_below(t, degrees), degrees) * ddegrees
    return _student_below(t, degrees), slope


_student_below.defjvp(_student_slope, symbolic_zeros=True)
