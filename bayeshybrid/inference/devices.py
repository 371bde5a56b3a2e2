"""Chains laid side by side over devices, one program for all of them.

With several processes (`hosts`) these are the devices of all. Each process then holds all rows of a state and of what
a program returns, since an array that lies in part elsewhere cannot be read.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import jax
import jax.extend.core
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from bayeshybrid import configuration
from bayeshybrid.inference import hosts

CHAINS = PartitionSpec("chains")
EVERYWHERE = PartitionSpec()

WAITING = frozenset(
    "cholesky cholesky_update eig eigh fft geqp3 geqrf hessenberg householder_product lu ormqr schur svd "
    "triangular_solve tridiagonal tridiagonal_solve".split()
)

__all__ = ["mesh_of", "over_devices", "settled", "spread_over"]


@lru_cache(maxsize=32)
def mesh_of(chains: int, most: int | None = None, alone: bool = False) -> Mesh:
    """As many local devices as divide the chains evenly, at most so many.

    Of several processes each gives equally many, at most so many, and no more than shorten the work; with `alone` each
    keeps to its own.

    ```python
    from bayeshybrid.inference.devices import mesh_of
    assert 4 % mesh_of(4).size == 0
    ```
    """
    if hosts.several() and not alone:
        devices = _of_all_processes(chains, most)
    else:
        devices = jax.local_devices()[:most]
        devices = devices[: max(n for n in range(1, len(devices) + 1) if chains % n == 0)]
    return jax.make_mesh((len(devices),), ("chains",), devices=devices, axis_types=(AxisType.Auto,))


def _of_all_processes(chains, most):
    """Every process takes part, be there fewer chains: one without a device in the mesh could not read the results."""
    each = [own[:most] for own in hosts.of_each_process()]
    counts = range(1, min(map(len, each)) + 1)
    count = min(counts, key=lambda n: -(-chains // (n * len(each))))
    return [device for own in each for device in own[:count]]


def spread_over(state: Any) -> int:
    """Over how many devices the rows of a state lie.

    ```python
    from bayeshybrid.inference.devices import spread_over
    assert spread_over(jnp.arange(4.0)) == 1
    ```
    """
    return len(jax.tree.leaves(state)[0].devices())


def settled(state: Any) -> Any:
    """A state, one row a chain, laid out over the devices as its program returns it, so as to compile it once.

    ```python
    from bayeshybrid.inference.devices import settled
    assert settled(np.arange(4.0)).shape == (4,)
    ```
    """
    mesh = mesh_of(len(jax.tree.leaves(state)[0]))
    if hosts.several():
        return _everywhere(state, mesh)
    return jax.device_put(jax.tree.map(np.asarray, state), NamedSharding(mesh, CHAINS))


def over_devices(function: Callable[..., Any], chains: int, alone: bool = False) -> Callable[..., Any]:
    """`function(target, state, *rest)` compiled once, with the rows of the state spread over the devices.

    Each device runs its own chains and waits for no other; what comes back has the chains in front. A program with
    matrix decompositions or Fourier transforms runs on one device: on CPUs these wait for threads of a pool that all
    devices share, and where all of them wait nothing goes on (seen to hang with two). Of several processes each
    gives one device to such a program. With `alone` a process computes all rows on its own devices.

    ```python
    from bayeshybrid.inference.devices import over_devices
    double = over_devices(lambda target, state: target * state, 4)
    assert double(2.0, jnp.arange(4.0)).tolist() == [0.0, 2.0, 4.0, 6.0]
    ```
    """
    programs: dict[Any, tuple[Mesh, Callable[..., Any]]] = {}
    whole = _Whole()

    def run(target, state, *rest):
        leaves, tree = jax.tree.flatten((target, state, rest))
        key = (tree, tuple((np.shape(x), jnp.result_type(x)) for x in leaves))
        if key not in programs:
            programs[key] = _compiled(function, chains, alone, target, state, rest)
        mesh, program = programs[key]
        if hosts.several() and not alone:
            return _gathered(program(*_everywhere((target, state, *rest), mesh)), mesh, chains)
        if mesh.size < mesh_of(chains, alone=alone).size:
            state = jax.device_put(state, NamedSharding(mesh, CHAINS))
        return program(whole.on(mesh, target), state, *rest)

    return run


class _Whole:
    """The last target as it lies on every device: to lay it there anew at each call takes as long as some gradients."""

    def __init__(self):
        self.last, self.mesh, self.laid = lambda: None, None, None

    def on(self, mesh, target):
        if not hasattr(target, "__weakref__"):
            return target
        if self.last() is not target or self.mesh is not mesh:
            self.last, self.mesh = weakref.ref(target, self._forget), mesh
            self.laid = jax.device_put(target, NamedSharding(mesh, EVERYWHERE))
        return self.laid

    def _forget(self, _):
        self.laid = None


def _compiled(function, chains, alone, target, state, rest):
    """The devices on which it may run, and the program."""
    mesh = mesh_of(chains, alone=alone)
    traced = _traced(function, target, _part_of_one(state, mesh.size), *rest)
    if mesh.size > 1 and _waits(traced[0].jaxpr):
        mesh = mesh_of(chains, 1, alone)
        traced = _traced(function, target, _part_of_one(state, mesh.size), *rest)
    program, results = traced

    def one(*arguments):
        leaves = jax.extend.core.jaxpr_as_fun(program)(*jax.tree.leaves(arguments))
        return jax.tree.unflatten(jax.tree.structure(results), leaves)

    one.__name__ = function.__name__
    places = (EVERYWHERE, CHAINS, *(EVERYWHERE for _ in rest))
    spread = jax.shard_map(one, mesh=mesh, in_specs=places, out_specs=CHAINS, check_vma=False)
    whole = spread if chains % mesh.size == 0 else _filled_up(spread, chains, mesh.size)
    return mesh, jax.jit(whole, compiler_options=configuration.compile_options())


def _part_of_one(state, devices):
    """The shapes of one device's part of the state."""
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct((-(-x.shape[0] // devices), *x.shape[1:]), x.dtype), state
    )


def _filled_up(spread, chains, devices):
    """The program with rows that come twice, so that every device has as many; `_gathered` cuts them off."""
    rows = np.arange(-(-chains // devices) * devices) % chains

    def run(target, state, *rest):
        return spread(target, jax.tree.map(lambda x: x[rows], state), *rest)

    return run


def _everywhere(tree, mesh):
    """Arrays that every process holds, laid whole on each device of the mesh."""

    def laid(x):
        x = np.asarray(x, jnp.result_type(x))
        return jax.make_array_from_callback(x.shape, NamedSharding(mesh, EVERYWHERE), lambda at: x[at])

    return jax.tree.map(laid, tree)


def _gathered(results, mesh, chains):
    """What the devices of all processes returned, whole on each of them.

    They meet before: to connect for the first time XLA gives them 30 s, and they may end further apart.
    """
    jax.block_until_ready(results)
    hosts.first(0.0)
    return jax.block_until_ready(_whole(mesh, chains)(results))


@lru_cache(maxsize=32)
def _whole(mesh, chains):
    """One program that gives every device all rows."""
    everywhere = NamedSharding(mesh, EVERYWHERE)
    return jax.jit(lambda tree: jax.tree.map(lambda x: x[:chains], tree), out_shardings=everywhere)


def _traced(function, *arguments):
    """`function` as it is traced outside of any mesh, and the shapes of its results.

    Inside of one, the backward pass of a diffrax solve sees arrays that know of the mesh beside arrays that do
    not, and equinox 0.13 refuses them ("called with different dynamic arguments").
    """
    return jax.make_jaxpr(function, return_shape=True)(*arguments)


def _waits(jaxpr):
    """Whether a program calls something that waits for threads of the shared pool."""
    return any(
        equation.primitive.name in WAITING
        or any(map(_waits, jax.extend.core.jaxprs_in_params(equation.params)))
        for equation in jaxpr.eqns
    )
