"""Chains spread over devices: what is differentiated backwards inside of a mesh."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bayeshybrid.inference.devices import mesh_of, over_devices
from bayeshybrid.science import ode

CHAINS = jax.sharding.PartitionSpec("chains")


def climb(q):
    """Two steps up the gradient of a solve that is differentiated backwards, chain by chain."""

    def height(q):
        solution = ode.solve(lambda t, y, k: k - y, q[:2], jnp.ones(1), 0.0, q[2:], sensitivities="reverse")
        return solution.ys.sum()

    return jax.lax.fori_loop(0, 2, lambda i, q: q + 0.1 * jax.vmap(jax.grad(height))(q), q)


def test_a_solve_differentiated_backwards_can_be_spread_over_devices():
    """Traced before it is spread, it gives what one device gives: e^-1 and 1 - e^-1 are the derivatives."""
    spread = over_devices(lambda _, q: climb(q), 4)
    expected = 1 + 0.2 * np.array([np.exp(-1), np.exp(-1), 1 - np.exp(-1), 1 - np.exp(-1)])
    np.testing.assert_allclose(spread(0.0, jnp.ones((4, 4))), np.tile(expected, (4, 1)), rtol=1e-5)


@pytest.mark.skipif("len(jax.local_devices()) < 2", reason="needs two devices")
def test_traced_inside_of_the_mesh_it_is_refused():
    """The reason for tracing it first; once this test fails, the detour can go."""
    spread = jax.shard_map(climb, mesh=mesh_of(2), in_specs=CHAINS, out_specs=CHAINS, check_vma=False)
    with pytest.raises(ValueError, match="called with different dynamic arguments"):
        jax.jit(spread)(jnp.ones((2, 4)))


@pytest.mark.skipif("len(jax.local_devices()) < 2", reason="needs two devices")
def test_a_program_that_waits_for_shared_threads_runs_on_one_device():
    """On two, the mapped triangular solves of this program waited for each other for ever."""
    size = 57

    def solved(_, rows):
        def turn(_, x):
            return jax.scipy.linalg.solve_triangular(jnp.eye(size) + 0.01 * jnp.outer(x, x), x, lower=True)

        return jax.lax.fori_loop(0, 50, jax.vmap(turn, in_axes=(None, 0)), rows)

    there = over_devices(solved, 128)(0.0, jnp.ones((128, size)))
    assert len(there.devices()) == 1
    assert np.isfinite(there).all()
    assert len(over_devices(lambda _, rows: 2 * rows, 128)(0.0, jnp.ones((128, size))).devices()) == 2
