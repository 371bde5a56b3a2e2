"""Priors from what a scientist can say: an interval, hard limits, or quantiles.

Each function turns such a sentence into a numpyro distribution. Nothing here knows of a model.
"""

from __future__ import annotations

from collections.abc import Mapping
from statistics import NormalDist
from typing import Any

import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jax.core import Tracer
from jax.typing import ArrayLike
from numpyro.distributions.transforms import ExpTransform, Transform

from .faults import ModelError

__all__ = ["SkewTransform", "bounded", "prior_interval", "prior_quantiles"]

_QUANTILE_TOLERANCE = 0.005
"""Largest difference in probability accepted when more than three quantiles are stated."""


def _number(value: Any, what: str, of: str) -> Any:
    """A finite Python float, or an array of them; an error naming the argument otherwise."""
    if isinstance(value, Tracer):
        raise ModelError(
            f"{of}: {what} is computed inside compiled code; give plain numbers, or write the "
            "numpyro distribution itself when a prior depends on another unknown."
        )
    try:
        array = np.asarray(value, dtype=float)
    except (TypeError, ValueError):
        raise ModelError(f"{of}: {what} is {value!r}; give a number.") from None
    if not np.all(np.isfinite(array)):
        raise ModelError(f"{of}: {what} is {value!r}; it must be finite.")
    return float(array) if array.ndim == 0 else array


def _ordered(low: Any, high: Any, of: str) -> tuple[Any, Any]:
    low, high = _number(low, "low", of), _number(high, "high", of)
    try:
        ordered = bool(np.all(np.less(low, high)))
    except ValueError:
        raise ModelError(
            f"{of}: low has shape {np.shape(low)}, high {np.shape(high)}; they differ."
        ) from None
    if not ordered:
        raise ModelError(
            f"{of}: low = {low} is not below high = {high}; write {of}(low, high) in that order."
        )
    return low, high


def prior_interval(low: ArrayLike, high: ArrayLike, mass: float = 0.95) -> dist.Distribution:
    """A prior that holds `mass` between `low` and `high`, with equal tails beyond.

    Log-normal if both ends are positive (every end, when arrays are given), else normal. An end at exactly
    zero makes it normal: write a small positive number for a quantity that cannot be negative.

    **Arguments:**

    - `low`, `high`: the ends, numbers or arrays of one shape, in the unit of the quantity.
    - `mass`: the probability inside, between 0 and 1.

    **Returns:** a numpyro distribution whose batch shape is that of the ends.

    **Raises:** `ModelError` if `low >= high`, an end is not finite, or `mass` is outside (0, 1).

    ```python
    prior = bh.prior_interval(0.3, 1.2)
    assert np.isclose(prior.icdf(0.025), 0.3, rtol=1e-4)
    assert np.isclose(prior.icdf(0.975), 1.2, rtol=1e-4)
    ```
    """
    below, above = _ordered(low, high, "prior_interval")
    mass = _number(mass, "mass", "prior_interval")
    if np.ndim(mass) != 0 or not 0.0 < mass < 1.0:
        raise ModelError(f"prior_interval: mass = {mass} is a probability between 0 and 1, such as 0.95.")
    half = NormalDist().inv_cdf(0.5 + 0.5 * mass)
    if np.all(np.greater(below, 0.0)):
        below, above = np.log(below), np.log(above)
        return dist.LogNormal(_plain(0.5 * (below + above)), _plain(0.5 * (above - below) / half))
    return dist.Normal(_plain(0.5 * (below + above)), _plain(0.5 * (above - below) / half))


def _plain(value: Any) -> Any:
    """A Python float where there is one number, so that the prior follows the precision it is used in."""
    return float(value) if np.ndim(value) == 0 else value


