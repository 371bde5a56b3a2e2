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
from numpyro.distributions import biject_to, constraints, transforms

from .tails import incomplete_beta, log_normal_cdf, safe_log

HALF_LOG_TWO_PI = 0.5 * float(np.log(2.0 * np.pi))
# Above so many degrees of freedom the mean of a sample sd is told from the true one by a series
MANY = 1e3
LARGE = 100.0

__all__ = [
    "Counts",
    "NormalOrExact",
    "OverdispersedCounts",
    "SummaryCell",
    "log_rising",
    "spread_of_sd",
    "together",
]


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

    def sample(self, key, sample_shape=()):
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

    def sample(self, key, sample_shape=()):
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
    support = constraints.nonnegative_integer

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

    def sample(self, key, sample_shape=()):
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


# Means and standard deviations of replicates


class _MeanOrSpread(constraints.Constraint):
    """Any number for a mean, a number above zero for a standard deviation that there is."""

    words = "a mean, and a standard deviation above zero"

    def __init__(self, positive):
        self.positive = positive

    def __call__(self, x):
        x, positive = jnp.broadcast_arrays(jnp.asarray(x), self.positive)
        return jnp.where(positive, x > 0.0, jnp.isfinite(x))

    def feasible_like(self, prototype):
        return jnp.ones_like(prototype)

    def tree_flatten(self):
        return (self.positive,), (("positive",), {})

    def eq(self, other, static=False):
        return isinstance(other, _MeanOrSpread) and constraints.array_equiv(
            self.positive, other.positive, static=static
        )


biject_to.register(_MeanOrSpread)(lambda constraint: transforms.IdentityTransform())


