"""Chains laid side by side over the local devices, one program for all of them."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import jax
import jax.extend.core
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from bayeshybrid import configuration

CHAINS = PartitionSpec("chains")
EVERYWHERE = PartitionSpec()

__all__ = ["mesh_of", "over_devices", "settled"]


@lru_cache(maxsize=32)
def mesh_of(chains: int) -> Mesh:
    """As many local devices as divide the chains evenly.

    ```python
    from bayeshybrid.inference.devices import mesh_of
    assert 4 % mesh_of(4).size == 0
    ```
    """
    devices = jax.local_devices()
    count = max(n for n in range(1, len(devices) + 1) if chains % n == 0)
    return jax.make_mesh((count,), ("chains",), devices=devices[:count], axis_types=(AxisType.Auto,))


def settled(state: Any) -> Any:
    """A state, one row a chain, laid out over the devices as its program returns it, so as to compile it once.

    ```python
    from bayeshybrid.inference.devices import settled
    assert settled(np.arange(4.0)).shape == (4,)
    ```
    """
    chains = len(jax.tree.leaves(state)[0])
    return jax.device_put(jax.tree.map(np.asarray, state), NamedSharding(mesh_of(chains), CHAINS))


def over_devices(function: Callable[..., Any], chains: int) -> Callable[..., Any]:
    """`function(target, state, *rest)` compiled once, with the rows of the state spread over the devices.

    Each device runs its own chains and waits for no other; what comes back has the chains in front.

    ```python
    from bayeshybrid.inference.devices import over_devices
    double = over_devices(lambda target, state: target * state, 4)
    assert double(2.0, jnp.arange(4.0)).tolist() == [0.0, 2.0, 4.0, 6.0]
    ```
    """
    mesh = mesh_of(chains)

    def spread(target, state, *rest):
        run = _traced(function, target, _part_of_one(state, mesh.size), *rest)
        places = (EVERYWHERE, CHAINS, *(EVERYWHERE for _ in rest))
        return jax.shard_map(run, mesh=mesh, in_specs=places, out_specs=CHAINS, check_vma=False)(
            target, state, *rest
        )

    return jax.jit(spread, compiler_options=configuration.compile_options())


def _part_of_one(state, devices):
    """The shapes of one device's part of the state."""
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct((x.shape[0] // devices, *x.shape[1:]), x.dtype), state)


def _traced(function, *arguments):
    """`function` as it is traced outside of any mesh.

    Inside of one, the backward pass of a diffrax solve sees arrays that know of the mesh beside arrays that do
    not, and equinox 0.13 refuses them ("called with different dynamic arguments").
    """
    program, results = jax.make_jaxpr(function, return_shape=True)(*arguments)

    def run(*arguments):
        leaves = jax.extend.core.jaxpr_as_fun(program)(*jax.tree.leaves(arguments))
        return jax.tree.unflatten(jax.tree.structure(results), leaves)

    return run
