"""The distributions of single cells behind `noise`, safe where numpyro's own give NaN.

Each works value by value over a batch, so that cells can be missing or censored one by one. `log_cdf` and `log_sf`
are what `tails` asks of a distribution that knows its own tails.
"""

from __future__ import annotations

from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jax.scipy.special import gammainc, gammaincc, gammaln
from jax.typing import ArrayLike
from jaxtyping import Array, Float
from numpyro.distributions import constraints

from .tails import incomplete_beta, safe_log

HALF_LOG_TWO_PI = 0.5 * float(np.log(2.0 * np.pi))
LARGE = 100.0

__all__ = ["Counts", "NormalOrExact", "OverdispersedCounts", "log_rising", "together"]


def together(*values: ArrayLike) -> list[Array]:
    """Real arrays of one shape.

    ```python
    from bayeshybrid.noise_kinds import together
    assert [x.shape for x in together(1, np.zeros((3, 2)))] == [(3, 2), (3, 2)]
    ```
    """
    return jnp.broadcast_arrays(*(jnp.asarray(value) * 1.0 for value in values))


class NormalOrExact(dist.Normal):
    """Normal noise whose standard deviation may be zero: there the mean has probability one, all else none.

    `scale` is never stored as zero but as a number too small to be told from it, so that nothing divides by zero.

    **Arguments:**

    - `loc`: the mean; `scale`: the standard deviation, zero where the quantity is measured without noise.

    ```python
    from bayeshybrid.noise_kinds import NormalOrExact
    noise = NormalOrExact(np.zeros(2), np.array([0.0, 1.0]))
    assert noise.log_prob(np.zeros(2))[0] == 0.0 and noise.log_prob(np.ones(2))[0] == -np.inf
    ```
    """

    loc: Any
    scale: Any

    def __init__(self, loc: ArrayLike, scale: ArrayLike, *, validate_args: bool | None = None):
        loc, scale = together(loc, scale)
        floor = _floor(scale)
        super().__init__(loc, jnp.where(jnp.abs(scale) < floor, floor, scale), validate_args=validate_args)

    @property
    def exact(self) -> Array:
        """Where there is no noise."""
        return jnp.abs(self.scale) <= _floor(self.scale)

    @property
    def variance(self) -> Array:
        """The square of the standard deviation."""
        return jnp.where(self.exact, 0.0, jnp.square(self.scale))

    def sample(self, key: Any, sample_shape: tuple[int, ...] = ()) -> Array:
        """Draws; the mean itself where there is no noise."""
        normal = jax.random.normal(key, (*sample_shape, *self.batch_shape))
        loc, scale, _ = together(self.loc, jnp.where(self.exact, 0.0, self.scale), normal)
        return loc + scale * normal

    def log_prob(self, value, intermediates=None):
        """Log density; 0 where there is no noise and the value is the mean, else `-inf`."""
        value, loc, scale = together(value, self.loc, self.scale)
        exact = jnp.abs(scale) <= _floor(scale)
        safe = jnp.where(exact, 1.0, scale)
        normal = -0.5 * jnp.square((value - loc) / safe) - jnp.log(safe) - HALF_LOG_TWO_PI
        return jnp.where(exact, jnp.where(value == loc, 0.0, -jnp.inf), normal)


def _floor(scale: Array) -> float:
    """Its square and the square of its inverse are still numbers."""
    return float(jnp.finfo(jnp.result_type(scale)).tiny) ** 0.45


class Counts(dist.Poisson):
    """Poisson counts: a mean of zero makes zero certain, a negative one makes every count impossible.

    Draws are real numbers, so that they can be NaN where the mean is negative.

    **Arguments:** `rate`: the mean.

    ```python
    from bayeshybrid.noise_kinds import Counts
    told = Counts(np.array([0.0, 0.0, -0.1])).log_prob(np.array([0, 1, 0]))
    assert told.tolist() == [0.0, -np.inf, -np.inf]
    ```
    """

    arg_constraints: ClassVar[dict[str, Any]] = {"rate": constraints.real}
    rate: Any

    def __init__(self, rate: ArrayLike, *, validate_args: bool | None = None):
        super().__init__(jnp.asarray(rate) * 1.0, validate_args=validate_args)

    @property
    def mean(self) -> Array:
        """The mean, NaN where it is negative."""
        return jnp.where(self.rate >= 0.0, self.rate, jnp.nan)

    @property
    def variance(self) -> Array:
        """Equal to the mean."""
        return self.mean

    def sample(self, key: Any, sample_shape: tuple[int, ...] = ()) -> Array:
        """Draws, NaN where the mean is negative."""
        return _poisson(key, jnp.broadcast_to(self.rate, (*sample_shape, *self.batch_shape)))

    def log_prob(self, value, intermediates=None):
        """Log probability, `-inf` for what cannot be counted."""
        value, rate = together(value, self.rate)
        safe = jnp.where(rate > 0.0, rate, 1.0)
        found = value * jnp.log(safe) - gammaln(value + 1.0) - rate
        return _possible(value, rate, jnp.where(rate > 0.0, found, -rate))

    def cdf(self, value):
        """P(Y <= value)."""
        return jnp.exp(self.log_cdf(value))

    def log_cdf(self, value: ArrayLike) -> Array:
        """log P(Y <= value)."""
        value, rate = together(value, self.rate)
        safe = jnp.where(rate > 0.0, rate, 1.0)
        found = safe_log(gammaincc(jnp.floor(value) + 1.0, safe))
        return _tail_of_counts(value, rate, found, 0.0)

    def log_sf(self, value: ArrayLike) -> Array:
        """log P(Y > value)."""
        value, rate = together(value, self.rate)
        safe = jnp.where(rate > 0.0, rate, 1.0)
        return _tail_of_counts(value, rate, safe_log(gammainc(jnp.floor(value) + 1.0, safe)), -jnp.inf)


