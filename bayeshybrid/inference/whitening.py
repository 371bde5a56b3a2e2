"""Whitening: linear maps that make a posterior about as wide in every direction.

A factor is lower triangular, `(d, d)`, the diagonal of one, `(d,)`, or a `LowRank`. It takes whitened positions to the
target's own; its product with its transpose is the covariance that it whitens. The way back is by its inverse, made
outside of compiled programs: the solvers of LAPACK wait for threads of a pool that several devices share, and where
all wait nothing goes on (seen to hang with two CPU devices).
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from bayeshybrid.inference.low_rank import LowRank, stretched
from bayeshybrid.inference.method import Basin

DENSE_UP_TO = 150
PSEUDO_DRAWS = 5.0

Factor = Float[Array, "d d"] | Float[Array, " d"] | LowRank
Vector = Float[Array, " d"]

__all__ = ["factor_of", "inverse_of", "pull_back", "push_back", "renewed", "square", "unwhiten", "whiten"]


def factor_of(basin: Basin, dense: bool) -> np.ndarray:
    """A basin's factor: its curvature where it has one, else the spread of its starts.

    ```python
    from bayeshybrid.inference.method import Basin
    from bayeshybrid.inference.whitening import factor_of
    basin = Basin(np.zeros(2), 0.0, np.zeros((1, 2)), None, np.array([1.0, 3.0]), 1.0, 0.0)
    assert factor_of(basin, dense=True).tolist() == [[1.0, 0.0], [0.0, 3.0]]
    ```
    """
    factor = np.asarray(basin.spread if basin.factor is None else basin.factor)
    if dense:
        return factor if factor.ndim == 2 else np.diag(factor)
    return factor if factor.ndim == 1 else np.sqrt(np.sum(factor**2, axis=1))


def unwhiten(factor: Factor, z: Vector) -> Vector:
    """A whitened position as the target's own.

    ```python
    from bayeshybrid.inference.whitening import unwhiten
    assert unwhiten(jnp.array([2.0, 3.0]), jnp.ones(2)).tolist() == [2.0, 3.0]
    ```
    """
    if isinstance(factor, LowRank):
        return factor.scale * stretched(factor, z)
    return factor @ z if factor.ndim == 2 else factor * z


def inverse_of(factor: Any) -> Any:
    """The inverse of a factor, or of each of several in rows, `(chain, d, d)` or `(chain, d)`.

    That of a `LowRank` has the same parts, but stretches after it scales.

    ```python
    from bayeshybrid.inference.whitening import inverse_of
    assert inverse_of(np.array([[[2.0, 0.0], [2.0, 4.0]]])).tolist() == [[[0.5, 0.0], [-0.25, 0.25]]]
    ```
    """
    if isinstance(factor, LowRank):
        return LowRank(1 / factor.scale, factor.vectors, 1 / factor.stretch)
    factor = np.asarray(factor)
    return np.tril(np.linalg.inv(factor)) if factor.ndim == 3 else 1 / factor


def whiten(inverse: Factor, q: Vector) -> Vector:
    """The target's position as a whitened one, by the inverse of the factor.

    ```python
    from bayeshybrid.inference.whitening import whiten
    assert whiten(jnp.array([0.5, 1 / 3]), jnp.array([2.0, 3.0])).tolist() == [1.0, 1.0]
    ```
    """
    if isinstance(inverse, LowRank):
        return stretched(inverse, inverse.scale * q)
    return inverse @ q if inverse.ndim == 2 else inverse * q


def pull_back(factor: Factor, gradient: Vector) -> Vector:
    """A gradient by the target's coordinates as one by whitened coordinates.

    ```python
    from bayeshybrid.inference.whitening import pull_back
    assert pull_back(jnp.array([2.0, 3.0]), jnp.ones(2)).tolist() == [2.0, 3.0]
    ```
    """
    if isinstance(factor, LowRank):
        return stretched(factor, factor.scale * gradient)
    return factor.T @ gradient if factor.ndim == 2 else factor * gradient


def push_back(inverse: Factor, gradient: Vector) -> Vector:
    """A gradient by whitened coordinates as one by the target's own, by the inverse of the factor.

    ```python
    from bayeshybrid.inference.whitening import push_back
    assert push_back(jnp.array([0.5, 1 / 3]), jnp.array([2.0, 3.0])).tolist() == [1.0, 1.0]
    ```
    """
    if isinstance(inverse, LowRank):
        return inverse.scale * stretched(inverse, gradient)
    return pull_back(inverse, gradient)


def square(z: Vector, dense: bool) -> Array:
    """The outer product of a position with itself, or its diagonal.

    ```python
    from bayeshybrid.inference.whitening import square
    assert square(jnp.array([1.0, 2.0]), dense=True).tolist() == [[1.0, 2.0], [2.0, 4.0]]
    ```
    """
    return jnp.outer(z, z) if dense else z**2


def renewed(factor: Array, basin: Array, count: Array, total: Array, squares: Array) -> Array:
    """Factors from draws, one row a chain, pooled within each basin and shrunk towards the last factors.

    In whitened coordinates the last covariance is the identity; the weights are Stan's (Stan Development Team,
    reference manual, "HMC algorithm parameters"). A factor that would not be finite stays as it was.

    **Arguments:**

    - `factor`: the last factors, `(chain, d, d)` or `(chain, d)`.
    - `basin`: the basin of each chain.
    - `count`, `total`, `squares`: number, sum and summed squares of whitened draws of each chain.

    ```python
    from bayeshybrid.inference.whitening import renewed
    row = jnp.ones((1, 2))
    new = renewed(row, jnp.zeros(1, int), jnp.array([995]), 0 * row, 995 * 4.0 * row)
    assert jnp.allclose(new, jnp.sqrt(0.995 * 4 + 0.005))
    ```
    """
    dense = factor.ndim == 3
    same = (basin[:, None] == basin[None, :]).astype(factor.dtype)
    number = same @ count.astype(factor.dtype)
    each = count.reshape((-1,) + (1,) * (squares.ndim - 1))
    mean = total / count[:, None]
    scatter = squares / each - jax.vmap(lambda m: square(m, dense))(mean)
    pooled = jnp.einsum("ab,b...->a...", same / same.sum(axis=1, keepdims=True), scatter)
    weight = (number / (number + PSEUDO_DRAWS)).reshape((-1,) + (1,) * (pooled.ndim - 1))
    if dense:
        identity = jnp.eye(factor.shape[1], dtype=factor.dtype)[None]
        new = jnp.matmul(factor, jnp.linalg.cholesky(weight * pooled + (1 - weight) * identity))
    else:
        new = factor * jnp.sqrt(weight * pooled + (1 - weight))
    sound = jnp.all(jnp.isfinite(new), axis=tuple(range(1, new.ndim)), keepdims=True)
    return jnp.where(sound, new, factor)
