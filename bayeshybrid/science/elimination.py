"""Small linear systems inside of loops, without LAPACK: a call of it keeps XLA from compiling the loop whole."""

from __future__ import annotations

from typing import Any

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import lineax
from jaxtyping import Array, Float

MOST_STATES = 16  # a gradient of a solve on a grid keeps the inverse of each of its steps

__all__ = ["MOST_STATES", "inverse", "product", "without_lapack"]


def product(matrix: Float[Array, "rows n"], vector: Float[Array, " n"]) -> Float[Array, " rows"]:
    """Matrix times vector, as a sum: a call of a library for it would keep XLA from compiling the loop around it whole.

    ```python
    from bayeshybrid.science.elimination import product
    matrix = jnp.array([[0.0, 2.0], [1.0, 3.0]])
    assert product(matrix, jnp.ones(2)).tolist() == [2.0, 4.0]
    ```
    """
    return (matrix * vector[None]).sum(axis=-1)


@jax.custom_jvp
def inverse(matrix: Float[Array, "n n"]) -> Float[Array, "n n"]:
    """The inverse of a small matrix, by Gauss-Jordan elimination with row pivoting and without a call of LAPACK.

    A product with it is as accurate as a solve with the factors, for all but contrived right-hand sides (Druinsky and
    Toledo 2012, arXiv:1201.6035). Somewhere NaN where the matrix is singular. Derivatives, of any order, come from the
    inverse again and not from the elimination.

    ```python
    from bayeshybrid.science.elimination import inverse
    matrix = jnp.array([[0.0, 2.0], [1.0, 3.0]])
    assert jnp.allclose(inverse(matrix) @ matrix, jnp.eye(2), atol=1e-6)
    ```
    """
    size = len(matrix)
    rows = jnp.arange(size)

    def eliminate(column, carry):
        both, order = carry
        at = jax.lax.dynamic_index_in_dim(both, column, axis=1, keepdims=False)
        sizes = jnp.where(order < 0, jnp.abs(at), -1.0)
        # Not argmax, which XLA compiles into a loop of its own.
        pivot = rows == jnp.min(jnp.where(sizes == jnp.max(sizes), rows, size))
        row = jnp.where(pivot[:, None], both, 0.0).sum(axis=0) / jnp.where(pivot, at, 0.0).sum()
        both = jnp.where(pivot[:, None], row[None], both - at[:, None] * row[None])
        return both, jnp.where(pivot, column, order)

    both = jnp.concatenate([matrix, jnp.eye(size, dtype=matrix.dtype)], axis=1)
    both, order = jax.lax.fori_loop(0, size, eliminate, (both, jnp.full(size, -1)))
    chosen = order[None] == rows[:, None]
    return jnp.where(chosen[:, :, None], both[None, :, size:], 0.0).sum(axis=1)


@inverse.defjvp
def _inverse_rule(primals, tangents):
    inverted = inverse(*primals)
    columns = jax.vmap(product, in_axes=(None, 1), out_axes=1)
    return inverted, -columns(columns(inverted, tangents[0]), inverted)


class _Elimination(lineax.AbstractLinearSolver):
    """`inverse`, as the linear solver of a Newton iteration; the state is one array."""

    def init(self, operator, options):
        return inverse(operator.as_matrix())

    def compute(self, state, vector, options):
        return product(state, vector.ravel()).reshape(vector.shape), lineax.RESULTS.successful, {}

    def transpose(self, state, options):
        return state.T, options

    def conj(self, state, options):
        return state.conj(), options

    def assume_full_rank(self):
        return True


def without_lapack(solver: diffrax.AbstractSolver, states: int) -> diffrax.AbstractSolver:
    """The same solver, with its Newton steps by `inverse` where it is implicit, the states few and none were asked for.

    ```python
    import diffrax
    from bayeshybrid.science.elimination import without_lapack
    assert without_lapack(diffrax.Kvaerno5(), 3) != diffrax.Kvaerno5() == without_lapack(diffrax.Kvaerno5(), 50)
    ```
    """
    root_finder: Any = getattr(solver, "root_finder", None)
    if states > MOST_STATES or not isinstance(
        getattr(root_finder, "linear_solver", None), lineax.AutoLinearSolver
    ):
        return solver
    return eqx.tree_at(lambda s: s.root_finder.linear_solver, solver, _Elimination())
