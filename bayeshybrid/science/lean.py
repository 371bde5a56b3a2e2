"""Solves on a grid of steps that stands: a method with its stages written out, in one scan.

Where an explicit Runge-Kutta method is asked for its own tableau is used, and in place of an implicit one a Rosenbrock
method (`science.rosenbrock`). No step is refused, no lane waits for another, the result is a smooth function of what
enters, and XLA's CPU backend compiles the loop and its derivative whole. What such a solve cannot do is notice its own
error: the grid must have been learned from adaptive solves, and what came of it compared with them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, PyTree

from bayeshybrid.faults import ModelError
from bayeshybrid.science.elimination import MOST_STATES
from bayeshybrid.science.events import Events, after, before, moment_of
from bayeshybrid.science.reasons import Reason
from bayeshybrid.science.rosenbrock import rosenbrock_step
from bayeshybrid.science.stepping import Problem, before_all_else, impossible

# In place of an explicit method whose steps would have to be too short.
STABLE = diffrax.Kvaerno5()

__all__ = ["STABLE", "integrate", "obstacle", "obstacle_to_stability"]


def obstacle(solver: diffrax.AbstractSolver | None, states: int) -> str:
    """Why a solve with so many states cannot step on a grid, in words; empty where it can.

    ```python
    import diffrax
    from bayeshybrid.science import lean
    assert not lean.obstacle(None, 50) and not lean.obstacle(diffrax.Kvaerno5(), 3)
    assert lean.obstacle(diffrax.Kvaerno5(), 50).startswith("Kvaerno5 has 50 states")
    ```
    """
    if _tableau(solver) is not None:
        return ""
    name = type(solver).__name__
    if not isinstance(solver, diffrax.AbstractImplicitSolver):
        return f"{name} is neither an explicit Runge-Kutta method nor implicit"
    if states > MOST_STATES:
        return f"{name} has {states} states to solve for at once, more than {MOST_STATES}"
    return ""


def obstacle_to_stability(solver: diffrax.AbstractSolver | None, states: int) -> str:
    """Why an explicit method cannot give way to one that is stable with any step; empty where it can.

    ```python
    from bayeshybrid.science import lean
    assert not lean.obstacle_to_stability(None, 3) and lean.obstacle_to_stability(None, 50)
    ```
    """
    if _tableau(solver) is None:
        return f"{type(solver).__name__} is not an explicit Runge-Kutta method"
    return obstacle(STABLE, states)


def _tableau(solver: diffrax.AbstractSolver | None) -> diffrax.ButcherTableau | None:
    """The coefficients of an explicit Runge-Kutta method; `None` for any other solver."""
    found = getattr(diffrax.Tsit5() if solver is None else solver, "tableau", None)
    return found if isinstance(found, diffrax.ButcherTableau) and not found.implicit else None


def integrate(
    problem: Problem, grid: Any, y0: Array, inputs: PyTree, times: Array, t0: Array, flaw: Any
) -> tuple[Array, Array, Array]:
    """States at the times, in any order, the steps made and the reason; as `stepping.integrate`, on a given grid.

    Derivatives go to `y0` and to `inputs`, but for the times of jumps. One state that is not finite makes all of
    them NaN.
    """
    if why := obstacle(problem.solver, y0.size):
        raise ModelError(
            f"{why}, so there can be no grid: write an explicit Runge-Kutta method such as diffrax.Tsit5(), or no grid"
        )
    grid = jax.lax.stop_gradient(jnp.asarray(grid, dtype=t0.dtype))
    if grid.ndim != 1 or len(grid) < 2:
        raise ModelError(f"grid has shape {grid.shape}; write where steps end, (steps + 1,), the start first")
    happenings = inputs[1]
    starts, ends, held = _sides(grid, happenings, t0)
    chosen, found = _choice(jnp.concatenate([t0[None], ends]), times, moment_of(t0, grid[-1]))
    coefficients = _tableau(problem.solver)
    step = rosenbrock_step(problem, inputs) if coefficients is None else _step(problem, coefficients, inputs)
    _, states = jax.lax.scan(step, y0, (starts, ends, *_entering(happenings, starts, y0.shape)))
    states = jnp.concatenate([y0[None], states])
    ys = jnp.tensordot(chosen.astype(states.dtype), states, 1, precision=jax.lax.Precision.HIGHEST)
    early, finite = impossible(problem, y0, inputs, times, t0)
    reason = jnp.where(held & found, Reason.SOLVED, Reason.OFF_GRID)
    ys = jnp.where(held & found, ys, jnp.nan)
    return ys, jnp.sum(ends > starts), before_all_else(reason, early, finite, flaw)


def _sides(grid: Array, happenings: Events | None, t0: Array) -> tuple[Array, Array, Bool[Array, ""]]:
    """Where steps start and end, beside jumps just behind and just before them, and whether the grid has them all."""
    moment = moment_of(t0, grid[-1])
    held = jnp.abs(grid[0] - t0) <= moment
    if happenings is None:
        return grid[:-1], grid[1:], held
    stops, resumes = happenings.stops, happenings.resumes
    beside = jnp.abs(grid[:, None] - stops[None]) <= moment
    stop = jnp.max(jnp.where(beside, stops[None], -jnp.inf), axis=1, initial=-jnp.inf)
    resume = jnp.max(jnp.where(beside, resumes[None], -jnp.inf), axis=1, initial=-jnp.inf)
    jumps = beside.any(axis=1)
    starts = jnp.where(jumps, after(resume), grid)[:-1]
    ends = jnp.where(jumps, before(stop), grid)[1:]
    passed = (stops > t0) & (stops < grid[-1])
    return starts, ends, held & jnp.all(beside.any(axis=0) | ~passed)


def _choice(
    places: Array, times: Array, moment: Array
) -> tuple[Bool[Array, "times places"], Bool[Array, ""]]:
    """Which state is read at each time, the first of equal ones, and whether there is one for each.

    A matrix, because the transpose of indexing is a scatter, which keeps XLA from compiling the loop whole.
    """
    distance = jnp.abs(times[:, None] - places[None])
    chosen = jnp.argmin(distance, axis=1)[:, None] == jnp.arange(len(places))[None]
    return chosen, jnp.all(jnp.min(distance, axis=1) <= moment)


def _entering(
    happenings: Events | None, starts: Array, shape: tuple[int, ...]
) -> tuple[Array | None, Array | None]:
    """What doses add at the start of each step and what infusions add to its slope; `None` where there are none."""
    doses = inflow = None
    if happenings is not None and len(happenings.amounts):
        when = happenings.at[: len(happenings.amounts)]
        since = jnp.concatenate([jnp.full(1, -jnp.inf, starts.dtype), starts[:-1]])
        due = (since[:, None] < when[None]) & (when[None] <= starts[:, None])
        amounts = happenings.amounts
        doses = jnp.matmul(due.astype(amounts.dtype), amounts, precision=jax.lax.Precision.HIGHEST)
        doses = doses.reshape(-1, *shape)
    if happenings is not None and len(happenings.rates):
        inflow = jax.vmap(happenings.inflow)(starts).reshape(-1, *shape)
    return doses, inflow


def _step(problem: Problem, coefficients: diffrax.ButcherTableau, inputs: PyTree) -> Callable:
    """One step of the method, for `jax.lax.scan`; stages that only estimate the error are left out."""
    nodes = (0.0, *coefficients.c.tolist())
    rows = (np.zeros(0), *coefficients.a_lower)
    wanted = _wanted(rows, coefficients.b_sol)

    def step(y, at):
        start, end, doses, inflow = at
        y = y if doses is None else y + doses
        length = end - start
        slopes: list[Any] = []
        for node, row, used in zip(nodes, rows, wanted, strict=True):
            # At the ends exactly: a rounding further on lies a jump.
            t = start if node == 0 else end if node == 1 else start + node * length
            slope = problem.field(t, _moved_by(y, length, row, slopes), inputs) if used else None
            slopes.append(slope if slope is None or inflow is None else slope + inflow)
        # Where steps are repeated beside a jump the length is just below zero.
        y = jnp.where(length > 0, _moved_by(y, length, coefficients.b_sol, slopes), y)
        return y, y

    return step


def _wanted(rows: tuple[np.ndarray, ...], weights: np.ndarray) -> list[bool]:
    """Which stages the end of a step depends on."""
    wanted = [weight != 0 for weight in weights]
    for i in reversed(range(len(rows))):
        for j, coefficient in enumerate(rows[i]):
            wanted[j] |= wanted[i] and coefficient != 0
    return wanted


def _moved_by(y: Array, length: Array, weights: Float[np.ndarray, " stages"], slopes: list[Any]) -> Array:
    """The state after `length` along a weighted mean of slopes."""
    terms = [float(weight) * slope for weight, slope in zip(weights, slopes, strict=False) if weight != 0]
    return y + length * sum(terms[1:], terms[0]) if terms else y