def bounded(low: ArrayLike, high: ArrayLike) -> dist.Distribution:
    """A prior with hard limits: every value between `low` and `high` alike, none outside.

    **Arguments:**

    - `low`, `high`: the limits, numbers or arrays of one shape, in the unit of the quantity.

    **Returns:** a numpyro `Uniform`.

    **Raises:** `ModelError` if `low >= high` or an end is not finite.

    ```python
    share = bh.bounded(0.0, 1.0)
    assert np.isclose(share.mean, 0.5)
    assert not share.support(jnp.array(1.2))
    ```
    """
    return dist.Uniform(*_ordered(low, high, "bounded"))


class SkewTransform(Transform):
    """`loc + scale z + skew sqrt(1 + z^2)` with `|skew| < scale`: a smooth bend of the normal quantile.

    The sinh-arcsinh transform of Jones and Pewsey (2009, Biometrika 96, 761) with unit tail weight: the
    slope goes from `scale - skew` far below to `scale + skew` far above, so both tails stay normal.

    ```python
    from bayeshybrid.elicitation import SkewTransform
    bend = SkewTransform(0.0, 2.0, 1.0)
    assert np.isclose(bend.inv(bend(0.7)), 0.7)
    ```
    """

    sign: Any = 1  # rises with the score

    def __init__(self, loc: Any, scale: Any, skew: Any):
        self.loc = loc
        self.scale = scale
        self.skew = skew

    def __call__(self, x):
        """From the normal score to the quantity."""
        return self.loc + self.scale * x + self.skew * jnp.sqrt(1.0 + jnp.square(x))

    def _inverse(self, y):
        spread = jnp.sqrt((self.scale - self.skew) * (self.scale + self.skew))
        return jnp.sinh(jnp.arcsinh((y - self.loc) / spread) - jnp.arctanh(self.skew / self.scale))

    def log_abs_det_jacobian(self, x, y, intermediates=None):
        """Log of the slope at `x`."""
        return jnp.log(self.scale + self.skew * x / jnp.sqrt(1.0 + jnp.square(x)))

    def tree_flatten(self):
        """The three numbers as leaves, as numpyro's own transforms do."""
        return (self.loc, self.scale, self.skew), (("loc", "scale", "skew"), {})


def prior_quantiles(quantiles: Mapping[float, float]) -> dist.Distribution:
    """A prior with the stated quantiles.

    All values positive: on the log scale, else on the plain one. Two quantiles give a log-normal or normal;
    three or more a smooth skewed one, the normal bent by `SkewTransform`, whose middle may lie off-centre
    as far as that family allows.

    **Arguments:**

    - `quantiles`: probability to value, `{0.05: 1.0, 0.5: 2.0, 0.95: 8.0}`, in the unit of the quantity.

    **Returns:** a numpyro distribution (scalar) with `cdf` and `icdf`.

    **Raises:** `ModelError` if there are fewer than two, a probability is outside (0, 1), the values do not
    rise with the probabilities, or no member of the family meets them.

    ```python
    prior = bh.prior_quantiles({0.05: 1.0, 0.5: 2.0, 0.95: 8.0})
    assert np.allclose(prior.icdf(jnp.array([0.05, 0.5, 0.95])), [1.0, 2.0, 8.0])
    ```
    """
    probabilities, values = _checked_quantiles(quantiles)
    positive = bool(values[0] > 0.0)
    normal_scores = np.array([NormalDist().inv_cdf(p) for p in probabilities])
    heights = np.log(values) if positive else values
    loc, scale, skew = _fit_quantiles(normal_scores, heights)
    if not abs(skew) < scale * (1.0 - 1e-9):
        raise ModelError(_unreachable(quantiles, normal_scores, positive))
    if abs(skew) < 1e-9 * scale:
        prior = dist.LogNormal(loc, scale) if positive else dist.Normal(loc, scale)
    else:
        bends: list[Transform] = [SkewTransform(loc, scale, skew)]
        prior = dist.TransformedDistribution(
            dist.Normal(0.0, 1.0), [*bends, ExpTransform()] if positive else bends
        )
    _check_met(quantiles, (loc, scale, skew), normal_scores, heights)
    return prior


