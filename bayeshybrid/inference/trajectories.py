"""Leapfrog trajectories of many points side by side: the one program that searches and shared chains both ask.

A trajectory without length tells density and gradient where it stands. So what is compiled for the search is what
samples, and compiling is the dearest part of a short run.
"""

from __future__ import annotations

from functools import lru_cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bayeshybrid.inference import hosts
from bayeshybrid.inference.devices import over_devices, spread_over
from bayeshybrid.inference.whitening import DENSE_UP_TO, pull_back, unwhiten
from bayeshybrid.survey import in_batches
from bayeshybrid.target import Target

__all__ = ["Marched", "Points", "leapfrog", "march", "slopes"]


class Points(NamedTuple):
    """Where trajectories are, one row each.

    - `position`, `gradient`: unconstrained, `(n, size)`.
    - `momentum`: in whitened coordinates, `(n, size)`.
    - `log_density`: `(n,)`.
    """

    position: Any
    momentum: Any
    log_density: Any
    gradient: Any

    @property
    def energy(self) -> Any:
        """Half the squared momentum less the log density, `(n,)`."""
        return 0.5 * (self.momentum**2).sum(axis=1) - self.log_density


class Marched(NamedTuple):
    """Where trajectories end.

    - `points`: the ends.
    - `diverged`: which of the trajectories flew off, `(n,)`; `beyond`: where they were once they had, `(n, size)`.
    - `devices`: over how many they were spread.
    """

    points: Points
    diverged: np.ndarray
    beyond: np.ndarray
    devices: int


def slopes(target: Target, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Log density and gradient at `points`, `(n, size)`: `(n,)` and `(n, size)`; `-inf` and zero where it fails.

    ```python
    from bayeshybrid.inference.trajectories import slopes
    model = lambda y=None: numpyro.sample("y", dist.Normal(numpyro.sample("x", dist.Normal()), 1.0), obs=y)
    values, gradients = slopes(bh.Target(model, {"y": np.array(2.0)}), np.zeros((3, 1)))
    assert gradients.tolist() == [[2.0]] * 3
    ```
    """
    return in_batches(partial(_at_rest, target), points)


def _at_rest(target, rows):
    rows = np.asarray(rows)
    count, size = rows.shape
    at_rest = np.zeros_like(rows)
    start = Points(rows, at_rest, np.zeros(count), at_rest)
    factor = np.zeros((size, size) if size <= DENSE_UP_TO else size)
    end = march(target, start, factor, 1, 0.0, np.full(count, np.inf), alone=True).points
    return end.log_density, end.gradient


def march(
    target: Target, start: Points, factor: Any, steps: int, step_size: float, limit: Any, alone: bool = False
) -> Marched:
    """Where so many leapfrog steps lead from each point.

    Where the density is zero its gradient counts as zero: the map stays one that keeps volume and can be reversed.
    A trajectory whose energy rises above its `limit` flies off, and what fails out there is no fault of the model.

    **Arguments:**

    - `start`: of these the log density is not read.
    - `factor`: of the metric, `(size, size)` or `(size,)`, see `whitening`.
    - `steps`, `step_size`: the same for all.
    - `limit`: energies, `(n,)`.
    - `alone`: whether this process computes all rows, where several are joined.

    ```python
    from bayeshybrid.inference.trajectories import Points, march
    model = lambda y=None: numpyro.sample("y", dist.Normal(numpyro.sample("x", dist.Normal()), 1.0), obs=y)
    target, rest = bh.Target(model, {"y": np.array(0.0)}), np.zeros((2, 1))
    start = Points(rest, rest + 1.0, np.zeros(2), rest)
    end = march(target, start, np.ones((1, 1)), 50, 0.01, np.full(2, 1000.0))
    assert abs(end.points.position[0, 0] - np.sin(0.5 * 2**0.5) / 2**0.5) < 1e-4 and not end.diverged.any()
    ```
    """
    count, size = np.shape(start.position)
    # In one array each way: to hand one to the devices takes as long as some gradients.
    rows = np.concatenate(
        [start.position, start.momentum, start.gradient, np.reshape(limit, (count, 1))], axis=1
    )
    common = np.concatenate([[steps, step_size], np.ravel(factor)])
    ends = _program(count, alone and hosts.several())(target, rows, common)
    position, momentum, gradient, beyond, told = np.split(np.asarray(ends), size * np.arange(1, 5), axis=1)
    points = Points(position, momentum, told[:, 0], gradient)
    return Marched(points, told[:, 1] > 0, beyond, spread_over(ends))


@lru_cache(maxsize=32)
def _program(count, alone):
    """One executable for so many points, spread over the devices."""
    return over_devices(_march, count, alone)


def _march(target, rows, common):
    size = target.layout.size
    position, momentum, gradient, limit = jnp.split(rows, [size, 2 * size, 3 * size], axis=1)
    steps, step_size, factor = common[0].astype(int), common[1], common[2:]

    def slopes(position):
        return jax.vmap(jax.value_and_grad(target.log_density))(position)

    start = Points(position, momentum, jnp.zeros(len(rows), rows.dtype), gradient)
    factor = factor.reshape(size, size) if len(factor) == size**2 else factor
    end, diverged, beyond = leapfrog(slopes, start, factor, steps, step_size, limit[:, 0])
    told = jnp.stack([end.log_density, diverged.astype(rows.dtype)], axis=1)
    return jnp.concatenate([end.position, end.momentum, end.gradient, beyond, told], axis=1)


def leapfrog(slopes, start, factor, steps, step_size, limit):
    """`march` within a compiled program, with `slopes` from positions to log densities and gradients."""
    forward, back = (jax.vmap(partial(map_, factor)) for map_ in (unwhiten, pull_back))

    def step(_, carry):
        at, diverged, beyond = carry
        momentum = at.momentum + 0.5 * step_size * back(at.gradient)
        position = at.position + step_size * forward(momentum)
        log_density, gradient = slopes(position)
        momentum = momentum + 0.5 * step_size * back(gradient)
        at = Points(position, momentum, log_density, gradient)
        above = jnp.isfinite(log_density) & (at.energy > limit)
        beyond = jnp.where((above & ~diverged)[:, None], position, beyond)
        return at, diverged | above, beyond

    return jax.lax.fori_loop(0, steps, step, (start, jnp.zeros(len(limit), bool), start.position))
