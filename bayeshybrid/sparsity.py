"""A prior under which few weights matter: most are near zero, and those that are not are left alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from jaxtyping import Array

from . import sites
from .faults import ModelError

__all__ = ["Horseshoe", "Widths"]


class Widths(Protocol):
    """A prior of weights that are normal, each with a standard deviation that depends on other unknowns."""

    def widths(self, group: str, name: str, shape: tuple[int, ...]) -> Array:
        """Statement: the standard deviation of each weight of the array `name`, of this shape, of a network `group`."""
        ...


@dataclass(frozen=True)
class Horseshoe:
    """The regularised horseshoe, a prior for the weights of a `network` of which few are expected to matter.

    A weight is `tau l z` with z standard normal, and `l^2 = c^2 r^2 / (c^2 + tau^2 r^2)`, r half-Cauchy: those far
    below the slab c shrink to nothing, those above it are normal with its width (Piironen and Vehtari 2017, "Sparsity
    information and regularization in the horseshoe and other shrinkage priors", section 2.3). The scale tau is
    half-Cauchy with scale `expected / (n - expected) negligible` for n weights (section 3.3, with `negligible` in place
    of the error that the data leave in a weight), and c^2 inverse gamma, so that large weights have Student t tails.

    All in units of the network's `scale`, which is that of a weight that matters. The sites are those of the weights,
    which hold z, and beside each `<weight>_local`, `<weight>_global`, `<weight>_slab`.

    **Arguments:**

    - `expected`: how many weights of an array are expected to matter.
    - `negligible`: the size of a weight that might as well be zero.
    - `slab`: the size of those that matter.
    - `freedom`: degrees of freedom of their tail.

    **Raises:** `ModelError` for numbers that are not above zero, and, when a model is read, for an array that has no
    more weights than are expected to matter.

    ```python
    def model():
        cubic = bh.Polynomial(2, 1, degree=3)
        return bh.network("law", cubic, scale=1.0, center=0.0, spread=1.0, prior=bh.Horseshoe(expected=2))
    law = numpyro.handlers.seed(model, 0)()
    assert law(jnp.ones(2)).shape == (1,)
    ```
    """

    expected: float
    negligible: float = 0.1
    slab: float = 1.0
    freedom: float = 4.0

    def __post_init__(self) -> None:
        for what in ("expected", "negligible", "slab", "freedom"):
            if not getattr(self, what) > 0:
                raise ModelError(f"Horseshoe({what}={getattr(self, what)!r}): write a number above zero")

    def widths(self, group: str, name: str, shape: tuple[int, ...]) -> Array:
        """Statement: the standard deviation of each weight of the array `name` given its own unknowns."""
        count = int(np.prod(shape))
        if not self.expected < count:
            raise ModelError(
                f"network {group!r}: Horseshoe(expected={self.expected:g}) for the {count} weights of {name}: expect "
                "fewer to matter than there are, or write a prior without sparsity"
            )
        tag = sites.mapping(sites.Tag(group, kind="weight"))
        whole = self.expected / (count - self.expected) * self.negligible
        local = numpyro.sample(f"{name}_local", dist.HalfCauchy(1.0).expand(shape).to_event(), infer=tag)
        tau = numpyro.sample(f"{name}_global", dist.HalfCauchy(whole), infer=tag)
        half = 0.5 * self.freedom
        square = numpyro.sample(f"{name}_slab", dist.InverseGamma(half, half * self.slab**2), infer=tag)
        return jnp.asarray(tau * local * jnp.sqrt(square / (square + (tau * local) ** 2)))