def _checked_quantiles(quantiles: Mapping[float, float]) -> tuple[np.ndarray, np.ndarray]:
    example = "write prior_quantiles({0.05: 1.0, 0.5: 2.0, 0.95: 8.0})"
    if not isinstance(quantiles, Mapping) or len(quantiles) < 2:
        raise ModelError(f"prior_quantiles: {quantiles!r} does not state two quantiles or more; {example}.")
    pairs = [
        (_number(p, "a probability", "prior_quantiles"), _number(v, "a value", "prior_quantiles"))
        for p, v in quantiles.items()
    ]
    if any(np.ndim(p) or np.ndim(v) for p, v in pairs):
        raise ModelError(f"prior_quantiles: {quantiles!r} holds arrays; state one number per probability.")
    pairs.sort()
    probabilities, values = (np.array(column) for column in zip(*pairs, strict=True))
    if probabilities[0] <= 0.0 or probabilities[-1] >= 1.0:
        raise ModelError(
            f"prior_quantiles: the probabilities {probabilities.tolist()} must lie inside (0, 1); {example}."
        )
    if np.any(np.diff(values) <= 0.0):
        raise ModelError(
            f"prior_quantiles: the values {values.tolist()} must rise with the probabilities "
            f"{probabilities.tolist()}."
        )
    return probabilities, values


def _fit_quantiles(normal_scores: np.ndarray, heights: np.ndarray) -> tuple[float, float, float]:
    """Least squares in (loc, scale, skew): the quantile function is linear in them."""
    columns = [np.ones_like(normal_scores), normal_scores]
    if len(normal_scores) > 2:
        columns.append(np.sqrt(1.0 + normal_scores**2))
    unit = heights[-1] - heights[0]
    fitted = np.linalg.lstsq(np.stack(columns, axis=1), (heights - heights[0]) / unit, rcond=None)[0]
    loc, scale, skew = (*(fitted * unit), 0.0)[:3]
    return float(loc + heights[0]), float(scale), float(skew)


def _unreachable(quantiles: Mapping[float, float], z: np.ndarray, positive: bool) -> str:
    message = f"prior_quantiles: no smooth prior of this family has the quantiles {dict(quantiles)!r}"
    if len(z) != 3:
        return message + "; state three of them, or fewer extremes."
    # The middle value is furthest off-centre where the bend is complete, |skew| = scale.
    bend = np.sqrt(1.0 + z**2)
    shares = sorted((s[1] - s[0]) / (s[2] - s[0]) for s in (z + bend, z - bend))
    ends = sorted(quantiles.items())
    low, high = (np.log(v) if positive else v for v in (ends[0][1], ends[-1][1]))
    reach = [low + share * (high - low) for share in shares]
    reach = [float(np.exp(r)) for r in reach] if positive else reach
    return (
        f"{message}: with these ends the value at {ends[1][0]} can lie between {reach[0]:.4g} and "
        f"{reach[1]:.4g}, not at {ends[1][1]:.4g}. Move it, or write the numpyro distribution you mean."
    )


def _check_met(quantiles: Mapping[float, float], fit: tuple, z: np.ndarray, heights: np.ndarray) -> None:
    loc, scale, skew = fit
    spread = np.sqrt((scale - skew) * (scale + skew))
    reached = np.sinh(np.arcsinh((heights - loc) / spread) - np.arctanh(skew / scale))
    normal = NormalDist()
    off = [abs(normal.cdf(a) - normal.cdf(b)) for a, b in zip(reached, z, strict=True)]
    if max(off) > _QUANTILE_TOLERANCE:
        worst = sorted(quantiles.items())[int(np.argmax(off))]
        raise ModelError(
            f"prior_quantiles: the stated quantiles {dict(quantiles)!r} cannot be met together; the worst is "
            f"{worst[1]} at {worst[0]}, off by {max(off):.3f} in probability. State three of them."
        )
