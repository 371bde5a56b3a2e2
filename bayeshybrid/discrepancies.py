"""A smooth function for what neither the equation nor a network explains: a Gaussian process."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from jaxtyping import Array, Float

from . import sites
from .bases import Basis
from .faults import ModelError
from .networks import Network, network

# The walls stand so many length scales outside the range: at its border a mirror image behind them takes
# exp(-(2 1.5)^2 / 2), a hundredth, off the variance. So many terms there are for each length scale in the box.
OUTSIDE, PER_LENGTH = 1.5, 1.75
MOST_TERMS = 200
SHORT, LONG = 0.025, 0.975  # length scales of the prior that are to be told

__all__ = ["discrepancy"]


class _Sines(Basis):
    """Eigenfunctions of the Laplacian on the interval from -box to box, which vanish at its ends."""

    box: float = eqx.field(static=True)

    def __init__(self, out_size: int, terms: int, box: float):
        self.box, self.in_size = box, 1
        self.terms = tuple(f"sine {j}" for j in range(1, terms + 1))
        self.weight = np.zeros((out_size, terms))

    def evaluated(self, x: Float[Array, " inputs"]) -> Float[Array, " terms"]:
        """Each sine at one point; from the border of the range on as there."""
        inside = jnp.clip(x, -1.0, 1.0) + self.box
        return jnp.sin(jnp.asarray(self.frequencies, x.dtype) * inside) / np.sqrt(self.box)

    @property
    def frequencies(self):
        """Of each sine, in radians for each unit of the standardised input."""
        return np.pi / (2.0 * self.box) * np.arange(1, len(self.terms) + 1)


@dataclass(frozen=True)
class _Smooth:
    """The prior of the weights of `_Sines` that makes of them a process with a squared exponential covariance."""

    frequencies: np.ndarray
    half: float
    length: dist.Distribution
    scale: Any

    def widths(self, group: str, name: str, shape: tuple[int, ...]) -> Array:
        """Statement: the standard deviation of each weight given amplitude and length scale."""
        tag = sites.mapping(sites.Tag(group))
        length = numpyro.sample(f"{group}_length", self.length, infer=tag) / self.half
        size = numpyro.sample(f"{group}_size", dist.HalfNormal(self.scale), infer=tag)
        spectrum = jnp.sqrt(2.0 * jnp.pi) * length * jnp.exp(-0.5 * (length * self.frequencies) ** 2)
        return jnp.broadcast_to((size * jnp.sqrt(spectrum))[None], shape)


def discrepancy(
    name: str,
    low: float,
    high: float,
    *,
    length: dist.Distribution,
    scale: float,
    outputs: int = 1,
    unit: str | None = None,
) -> Network:
    """Statement: a smooth function of one input for what the rest of the model leaves over.

    A Gaussian process with mean zero and covariance `size^2 exp(-(x - x')^2 / (2 length^2))`, both unknown, for each
    output. It is approximated by sines (Solin and Sarkka 2020, "Hilbert space methods for reduced-rank Gaussian process
    regression"), as many as its length scale asks for (Riutort-Mayol et al. 2023, "Practical Hilbert space approximate
    Bayesian Gaussian processes for probabilistic programming", for this covariance), so that it costs as much as it has
    terms, and is carried into a forecast as a function: near the data it is known, away from them it
    goes back to zero, as uncertain as before them. It is a group of its own in budget and report: add it to what is
    observed, where it is what the model does not explain, or to a field.

    **Arguments:**

    - `name`: its name; unknowns are `<name>_length`, `<name>_size` and the weights `<name>/weight`.
    - `low`, `high`: the range in which it will be asked, forecasts included. Beyond it stays as at its border.
    - `length`: prior of the length scale, in the unit of the input: over how much of it the function changes.
    - `scale`: of the half-normal prior of its size, in `unit`.
    - `outputs`: how many functions; they share size and length scale.

    **Returns:** a `Network`, called on arrays whose last axis is the one input.

    **Raises:** `ModelError` for a range that is none, a scale that is not above zero, and length scales so much
    shorter than the range that more than 200 terms would be needed.

    ```python
    def model(x, y=None):
        left = bh.discrepancy("left", 0.0, 10.0, length=bh.prior_interval(1.0, 5.0), scale=1.0)
        bh.observe("y", dist.Normal(left(x[:, None])[:, 0], 0.1), obs=y)
    before = bh.simulate(model, {"x": np.array([2.0, 2.1, 9.0])}, key=0, draws=2000)
    near, far = np.corrcoef(before.observed["y"].draws.T)[0, 1:]
    assert near > 0.9 and abs(far) < 0.5
    ```
    """
    if not low < high:
        raise ModelError(f"discrepancy({name!r}): low = {low} must lie below high = {high}")
    if not scale > 0:
        raise ModelError(f"discrepancy({name!r}): scale = {scale} must be above zero")
    half = 0.5 * (high - low)
    with jax.ensure_compile_time_eval():
        short, long = (float(length.icdf(jnp.asarray(share))) / half for share in (SHORT, LONG))
    box = 1.0 + OUTSIDE * long
    terms = int(np.ceil(PER_LENGTH * box / short))
    if not terms <= MOST_TERMS:
        raise ModelError(
            f"discrepancy({name!r}): length scales down to {short * half:.3g} in a range of {2 * half:.3g} need "
            f"{terms} terms, over {MOST_TERMS}: write a prior of longer ones, or a shorter range"
        )
    basis = _Sines(outputs, terms, box)
    prior = _Smooth(basis.frequencies, half, length, scale)
    return network(name, basis, scale=1.0, unit=unit, center=low + half, spread=half, prior=prior)