class SummaryCell(dist.Distribution):
    """The mean, or the standard deviation, of `n` independent normal readings.

    The mean is `Normal(loc, sd / sqrt(n))`; of the standard deviation s (dividing by `n - 1`) the quantity
    `(n - 1) s^2 / sd^2` is chi squared with `n - 1` degrees of freedom, and both are independent (Cochran 1934). A
    cell without readings, and the standard deviation of one, say nothing: log probability 0.

    **Arguments:**

    - `loc`, `sd`: of one reading; `n`: number of readings.
    - `spread`: true where the cell is the standard deviation.

    ```python
    from bayeshybrid.noise_kinds import SummaryCell
    cells = SummaryCell(5.0, 2.0, 4, np.array([False, True]))
    assert np.isclose(cells.variance[0], 1.0) and np.isclose(cells.mean[1], 2.0 * 0.921318)
    ```
    """

    arg_constraints: ClassVar[dict[str, Any]] = {
        "loc": constraints.real,
        "sd": constraints.positive,
        "n": constraints.nonnegative,
        "spread": constraints.boolean,
    }
    reparametrized_params: ClassVar[list[str]] = ["loc", "sd", "n", "spread"]

    def __init__(
        self,
        loc: ArrayLike,
        sd: ArrayLike,
        n: ArrayLike,
        spread: ArrayLike,
        *,
        validate_args: bool | None = None,
    ):
        self.loc, self.sd, self.n, spread = together(loc, sd, n, spread)
        self.spread = spread > 0.5
        super().__init__(jnp.shape(self.loc), validate_args=validate_args)

    @property
    def support(self):
        """Any number for a mean, a positive one for a standard deviation."""
        return _MeanOrSpread(self.spread & (self.n > 1.0))

    @property
    def degrees(self) -> Array:
        """Degrees of freedom of the standard deviation, one where there are none."""
        return jnp.where(self.n > 1.0, self.n - 1.0, 1.0)

    @property
    def silent(self) -> Array:
        """Cells that say nothing: of no readings, and the standard deviation of one."""
        return jnp.where(self.spread, self.n <= 1.0, self.n < 1.0)

    @property
    def mean(self) -> Array:
        """The mean; of a standard deviation a little less than `sd`, and 0 for one reading."""
        ratio = jnp.sqrt(1.0 - spread_of_sd(self.degrees))
        return jnp.where(self.spread, jnp.where(self.silent, 0.0, self.sd * ratio), self.loc)

    @property
    def variance(self) -> Array:
        """Of the mean `sd^2 / n`; of the standard deviation about half of that."""
        of_sd = jnp.where(self.silent, 0.0, jnp.square(self.sd) * spread_of_sd(self.degrees))
        return jnp.where(self.spread, of_sd, jnp.square(self.sd) / jnp.maximum(self.n, 1.0))

    def sample(self, key, sample_shape=()):
        """Draws; the standard deviation of one reading is 0."""
        first, second = jax.random.split(key)
        shape = (*sample_shape, *self.batch_shape)
        loc, sd, n, degrees = (jnp.broadcast_to(x, shape) for x in (self.loc, self.sd, self.n, self.degrees))
        mean = loc + sd / jnp.sqrt(jnp.maximum(n, 1.0)) * jax.random.normal(first, shape)
        spread = sd * jnp.sqrt(2.0 * jax.random.gamma(second, 0.5 * degrees) / degrees)
        return jnp.where(self.spread, jnp.where(self.silent, 0.0, spread), mean)

    def log_prob(self, value, intermediates=None):
        """Log density of each cell."""
        value, cells = self._over(value)
        degrees, half = cells.degrees, 0.5 * cells.degrees
        width = cells.sd / jnp.sqrt(jnp.maximum(cells.n, 1.0))
        of_mean = -0.5 * jnp.square(cells._score(value)) - jnp.log(width) - HALF_LOG_TWO_PI
        positive = value > 0.0
        s = jnp.where(positive, value, 1.0)
        of_spread = (
            float(np.log(2.0))
            + half * jnp.log(half)
            - gammaln(half)
            + (degrees - 1.0) * jnp.log(s)
            - degrees * jnp.log(cells.sd)
            - half * jnp.square(s / cells.sd)
        )
        found = jnp.where(cells.spread, jnp.where(positive, of_spread, -jnp.inf), of_mean)
        return jnp.where(cells.silent, 0.0, found)

    def cdf(self, value):
        """P(Y <= value)."""
        return jnp.exp(self.log_cdf(value))

    def log_cdf(self, value: ArrayLike) -> Array:
        """log P(Y <= value), 0 where the cell says nothing."""
        return self._tail(value, gammainc, 1.0)

    def log_sf(self, value: ArrayLike) -> Array:
        """log P(Y > value), 0 where the cell says nothing."""
        return self._tail(value, gammaincc, -1.0)

    def _over(self, value):
        """The value, and these cells in its shape."""
        value, *parts = together(value, self.loc, self.sd, self.n, self.spread)
        return value, SummaryCell(*parts)

    def _score(self, value):
        """Normal score of a mean, 0 in the other cells."""
        centred = jnp.where(self.spread | self.silent, 0.0, value - self.loc)
        return centred * jnp.sqrt(jnp.maximum(self.n, 1.0)) / self.sd

    def _tail(self, value, incomplete, sign):
        value, cells = self._over(value)
        share = 0.5 * cells.degrees * jnp.square(jnp.maximum(value, 0.0) / cells.sd)
        of_spread = safe_log(incomplete(0.5 * cells.degrees, share))
        found = jnp.where(cells.spread, of_spread, log_normal_cdf(sign * cells._score(value)))
        return jnp.where(cells.silent, 0.0, found)


def spread_of_sd(degrees: Float[ArrayLike, "..."]) -> Float[Array, "..."]:
    """Variance of a sample standard deviation in units of the true variance, by degrees of freedom.

    `1 - c4^2` with `c4 = sqrt(2 / v) Gamma((v + 1) / 2) / Gamma(v / 2)` (Cramér 1946, section 29.3); for many
    degrees by its series, because the difference loses its digits.

    ```python
    from bayeshybrid.noise_kinds import spread_of_sd
    assert np.isclose(spread_of_sd(1.0), 1 - 2 / np.pi)
    ```
    """
    degrees = jnp.asarray(degrees) * 1.0
    few = jnp.minimum(degrees, MANY)
    log_ratio = gammaln(0.5 * (few + 1.0)) - gammaln(0.5 * few)
    inverse = 1.0 / jnp.maximum(degrees, MANY)
    series = inverse * (0.5 - inverse * (0.125 + 0.0625 * inverse))
    return jnp.where(degrees < MANY, 1.0 - 2.0 / few * jnp.exp(2.0 * log_ratio), series)
