"""Posteriors with known answers, small enough to be fitted in a moment.

Each problem is a numpyro model, its data, and what its posterior is by closed form or quadrature. The models are
functions of this module, so that every test that fits one of them shares its compiled programs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro.distributions import constraints

import bayeshybrid as bh

# Linear regression with known noise: everything about it is algebra.

LINEAR_X = np.array([[1.0, t] for t in np.linspace(-1.0, 1.5, 12)])
LINEAR_NOISE = 0.5
LINEAR_Y = LINEAR_X @ np.array([0.7, -1.2]) + np.resize([0.4, -0.6, 0.1, 0.5, -0.3], 12)


def linear(x, y=None):
    w = numpyro.sample("w", dist.Normal(jnp.zeros(2), 1.0).to_event(1))
    numpyro.sample("y", dist.Normal(x @ w, LINEAR_NOISE), obs=y)


def linear_answer(x: np.ndarray = LINEAR_X, y: np.ndarray = LINEAR_Y) -> tuple[np.ndarray, np.ndarray, float]:
    """Posterior mean `(2,)` and covariance `(2, 2)` of `w`, and the log evidence."""
    precision = np.eye(2) + x.T @ x / LINEAR_NOISE**2
    covariance = np.linalg.inv(precision)
    mean = covariance @ x.T @ y / LINEAR_NOISE**2
    marginal = LINEAR_NOISE**2 * np.eye(len(y)) + x @ x.T
    _, log_det = np.linalg.slogdet(2 * np.pi * marginal)
    return mean, covariance, float(-0.5 * (log_det + y @ np.linalg.solve(marginal, y)))


# Two modes. In the first the basins predict different things, in the second the same thing.

BIMODAL = {"square": np.array(4.0), "side": np.array(0.5)}


def bimodal(square=None, side=None):
    x = numpyro.sample("x", dist.Normal(0.5, 2.0))
    numpyro.sample("square", dist.Normal(x**2, 0.3), obs=square)
    numpyro.sample("side", dist.Normal(x, 3.0), obs=side)


def bimodal_log_density(x: np.ndarray) -> np.ndarray:
    return -0.5 * (((x - 0.5) / 2) ** 2 + ((4 - x**2) / 0.3) ** 2 + ((0.5 - x) / 3) ** 2)


def mirrored(square=None):
    x = numpyro.sample("x", dist.Normal(0.2, 2.0))
    numpyro.sample("square", dist.Normal(x**2, 0.3), obs=square)


def mirrored_log_density(x: np.ndarray) -> np.ndarray:
    return -0.5 * (((x - 0.2) / 2) ** 2 + ((4 - x**2) / 0.3) ** 2)


def share_above(log_density: Callable[[np.ndarray], np.ndarray], threshold: float = 0.0) -> float:
    """The posterior's share above a threshold, by quadrature."""
    x = np.linspace(-8, 8, 400_001)
    weight = np.exp(log_density(x) - log_density(x).max())
    return float(weight[x > threshold].sum() / weight.sum())


# A state that blows up: y' = rate y^2 from 1 has a pole at 1 / rate, so only rates below 1 reach time 1. A tenth
# of the prior lies above. Only the first time is measured, so the data hardly tell the rate from one above 1.

EXPLODING_TIMES = np.array([0.2, 1.0])
EXPLODING_PRIOR = (-0.6408, 0.5)
EXPLODING_NOISE = 0.1
EXPLODING_Y = np.array(1.2)


def exploding(times, y=None):
    rate = bh.parameter("rate", dist.LogNormal(*EXPLODING_PRIOR), unit="1/s")
    path = bh.solve_ode(
        "path", lambda t, y, rate: rate * y**2, jnp.array(1.0), times, t0=0.0, args=rate, max_steps=256
    )
    bh.observe("y", dist.Normal(path.ys[0], EXPLODING_NOISE), obs=y)


def exploding_quantiles(levels: np.ndarray) -> np.ndarray:
    """Quantiles of the rate given the data and that the model can be solved."""
    rate = np.linspace(1e-6, 1.0, 200_001)[:-1]
    middle, spread = EXPLODING_PRIOR
    log_density = (
        -np.log(rate)
        - 0.5 * ((np.log(rate) - middle) / spread) ** 2
        - 0.5 * ((EXPLODING_Y - 1 / (1 - 0.2 * rate)) / EXPLODING_NOISE) ** 2
    )
    below = np.cumsum(np.exp(log_density - log_density.max()))
    return np.interp(levels, below / below[-1], rate)


# Shapes that are hard on a sampler.


def funnel():
    """Neal's funnel: no one step size fits both its neck and its mouth."""
    v = numpyro.sample("v", dist.Normal(0.0, 3.0))
    numpyro.sample("x", dist.Normal(jnp.zeros(4), jnp.exp(v / 2)).to_event(1))


def narrow(total=None):
    """Only the sum of two unknowns is measured, and well: 1,400 times longer than wide."""
    a = numpyro.sample("a", dist.Normal(0.0, 1.0))
    b = numpyro.sample("b", dist.Normal(0.0, 1.0))
    numpyro.sample("total", dist.Normal(a + b, 1e-3), obs=total)


NARROW_TOTAL = np.array(1.0)


def narrow_answer() -> tuple[np.ndarray, np.ndarray]:
    """Posterior mean and covariance of `(a, b)`."""
    covariance = np.linalg.inv(np.eye(2) + 1e6 * np.ones((2, 2)))
    return covariance @ np.full(2, 1e6 * NARROW_TOTAL), covariance


def wide(y=None):
    """Numbers in the ten thousands, as when somebody forgets to choose a unit."""
    x = numpyro.sample("x", dist.Normal(0.0, 30_000.0))
    numpyro.sample("y", dist.Normal(x, 10_000.0), obs=y)


WIDE_Y = np.array(40_000.0)
WIDE_MEAN, WIDE_SD = 36_000.0, float(np.sqrt(9e7))


def improper(y=None):
    """A flat prior over the whole line: the posterior is Normal(mean of y, 1 / sqrt(n))."""
    middle = numpyro.sample("middle", dist.ImproperUniform(constraints.real, (), ()))
    with numpyro.plate("rows", 4 if y is None else len(y)):
        numpyro.sample("y", dist.Normal(middle, 1.0), obs=y)


IMPROPER_Y = np.array([9.0, 10.0, 11.0, 14.0])


@dataclass(frozen=True)
class Problem:
    """A model with its data."""

    model: Callable[..., Any]
    data: Mapping[str, Any]


PROBLEMS = {
    "linear": Problem(linear, {"x": LINEAR_X, "y": LINEAR_Y}),
    "bimodal": Problem(bimodal, BIMODAL),
    "mirrored": Problem(mirrored, {"square": np.array(4.0)}),
    "exploding": Problem(exploding, {"times": EXPLODING_TIMES, "y": EXPLODING_Y}),
    "funnel": Problem(funnel, {}),
    "narrow": Problem(narrow, {"total": NARROW_TOTAL}),
    "wide": Problem(wide, {"y": WIDE_Y}),
    "improper": Problem(improper, {"y": IMPROPER_Y}),
}
