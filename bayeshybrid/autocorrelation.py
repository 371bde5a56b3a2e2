"""Noise with memory: Ornstein-Uhlenbeck residuals, evaluated one measured cell after another.

In units of its standard deviation the residual at time t is `sqrt(1 - white) x(t) + sqrt(white) e`, where `x` is the
stationary process whose correlation is `exp(-|dt| / timescale)` (Uhlenbeck and Ornstein 1930) and `e` is white. `x`
is a Markov process, so a log density costs as many steps as there are times: without the white part each residual
depends on the one measured before alone, with it a Kalman filter carries what is known of `x`.
"""

from __future__ import annotations

from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jax import lax
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float
from numpyro.distributions import biject_to, constraints, transforms

from .faults import ModelError
from .noise_kinds import HALF_LOG_TWO_PI, NormalOrExact
from .ornstein_uhlenbeck import draw_path, predicted, smoothed

__all__ = ["Autocorrelated", "Conditioned"]


class _OneValueATime(constraints.Constraint):
    """Real numbers, of which no two stand at one time unless they are equal."""

    event_dim = 1
    words = (
        "residuals without a white part, which are equal at equal times: give autocorrelated(..., white=0.1), the "
        "share of the variance that is independent, where times repeat"
    )

    def __init__(self, repeated):
        self.repeated = repeated

    def __call__(self, x):
        x, repeated = jnp.broadcast_arrays(jnp.asarray(x), self.repeated)
        return jnp.all(jnp.isfinite(x) & ~repeated, axis=-1)

    def feasible_like(self, prototype):
        return jnp.zeros_like(prototype)

    def tree_flatten(self):
        return (self.repeated,), (("repeated",), {})

    def eq(self, other, static=False):
        return isinstance(other, _OneValueATime) and constraints.array_equiv(
            self.repeated, other.repeated, static=static
        )


biject_to.register(_OneValueATime)(
    lambda constraint: transforms.IndependentTransform(transforms.IdentityTransform(), 1)
)


