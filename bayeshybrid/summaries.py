"""Means and standard deviations of replicates, cell by cell: the distributions behind `noise.replicates`."""

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

from .noise_kinds import HALF_LOG_TWO_PI, together
from .tails import log_normal_cdf, safe_log

# Above so many degrees of freedom the mean of a sample sd is told from the true one by a series
MANY = 1e3

__all__ = ["SummaryCell", "spread_of_sd"]


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
    from bayeshybrid.summaries import SummaryCell
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
    entries: ClassVar[tuple[str, ...]] = ("mean", "sd")  # what the last axis of replicates is called

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

    def sample(self, key: Any, sample_shape: tuple[int, ...] = ()) -> Array:
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
    from bayeshybrid.summaries import spread_of_sd
    assert np.isclose(spread_of_sd(1.0), 1 - 2 / np.pi)
    ```
    """
    degrees = jnp.asarray(degrees) * 1.0
    few = jnp.minimum(degrees, MANY)
    log_ratio = gammaln(0.5 * (few + 1.0)) - gammaln(0.5 * few)
    inverse = 1.0 / jnp.maximum(degrees, MANY)
    series = inverse * (0.5 - inverse * (0.125 + 0.0625 * inverse))
    return jnp.where(degrees < MANY, 1.0 - 2.0 / few * jnp.exp(2.0 * log_ratio), series)
