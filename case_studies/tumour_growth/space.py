"""A ball cut into shells: what diffuses out of one shell enters the next, so that no cell is lost."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from jax import Array

RADIUS = 5.0  # mm; no cell leaves through the surface
SHELLS = 20


def centres(shells: int = SHELLS) -> np.ndarray:
    """The middle of each shell, in mm, `(shells,)`."""
    return (np.arange(shells) + 0.5) * RADIUS / shells


def volumes(shells: int = SHELLS) -> np.ndarray:
    """The volume of each shell, in mm^3, `(shells,)`."""
    return 4 / 3 * np.pi * np.diff(np.linspace(0.0, RADIUS, shells + 1) ** 3)


def laplacian(shells: int = SHELLS) -> np.ndarray:
    """`u_rr + 2 u_r / r` as a matrix on means over shells, in 1/mm^2, `(shells, shells)`.

    Finite volumes: the change of a shell is what flows through its two faces, over its volume. The face at the centre
    has no area, so that nothing is divided by a radius of zero, and nothing flows through the surface.
    """
    inner = np.linspace(0.0, RADIUS, shells + 1)[1:-1]
    flows = (4 * np.pi * inner**2 * shells / RADIUS)[:, None] * np.diff(np.eye(shells), axis=0)
    faces = np.zeros((1, shells))
    return np.diff(np.concatenate([faces, flows, faces]), axis=0) / volumes(shells)[:, None]


def at(radius: Array) -> Array:
    """From values in the shells to values at some radii, by straight lines between the centres, `(shells, radii)`."""
    hats = [jnp.interp(radius, centres(), hat) for hat in np.eye(SHELLS)]
    return jnp.stack(hats)
