"""Noise as it is measured: what lies between what a model predicts and what an instrument says.

Each function returns the distribution of a measurement given its mean, to be stated by `bh.observe` (or by
`numpyro.sample`). Arguments broadcast against each other; cells are independent, and so can be missing or censored
one by one, except under `autocorrelated`, whose last axis is one series.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jax.core import Tracer
from jax.typing import ArrayLike

from .autocorrelation import Autocorrelated
from .faults import ModelError
from .noise_kinds import Counts, NormalOrExact, OverdispersedCounts, together
from .summaries import SummaryCell

__all__ = [
    "additive",
    "autocorrelated",
    "combined",
    "counts",
    "overdispersed_counts",
    "proportional",
    "replicates",
    "student_t",
]


def additive(mean: ArrayLike, sd: ArrayLike) -> dist.Normal:
    """Normal noise of one size, whatever is measured.

    **Arguments:**

    - `mean`: what the model predicts, in the unit of the data.
    - `sd`: standard deviation, in the same unit.

    ```python
    assert np.isclose(bh.noise.additive(5.0, 2.0).log_prob(5.0), -np.log(2.0 * np.sqrt(2 * np.pi)))
    ```
    """
    _positive("additive", sd=sd)
    return dist.Normal(*together(mean, sd))


def proportional(mean: ArrayLike, share: ArrayLike) -> dist.Normal:
    """Normal noise in proportion to what is measured: standard deviation `share * |mean|`.

    Where the model predicts exactly zero, such as a dose that was not taken yet, there is no noise: a measured zero
    has probability one and anything else is impossible (log probability `-inf`), and a value known to lie below a
    limit is certain. Near zero the noise is as small as the mean, so measurements there weigh more than any
    instrument can justify. Where such values occur use `combined`.

    **Arguments:**

    - `mean`: what the model predicts, in the unit of the data.
    - `share`: coefficient of variation, such as 0.1 for 10 %.

    ```python
    noise = bh.noise.proportional(np.array([0.0, 4.0]), 0.1)
    assert np.allclose(noise.variance, [0.0, 0.16]) and noise.log_prob(np.zeros(2))[0] == 0.0
    ```
    """
    _positive("proportional", share=share)
    mean, share = together(mean, share)
    return NormalOrExact(mean, share * jnp.abs(mean))


def combined(mean: ArrayLike, additive: ArrayLike, proportional: ArrayLike) -> dist.Normal:
    """Normal noise with a part of one size and a part in proportion: variance `additive^2 + (proportional * mean)^2`.

    **Arguments:**

    - `mean`: what the model predicts, in the unit of the data.
    - `additive`: standard deviation where nothing is predicted, in the same unit.
    - `proportional`: coefficient of variation where much is.

    ```python
    assert np.allclose(bh.noise.combined(np.array([0.0, 4.0]), 0.3, 0.1).variance, [0.09, 0.25])
    ```
    """
    _positive("combined", zero=True, additive=additive, proportional=proportional)
    mean, additive, proportional = together(mean, additive, proportional)
    variance = jnp.square(additive) + jnp.square(proportional * mean)
    noisy = variance > 0.0
    return NormalOrExact(mean, jnp.where(noisy, jnp.sqrt(jnp.where(noisy, variance, 1.0)), 0.0))


def student_t(mean: ArrayLike, scale: ArrayLike, degrees: ArrayLike) -> dist.StudentT:
    """Noise with outliers: `(y - mean) / scale` is Student's t (Lange, Little and Taylor 1989).

    **Arguments:**

    - `mean`: what the model predicts, in the unit of the data.
    - `scale`: in the same unit; the standard deviation is `scale * sqrt(degrees / (degrees - 2))`.
    - `degrees`: of freedom. Near 4 a tenth of the values lie beyond 2.1 scales; above 30 it is hardly told from
      normal. The variance is infinite up to 2, and up to 1 there is no mean.

    ```python
    assert np.isclose(bh.noise.student_t(0.0, 1.0, 4.0).variance, 2.0)
    ```
    """
    _positive("student_t", scale=scale, degrees=degrees)
    mean, scale, degrees = together(mean, scale, degrees)
    return dist.StudentT(degrees, mean, scale)


def counts(mean: ArrayLike) -> dist.Poisson:
    """Poisson counts, whose variance is their mean.

    A mean of exactly zero makes zero certain. A negative one, to which a solver may stray from zero by its tolerance,
    makes every count impossible instead of being clipped: solve for the logarithm, tighten `atol`, or add a small
    background.

    **Arguments:** `mean`: the expected count.

    ```python
    assert np.isclose(bh.noise.counts(2.0).log_prob(0), -2.0)
    assert bh.noise.counts(-1e-9).log_prob(0) == -np.inf
    ```
    """
    return Counts(mean)


def overdispersed_counts(mean: ArrayLike, concentration: ArrayLike) -> dist.Distribution:
    """Negative binomial counts: variance `mean + mean^2 / concentration`.

    Means of zero and below are met as by `counts`.

    **Arguments:**

    - `mean`: the expected count.
    - `concentration`: the smaller, the more clumped; the relative spread of large counts is
      `1 / sqrt(concentration)`. Its inverse is the overdispersion.

    ```python
    assert bh.noise.overdispersed_counts(6.0, 3.0).variance == 18.0
    ```
    """
    _positive("overdispersed_counts", concentration=concentration)
    return OverdispersedCounts(mean, concentration)


def autocorrelated(
    mean: ArrayLike, sd: ArrayLike, times: ArrayLike, timescale: ArrayLike, white: ArrayLike = 0.0
) -> Autocorrelated:
    """Normal noise that remembers: residuals at times a gap apart have correlation `exp(-gap / timescale)`.

    A stationary Ornstein-Uhlenbeck process (Uhlenbeck and Ornstein 1930) about the mean. The last axis is one series
    and one event; axes before it are independent series. Times may be in any order; missing cells are left out
    exactly, and only they may be padding. Values cannot be censored. Forecasts at other inputs than those of the fit
    are conditioned on the data by `given`.

    With `white` a share of the variance is independent from cell to cell, and correlations are `1 - white` times as
    large. Times that repeat need one: without it two values at one time would be equal, so unequal ones are
    impossible, and the gate says so.

    **Arguments:**

    - `mean`: `(..., n)`, what the model predicts.
    - `sd`: of one residual, both parts together: a number or `(..., n)`, such as `share * jnp.abs(mean)`. Where it is
      zero the value is the mean, and tells the others nothing.
    - `times`: `(n,)` or `(..., n)`.
    - `timescale`: a number or one a series, in the unit of the times.
    - `white`: likewise, from 0 to 1.

    **Returns:** a distribution with `mean`, `variance`, `marginals`, `covariance_matrix`, `without(mask)` and
    `given(fitted, values)`.

    **Raises:** `ModelError` for shapes that do not fit, a timescale or a share out of range.

    ```python
    t = np.array([0.0, 1.0, 3.0])
    noise = bh.noise.autocorrelated(np.zeros(3), 0.5, t, timescale=2.0)
    ahead = bh.noise.autocorrelated(np.zeros(1), 0.5, np.array([4.0]), timescale=2.0)
    assert np.isclose(ahead.given(noise, np.array([0.1, 0.2, 0.6])).mean[0], 0.6 * np.exp(-0.5))
    ```
    """
    _positive("autocorrelated", timescale=timescale)
    _positive("autocorrelated", zero=True, sd=sd, white=white)
    if _known(white) and np.any(np.asarray(white) > 1.0):
        raise ModelError(f"autocorrelated: white is {white}, but it is a share of the variance: give 0 to 1.")
    bare = _known(white) and np.all(np.asarray(white) == 0.0)
    return Autocorrelated(mean, sd, times, timescale, None if bare else white)


def replicates(mean: ArrayLike, sd: ArrayLike, n: ArrayLike) -> dist.Distribution:
    """The mean and the standard deviation of n independent normal replicates, as papers report them.

    The last axis of the data holds two cells: the mean of the replicates, and their standard deviation s with the
    divisor `n - 1`. The mean is `Normal(mean, sd / sqrt(n))`, `(n - 1) s^2 / sd^2` is chi squared with `n - 1`
    degrees of freedom, and they are independent: so the two tell as much about `mean` and `sd` as the replicates
    themselves. If the standard error was reported, s is that times `sqrt(n)`.

    Both cells may be missing or censored one by one. With n = 1 the second says nothing, whatever stands there; its
    forecast is 0. A reported 0 of several replicates is impossible: rounded, it lies between 0 and half a unit
    of the last digit, which `upper` can say.

    **Arguments:**

    - `mean`: `(...)`, what the model predicts of one replicate.
    - `sd`: of one replicate, not of their mean.
    - `n`: how many there were, a number or an array.

    **Returns:** a distribution over `(..., 2)`.

    ```python
    raw = np.array([4.0, 5.0, 7.5])
    told = lambda m: bh.noise.replicates(m, 2.0, 3).log_prob(np.array([raw.mean(), raw.std(ddof=1)]))
    each = lambda m: bh.noise.additive(m, 2.0).log_prob(raw).sum()
    assert np.isclose(told(5.0) - told(4.0), each(5.0) - each(4.0))
    ```
    """
    _positive("replicates", sd=sd)
    _positive("replicates", zero=True, n=n)
    mean, sd, n = (x[..., None] for x in together(mean, sd, n))
    spread = jnp.array([0.0, 1.0]).reshape((1,) * (mean.ndim - 1) + (2,))
    return SummaryCell(mean, sd, n, spread).to_event(1)


def _known(value: Any) -> bool:
    return not isinstance(value, Tracer)


def _positive(function: str, zero: bool = False, **sizes: Any) -> None:
    """What is known while the model is written must be a size; what is unknown gets density zero where it is none."""
    for name, value in sizes.items():
        if not _known(value):
            continue
        wrong = np.asarray(value) < 0.0 if zero else np.asarray(value) <= 0.0
        if np.any(wrong):
            first = np.asarray(value)[wrong].ravel()[0] if np.ndim(value) else value
            wanted = "zero or positive" if zero else "positive"
            raise ModelError(f"{function}: {name} is {first:g}, but must be {wanted}.")