def _poisson(key, rate):
    drawn = jax.random.poisson(key, jnp.where(rate > 0.0, rate, 0.0)) * 1.0
    return jnp.where(rate >= 0.0, drawn, jnp.nan)


def _possible(value, mean, log_probability):
    """`-inf` unless the value is a count that the mean allows."""
    counted = (value >= 0.0) & (value == jnp.floor(value)) & ((value == 0.0) | (mean > 0.0))
    return jnp.where(counted & (mean >= 0.0), log_probability, -jnp.inf)


def _tail_of_counts(value, mean, found, at_zero):
    """Where the mean is zero only a zero is met, where it is negative nothing."""
    return jnp.where(mean > 0.0, found, jnp.where(mean == 0.0, at_zero, -jnp.inf))


class OverdispersedCounts(dist.Distribution):
    """Negative binomial counts by mean and concentration: variance `expected + expected^2 / concentration`.

    A mean of zero makes zero certain; a negative mean, or a concentration that is not positive, makes every count
    impossible, and its draws NaN.

    **Arguments:** `expected`: the mean; `concentration`: large for Poisson counts, small for clumped ones.

    ```python
    from bayeshybrid.noise_kinds import OverdispersedCounts
    assert OverdispersedCounts(6.0, 3.0).variance == 18.0
    assert np.isclose(OverdispersedCounts(6.0, 3.0).log_prob(0), -3 * np.log(3.0))
    ```
    """

    arg_constraints: ClassVar[dict[str, Any]] = {
        "expected": constraints.real,
        "concentration": constraints.positive,
    }
    support: Any = constraints.nonnegative_integer

    def __init__(self, expected: ArrayLike, concentration: ArrayLike, *, validate_args: bool | None = None):
        self.expected, self.concentration = together(expected, concentration)
        super().__init__(jnp.shape(self.expected), validate_args=validate_args)

    @property
    def mean(self) -> Array:
        """The mean, NaN where it is negative."""
        return jnp.where((self.expected >= 0.0) & (self.concentration > 0.0), self.expected, jnp.nan)

    @property
    def variance(self) -> Array:
        """Larger than the mean by its square over the concentration."""
        return self.mean + jnp.square(self.mean) / self.concentration

    def sample(self, key: Any, sample_shape: tuple[int, ...] = ()) -> Array:
        """Poisson counts whose means are gamma distributed; NaN where there are none."""
        first, second = jax.random.split(key)
        mean, concentration = (
            jnp.broadcast_to(x, (*sample_shape, *self.batch_shape)) for x in (self.mean, self.concentration)
        )
        shape = jnp.where(concentration > 0.0, concentration, 1.0)
        return _poisson(second, mean * jax.random.gamma(first, shape) / shape)

    def log_prob(self, value, intermediates=None):
        """Log probability, `-inf` for what cannot be counted."""
        value, mean, size = together(value, self.expected, self.concentration)
        sound = size > 0.0
        size, safe = jnp.where(sound, size, 1.0), jnp.where(mean > 0.0, mean, 1.0)
        none = -(size + value) * jnp.log1p(jnp.where(mean > 0.0, mean, 0.0) / size)
        found = log_rising(size, value) - gammaln(value + 1.0) + none + value * jnp.log(safe)
        found = _possible(value, mean, jnp.where(mean > 0.0, found, -mean))
        return jnp.where(sound, found, -jnp.inf)

    def cdf(self, value):
        """P(Y <= value)."""
        return jnp.exp(self.log_cdf(value))

    def log_cdf(self, value: ArrayLike) -> Array:
        """log P(Y <= value)."""
        return self._tail(value, lambda k, size, mean: incomplete_beta(size, k, size / (size + mean)), 0.0)

    def log_sf(self, value: ArrayLike) -> Array:
        """log P(Y > value)."""
        return self._tail(
            value, lambda k, size, mean: incomplete_beta(k, size, mean / (size + mean)), -jnp.inf
        )

    def _tail(self, value, probability, at_zero):
        value, mean, size = together(value, self.expected, self.concentration)
        sound = size > 0.0
        safe = jnp.where(mean > 0.0, mean, 1.0)
        found = safe_log(probability(jnp.floor(value) + 1.0, jnp.where(sound, size, 1.0), safe))
        return jnp.where(sound, _tail_of_counts(value, mean, found, at_zero), -jnp.inf)


def log_rising(size: Float[ArrayLike, "..."], steps: Float[ArrayLike, "..."]) -> Float[Array, "..."]:
    """log of Gamma(size + steps) / Gamma(size) / size^steps, which tends to 0 for large sizes.

    By Stirling's series above 100, where the difference of logarithms loses its digits (and JAX's `betaln` has an
    error of 1e-6).

    ```python
    from bayeshybrid.noise_kinds import log_rising
    assert np.isclose(log_rising(2.0, 3.0), np.log(2 * 3 * 4 / 2**3))
    ```
    """
    size, steps = together(size, steps)
    large = size > LARGE
    near, far = jnp.where(large, 1.0, size), jnp.where(large, size, LARGE)
    direct = gammaln(near + steps) - gammaln(near) - steps * jnp.log(near)
    series = (far + steps - 0.5) * jnp.log1p(steps / far) - steps + _stirling(far + steps) - _stirling(far)
    return jnp.where(large, series, direct)


def _stirling(x):
    inverse = 1.0 / jnp.square(x)
    return (1.0 / 12.0 - inverse * (1.0 / 360.0 - inverse / 1260.0)) / x