class Autocorrelated(dist.Distribution):
    """A series whose residuals remember: see `bayeshybrid.noise.autocorrelated`, which makes it.

    The last axis is time and one event. Every field has the whole shape `(..., n)`, except `timescale` and `white`,
    which have that of the batch.

    **Arguments:**

    - `loc`, `sd`: mean and standard deviation at each time; `times`: in any order.
    - `timescale`: in the unit of the times; `white`: share of the variance without memory, or `None`.
    - `missing`: true where nothing was measured, or `None`.

    ```python
    from bayeshybrid.autocorrelation import Autocorrelated
    noise = Autocorrelated(np.zeros(2), 1.0, np.array([0.0, 1.0]), 2.0)
    exact = dist.MultivariateNormal(np.zeros(2), np.array([[1.0, np.exp(-0.5)], [np.exp(-0.5), 1.0]]))
    assert np.isclose(noise.log_prob(np.array([0.3, 1.0])), exact.log_prob(np.array([0.3, 1.0])))
    ```
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}
    pytree_data_fields = ("loc", "sd", "times", "timescale", "white", "missing")

    def __init__(
        self,
        loc: ArrayLike,
        sd: ArrayLike,
        times: ArrayLike,
        timescale: ArrayLike,
        white: ArrayLike | None = None,
        missing: ArrayLike | None = None,
        *,
        validate_args: bool | None = None,
    ):
        share = 0.0 if white is None else white
        shape = _joint_shape(loc, sd, times, timescale, share)
        self.loc, self.sd, self.times = (
            jnp.broadcast_to(jnp.asarray(x) * 1.0, shape) for x in (loc, sd, times)
        )
        self.timescale = jnp.broadcast_to(jnp.asarray(timescale) * 1.0, shape[:-1])
        self.white = None if white is None else jnp.broadcast_to(jnp.asarray(white) * 1.0, shape[:-1])
        self.missing = None if missing is None else jnp.broadcast_to(jnp.asarray(missing, bool), shape)
        super().__init__(shape[:-1], shape[-1:], validate_args=validate_args)

    @property
    def support(self):
        """Real numbers; without a white part no two of them measured at one time."""
        if self.white is not None:
            return constraints.real_vector
        return _OneValueATime(_repeated(self.times, self.skipped))

    @property
    def skipped(self) -> Bool[Array, "*batch n"]:
        """Cells that tell the others nothing: missing ones, and those measured without noise."""
        exact = self.sd == 0.0
        return exact if self.missing is None else exact | self.missing

    @property
    def mean(self) -> Float[Array, "*batch n"]:
        """The mean at each time."""
        return self.loc

    @property
    def variance(self) -> Float[Array, "*batch n"]:
        """The variance at each time, whatever was measured before."""
        return jnp.square(self.sd)

    @property
    def marginals(self) -> NormalOrExact:
        """The distribution of each cell by itself."""
        return NormalOrExact(self.loc, self.sd)

    @property
    def covariance_matrix(self) -> Float[Array, "*batch n n"]:
        """The covariances of all cells, missing ones too."""
        return self.correlation_matrix * self.sd[..., :, None] * self.sd[..., None, :]

    @property
    def correlation_matrix(self) -> Float[Array, "*batch n n"]:
        """The correlations of all cells, missing ones too."""
        gaps = jnp.abs(self.times[..., :, None] - self.times[..., None, :]) / self.timescale[..., None, None]
        if self.white is None:
            return jnp.exp(-gaps)
        eye = jnp.broadcast_to(jnp.eye(self.event_shape[0]), gaps.shape)
        return jnp.where(eye > 0, 1.0, (1.0 - self.white[..., None, None]) * jnp.exp(-gaps))

    def expand(self, batch_shape):
        """The same noise over a larger batch of series, as `numpyro.plate` asks for it."""
        batch_shape = tuple(batch_shape)
        if batch_shape == tuple(self.batch_shape):
            return self
        shape = (*batch_shape, *self.event_shape)
        loc, sd, times = (jnp.broadcast_to(x, shape) for x in (self.loc, self.sd, self.times))
        return Autocorrelated(loc, sd, times, self.timescale, self.white, self.missing)

    def without(self, missing: ArrayLike) -> Autocorrelated:
        """The same noise, of which the cells where `missing` is true (and those before) were not measured."""
        if self.missing is not None:
            missing = jnp.logical_or(*jnp.broadcast_arrays(self.missing, jnp.asarray(missing, bool)))
        shape = lax.broadcast_shapes(self.loc.shape, jnp.shape(missing))
        wide = self.expand(shape[:-1])
        return Autocorrelated(wide.loc, wide.sd, wide.times, wide.timescale, wide.white, missing)

    def conditionals(self, value: ArrayLike) -> tuple[Array, Array]:
        """Mean and standard deviation of each cell given all that were measured before it, shaped like the value.

        Cells that were not measured, or without noise, have those of the series.
        """
        cells, z = self._standard(value)
        mean, variance = predicted(z, cells.skipped, cells.times, cells.timescale, cells.white)
        known = ~cells.skipped
        mean = cells.loc + cells.sd * jnp.where(known, mean, 0.0)
        degenerate = variance == 0.0
        spread = jnp.where(degenerate, 0.0, jnp.sqrt(jnp.where(degenerate, 1.0, variance)))
        return mean, cells.sd * jnp.where(known, spread, 1.0)

    def log_prob(self, value, intermediates=None):
        """Log density of the cells that were measured, one number a series."""
        cells, z = self._standard(value)
        mean, variance = predicted(z, cells.skipped, cells.times, cells.timescale, cells.white)
        skipped = cells.skipped
        sure = variance == 0.0
        safe, sd = jnp.where(sure, 1.0, variance), jnp.where(skipped, 1.0, cells.sd)
        normal = -0.5 * jnp.square(z - mean) / safe - 0.5 * jnp.log(safe) - jnp.log(sd) - HALF_LOG_TWO_PI
        normal = jnp.where(sure, jnp.where(z == mean, 0.0, -jnp.inf), normal)
        measured = True if cells.missing is None else ~cells.missing
        impossible = (cells.sd == 0.0) & measured & (jnp.broadcast_to(value, cells.loc.shape) != cells.loc)
        return jnp.sum(jnp.where(impossible, -jnp.inf, jnp.where(skipped, 0.0, normal)), axis=-1)

    def sample(self, key: Any, sample_shape: tuple[int, ...] = ()) -> Array:
        """Draws at all times, missing ones too."""
        first, second = jax.random.split(key)
        shape = (*sample_shape, *self.batch_shape, *self.event_shape)
        cells = self.expand(shape[:-1])
        z = draw_path(first, cells.times, cells.timescale, cells.white)
        if cells.white is not None:
            z = z + jnp.sqrt(cells.white)[..., None] * jax.random.normal(second, shape)
        return cells.loc + cells.sd * z

    def given(self, fitted: dist.Distribution, values: ArrayLike) -> Conditioned:
        """This noise conditioned on the values of the same noise at other times.

        **Arguments:**

        - `fitted`: the noise as it was fitted, with the same timescale and white share; wrappers such as `Measured`
          are taken off.
        - `values`: what was measured, `(..., m)`; NaN is not conditioned on, nor is what `fitted` holds for missing.

        **Returns:** the distribution of the quantity measured anew: its white part is drawn anew even at a time of
        the fit.
        """
        while not isinstance(fitted, Autocorrelated):
            fitted = fitted.base_dist if hasattr(fitted, "base_dist") else fitted.base  # type: ignore[attr-defined]
        values = jnp.asarray(values) * 1.0
        return Conditioned(self, fitted.without(jnp.isnan(values)), jnp.nan_to_num(values))

    def _standard(self, value):
        """These cells in the shape of a value, and its residuals in units of their sd, 0 where they tell nothing."""
        value = jnp.asarray(value) * 1.0
        shape = lax.broadcast_shapes(value.shape, self.loc.shape)
        cells, value = self.expand(shape[:-1]), jnp.broadcast_to(value, shape)
        skipped = cells.skipped
        centred = jnp.where(skipped, 0.0, value - jnp.where(skipped, 0.0, cells.loc))
        return cells, centred / jnp.where(skipped, 1.0, cells.sd)


def _joint_shape(mean, sd, times, timescale, white):
    stated = [jnp.shape(x) for x in (mean, sd, times, timescale, white)]
    try:
        shape = lax.broadcast_shapes(*stated[:3], *((*one, 1) for one in stated[3:]))
    except ValueError:
        shape = ()
    if not (stated[0] or stated[2]) or not shape:
        raise ModelError(
            f"autocorrelated: mean {stated[0]}, sd {stated[1]}, times {stated[2]}, timescale {stated[3]} and white "
            f"{stated[4]} do not fit together. Times run along the last axis of mean, sd and times; timescale and "
            "white have one entry a series, and an sd by series is sd[:, None]."
        )
    return shape


def _repeated(times, skipped):
    """Measured cells at a time at which another was measured."""
    same = times[..., :, None] == times[..., None, :]
    both = ~skipped[..., :, None] & ~skipped[..., None, :]
    return jnp.sum(same & both, axis=-1) > 1


class Conditioned(dist.Distribution):
    """Autocorrelated noise given what was measured at other times: see `Autocorrelated.given`.

    The law is that of Gaussian conditioning (Rasmussen and Williams 2006, equations 2.22 to 2.24), by a Kalman
    smoother over the times of both.

    **Arguments:**

    - `asked`: the noise at the times asked for; `fitted`: the same noise at those of the fit.
    - `values`: what was measured there, any number where `fitted.missing`.

    ```python
    from bayeshybrid import noise
    fitted, asked = (noise.autocorrelated(np.zeros(1), 1.0, np.array([t]), 2.0) for t in (0.0, 1.0))
    known = asked.given(fitted, np.array([1.5]))
    assert np.isclose(known.mean[0], 1.5 * np.exp(-0.5)) and np.isclose(known.variance[0], 1 - np.exp(-1.0))
    ```
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}
    support: Any = constraints.real_vector
    pytree_data_fields = ("asked", "fitted", "values")

    def __init__(
        self,
        asked: Autocorrelated,
        fitted: Autocorrelated,
        values: ArrayLike,
        *,
        validate_args: bool | None = None,
    ):
        batch = lax.broadcast_shapes(asked.batch_shape, fitted.batch_shape, jnp.shape(values)[:-1])
        self.asked, self.fitted = asked.expand(batch), fitted.expand(batch)
        self.values = jnp.broadcast_to(values, self.fitted.loc.shape)
        super().__init__(batch, asked.event_shape, validate_args=validate_args)

    @property
    def mean(self) -> Float[Array, "*batch n"]:
        """The conditional mean at each time."""
        return self.asked.loc + self.asked.sd * self._told(self.fitted._standard(self.values)[1])[0]

    @property
    def variance(self) -> Float[Array, "*batch n"]:
        """The conditional variance at each time."""
        white = 0.0 if self.asked.white is None else self.asked.white[..., None]
        return jnp.square(self.asked.sd) * (self._told(jnp.zeros_like(self.values))[1] + white)

    def expand(self, batch_shape):
        """The same law over a larger batch of series."""
        if tuple(batch_shape) == tuple(self.batch_shape):
            return self
        return Conditioned(self.asked.expand(batch_shape), self.fitted.expand(batch_shape), self.values)

    def log_prob(self, value, intermediates=None):
        """Log density of the asked cells given the fitted ones."""
        value = jnp.asarray(value) * 1.0
        shape = lax.broadcast_shapes(value.shape, self.asked.loc.shape)
        wide = self.expand(shape[:-1])
        both = jnp.concatenate([wide.values, jnp.broadcast_to(value, shape)], axis=-1)
        return wide._joint(wide.asked.missing).log_prob(both) - wide.fitted.log_prob(wide.values)

    def sample(self, key: Any, sample_shape: tuple[int, ...] = ()) -> Array:
        """Draws: a draw of both, moved by what the fitted cells of the draw lack (Matheron's rule)."""
        path_key, seen_key, new_key = jax.random.split(key, 3)
        wide = self.expand((*sample_shape, *self.batch_shape))
        joint, first = wide._joint(None), wide.fitted.event_shape[0]
        path = draw_path(path_key, joint.times, joint.timescale, joint.white)
        seen, anew = path[..., :first], path[..., first:]
        if joint.white is not None:
            size = jnp.sqrt(joint.white)[..., None]
            seen = seen + size * jax.random.normal(seen_key, seen.shape)
            anew = anew + size * jax.random.normal(new_key, anew.shape)
        moved = wide._told(wide.fitted._standard(wide.values)[1] - seen)[0]
        return wide.asked.loc + wide.asked.sd * (anew + moved)

    def _joint(self, missing):
        """Both as one series, the fitted cells first."""
        a, b = self.fitted, self.asked
        none = jnp.zeros(b.loc.shape, bool)
        gaps = [
            jnp.zeros(a.loc.shape, bool) if a.missing is None else a.missing,
            none if missing is None else missing,
        ]
        parts = (jnp.concatenate([getattr(one, x) for one in (a, b)], axis=-1) for x in ("loc", "sd"))
        times = jnp.concatenate([jnp.where(a.skipped, b.times[..., :1], a.times), b.times], axis=-1)
        return Autocorrelated(*parts, times, b.timescale, b.white, jnp.concatenate(gaps, axis=-1))

    def _told(self, z):
        """Mean and variance of the state at the asked times, given standardised residuals of the fitted ones."""
        joint, first = self._joint(jnp.ones(self.asked.loc.shape, bool)), self.fitted.event_shape[0]
        z = jnp.concatenate([z, jnp.zeros(self.asked.loc.shape)], axis=-1)
        told = smoothed(z, joint.skipped, joint.times, joint.timescale, joint.white)
        return tuple(x[..., first:] for x in told)
