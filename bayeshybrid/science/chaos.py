"""How fast neighbouring solutions part: the largest Lyapunov exponent, and how far ahead that lets one see."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, PyTree

from bayeshybrid.faults import ModelError
from bayeshybrid.science import ode

WINDOWS, BATCHES = 400, 20
TRANSIENT = 0.1

__all__ = ["Exponent", "horizon", "largest_exponent"]


class Exponent(NamedTuple):
    """The largest Lyapunov exponent of a solution.

    - `value`: mean rate at which the distance of neighbouring solutions grows, in one over the unit of time.
    - `error`: its standard error, from means over twentieths of the solution.
    - `ok`: whether the equation was solved all along.
    """

    value: Float[Array, ""]
    error: Float[Array, ""]
    ok: Bool[Array, ""]


def largest_exponent(
    field: Callable[[Any, Array, Any], Array],
    y0: Float[Any, " states"],
    args: PyTree = None,
    *,
    t0: float = 0.0,
    duration: float,
    rtol: float = 1e-8,
    atol: float = 1e-8,
    solver: Any = None,
) -> Exponent:
    """The rate at which solutions that start side by side part in the long run.

    The equation is solved together with its derivative along one direction, whose length is made one again and again
    (Benettin et al. 1980, "Lyapunov characteristic exponents for smooth dynamical systems", Meccanica 15, 9-30). The
    first tenth is left out: there the solution comes near its attractor, and the direction into that of fastest growth.

    **Arguments:**

    - `field`, `y0`, `args`, `t0`, `solver`, `rtol`, `atol`: as in `ode.solve`.
    - `duration`: for how long; many times what the exponent's inverse may be.

    **Returns:** an `Exponent`: above zero, by more than its error, where the system is chaotic.

    **Raises:** `ModelError` for a state that is no vector and a duration that is not above zero.

    ```python
    from bayeshybrid.science.chaos import largest_exponent
    field = lambda t, y, args: jnp.array([-0.5, -1.0]) * y
    found = largest_exponent(field, jnp.ones(2), duration=40.0, rtol=1e-5)
    assert abs(found.value + 0.5) < 1e-3
    ```
    """
    y0 = jnp.asarray(y0, dtype=float)
    if y0.ndim != 1:
        raise ModelError(f"largest_exponent(): y0 has shape {y0.shape}; write a vector (states,)")
    if not duration > 0:
        raise ModelError(f"largest_exponent(): duration = {duration} must be above zero")
    size, window = y0.size, duration / WINDOWS

    def both(t, z, args):
        slope, turning = jax.jvp(lambda y: field(t, y, args), (z[:size],), (z[size:],))
        return jnp.concatenate([slope, turning])

    def turn(carry, place):
        y, direction = carry
        begin = t0 + place * window
        start = jnp.concatenate([y, direction])
        end = ode.solve(both, start, begin[None] + window, begin, args, rtol=rtol, atol=atol, solver=solver)
        y, direction = end.ys[0, :size], end.ys[0, size:]
        length = jnp.sqrt(jnp.sum(direction**2))
        return (y, direction / length), (jnp.log(length), end.ok)

    direction = jnp.ones(size) / np.sqrt(size)
    _, (growth, ok) = jax.lax.scan(turn, (y0, direction), jnp.arange(WINDOWS, dtype=y0.dtype))
    kept = growth[int(TRANSIENT * WINDOWS) :] / window
    batches = jnp.stack([part.mean() for part in jnp.array_split(kept, BATCHES)])
    return Exponent(kept.mean(), batches.std(ddof=1) / np.sqrt(BATCHES), jnp.all(ok))


def horizon(exponent: float, start: float, tolerated: float) -> float:
    """How far ahead a chaotic system can be foreseen: when an error at the start has grown to what is tolerated.

    `log(tolerated / start) / exponent`, in the unit of time; infinite where nothing grows. A likelihood of later times
    is rough in the parameters at a scale far below that of the start's error, and its gradient, though exact, leads
    nowhere.

    **Arguments:**

    - `exponent`: the largest Lyapunov exponent.
    - `start`, `tolerated`: errors at the start and at the end, in the unit of the state.

    **Raises:** `ModelError` for errors that are not above zero, or where the first is not the smaller.

    ```python
    from bayeshybrid.science.chaos import horizon
    assert round(horizon(0.9, 0.01, 1.0), 2) == 5.12 and horizon(-0.1, 0.01, 1.0) == float("inf")
    ```
    """
    if not 0 < start < tolerated:
        raise ModelError(
            f"horizon(): start = {start} and tolerated = {tolerated} must be above zero, and the first the smaller"
        )
    return float(np.log(tolerated / start) / exponent) if exponent > 0 else float("inf")
