"""Initial value problems as a pure function: solve, know whether it worked, and differentiate.

`solve` may be mapped, jitted and differentiated. Nothing raises once it is compiled: a solve that fails
says why in its `reason`, and its rows are NaN from the failure on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from types import MethodType
from typing import Any, Literal, NamedTuple, cast

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.custom_derivatives import SymbolicZero
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Bool, Float, Int, PyTree

from bayeshybrid.faults import ModelError
from bayeshybrid.science import events, lean
from bayeshybrid.science.inputs import Doses, Forcing, binding
from bayeshybrid.science.punctuated import instantiate
from bayeshybrid.science.reasons import Reason, describe
from bayeshybrid.science.stepping import Problem, integrate, step_ends

Field = Callable[[Any, Any, Any], Any]
Sensitivities = Literal["auto", "forward", "reverse"]

__all__ = [
    "Reason", "Solution", "Steps", "accepted_steps", "constant", "describe", "outlined", "solve", "uncompiled",
]  # fmt: skip

# A context of JAX's own, so that a jitted function of the model's is not taken from its cache in outline.
_outline = jax.make_user_context(default_value=False)
_constant = jax.make_user_context(default_value=False)

# Up to this many differentiated numbers the Jacobian is carried along with the solution; above it the
# solution is differentiated backwards. Lotka-Volterra, 20 times, microseconds per gradient and lane, four
# lanes, loops compiled whole: 8 inputs 113 forward and 77 backward, 22 inputs 401 and 140, 42 inputs 2833
# and 182; loops run op by op: 8 inputs 332 and 715. Forward compiles in less than half the time.
FORWARD_INPUTS = 8

# A tolerance below this many units of rounding only makes the controller chase rounding errors.
ROUNDINGS_IN_TOLERANCE = 8


class Solution(NamedTuple):
    """What a solve gives.

    - `ys`: the states in the order of the times asked for, `(len(times), *y0.shape)`; NaN from a failure on.
    - `ok`: whether every time was reached.
    - `steps`: steps tried, rejected ones included.
    - `reason`: a code of `Reason`.
    - `defect`: how far a relaxed solve is from a solution, see `science.relaxed`; `None` for a solution.
    """

    ys: Float[Array, "times ..."]
    ok: Bool[Array, ""]
    steps: Int[Array, ""]
    reason: Int[Array, ""]
    defect: Any = None


class Steps(NamedTuple):
    """Where an adaptive solve stepped.

    - `ends`: the ends of its accepted steps, infinite behind the last.
    - `fixed`: the times at which steps must end whatever their length, in no order: start, times wanted, jumps.
    - `stops`: those times of `fixed`, and the last of all, before which a step may have been cut short.
    - `ok`: whether the last time was reached.
    """

    ends: Float[Array, " steps"]
    fixed: Float[Array, " fixed"]
    stops: Float[Array, " stops"]
    ok: Bool[Array, ""]


def outlined() -> AbstractContextManager[None]:
    """While this is open a solve is checked but not traced: it answers with its start at every time.

    Enough where only shapes are asked for: neither the solver nor the values of inputs are looked at.

    ```python
    from bayeshybrid.science import ode
    with ode.outlined():
        found = ode.solve(lambda t, y, rate: -rate * y, 2.0, jnp.array([0.0, 1.0]), 0.0, 0.5)
    assert found.ys.tolist() == [2.0, 2.0]
    ```
    """
    return _outline(True)


def constant() -> AbstractContextManager[None]:
    """While this is open a solution counts as a constant: nothing is differentiated through it.

    For derivatives that do not pass through solutions: to find out that they do not is as much work as to find them.

    ```python
    from bayeshybrid.science import ode
    def total(rate):
        with ode.constant():
            return rate + ode.solve(lambda t, y, k: -k * y, 2.0, jnp.array([1.0]), 0.0, rate).ys.sum()
    assert jax.grad(total)(0.5) == 1.0
    ```
    """
    return _constant(True)


def uncompiled(field: Field) -> Field:
    """The function behind a field that is decorated with `jax.jit`.

    Inside a solve compiling it once more gains nothing, and hides which forcings and networks it calls.

    ```python
    from bayeshybrid.science import ode
    assert ode.uncompiled(jax.jit(abs)) is abs and ode.uncompiled(abs) is abs
    ```
    """
    compiled = isinstance(field, jax.stages.Wrapped) and not isinstance(field, MethodType)
    return cast(Any, field).__wrapped__ if compiled else field


def _whole(value: Any) -> Any:
    return jnp.asarray(value) if isinstance(value, (np.ndarray, np.generic)) else value


def _check_tolerances(rtol: Any, atol: Any, dtype: Any) -> None:
    if isinstance(rtol, Tracer) or isinstance(atol, Tracer):
        return
    rtol, atol = float(rtol), float(atol)
    if not (0 <= rtol < np.inf and 0 <= atol < np.inf and rtol + atol > 0):
        raise ModelError(f"rtol={rtol:g}, atol={atol:g}: write two finite numbers of which one is positive")
    least = ROUNDINGS_IN_TOLERANCE * float(jnp.finfo(dtype).eps)
    if max(rtol, atol) < least:
        mend = "use 64-bit numbers, or" if jnp.finfo(dtype).bits < 64 else "write"
        raise ModelError(
            f"rtol={rtol:g}, atol={atol:g} are below what {np.dtype(dtype).name} can give: "
            f"{mend} a tolerance of at least {least:.1g}"
        )


def _check_slope(slope: PyTree, y0: Array, labels: tuple[str, ...]) -> None:
    state = f"state is {y0.shape}" + (": " + ", ".join(labels) if labels else "")
    if not hasattr(slope, "shape"):
        raise ModelError(
            f"field returned {_kind(slope)}, {state}; write `return jnp.stack([...])` in the state's order"
        )
    if slope.shape != y0.shape:
        raise ModelError(f"field returned {slope.shape}, {state}")
    if not (jnp.issubdtype(slope.dtype, jnp.floating) or jnp.issubdtype(slope.dtype, jnp.integer)):
        raise ModelError(f"field returned {slope.dtype} numbers, {state} of {y0.dtype}")


def _kind(slope: PyTree) -> str:
    size = f" of {len(slope)}" if isinstance(slope, (tuple, list, dict)) else ""
    return f"a {type(slope).__name__}{size}"


def _hoist(
    field: Field, y0: Array, t0: Array, args: PyTree, forcings: PyTree, labels: tuple[str, ...]
) -> tuple[PyTree, PyTree]:
    """Arrays of the field, of its closure, of `args` and of forcings, and the rest, so that every input is in sight."""

    arrays, others = eqx.partition((jax.tree.map(_whole, args), forcings), eqx.is_array)

    def checked(t, y, arrays):
        args, forcings = eqx.combine(arrays, others)
        with binding(forcings):
            slope = field(t, y, args)
        slope = jnp.asarray(slope) if isinstance(slope, (int, float, np.ndarray)) else slope
        _check_slope(slope, y, labels)
        return slope.astype(y.dtype)

    hoisted = eqx.filter_closure_convert(checked, t0, y0, arrays)
    return eqx.partition((hoisted, arrays), eqx.is_array)


def _moved(
    problem: Problem, sign: float, ys: Array, times: Array, inputs: PyTree, seen: Array | None = None
) -> Array:
    """`ys` unchanged, with the derivative by the time at which each row stands, or is `seen` beside a jump.

    A state read at a later time moves along the field; a state declared at a later start is, seen from
    the old start, moved against it. Both are exact for the equation itself, and the discretisation need
    not be differentiated by time.
    """

    @jax.custom_jvp
    def moved(ys, times, inputs):
        return ys

    def rule(primals, tangents):
        (ys, times, inputs), (ys_dot, times_dot, _) = primals, tangents
        ys_dot = instantiate(ys_dot)
        if isinstance(times_dot, SymbolicZero):
            return ys, ys_dot
        slopes = jax.vmap(problem.slope, in_axes=(0, 0, None))(times if seen is None else seen, ys, inputs)
        return ys, ys_dot + sign * slopes * jnp.expand_dims(times_dot, range(1, ys.ndim))

    moved.defjvp(rule, symbolic_zeros=True)
    return moved(ys, times, inputs)


def _forward(
    problem: Problem, y0: Array, inputs: PyTree, times: Array, t0: Array, flaw: Any
) -> tuple[Array, Array, Array]:
    """The solve with its own Jacobian as derivative rule.

    The rule is linear in the tangent, so reverse mode works outside; and it belongs to this one solve, so
    under `jax.vmap` each lane carries its own inputs only.
    """
    floating, rest = eqx.partition(inputs, eqx.is_inexact_array)
    leaves, tree = jax.tree.flatten((y0, floating))

    def run(leaves, rest, times, t0, flaw):
        y0, floating = jax.tree.unflatten(tree, leaves)
        ys, steps, reason = integrate(
            problem, diffrax.ForwardMode(), y0, eqx.combine(floating, rest), times, t0, flaw
        )
        # As floating numbers, because integers would ask for tangents of a type of their own.
        return ys, jax.lax.stop_gradient(jnp.stack([steps, reason]).astype(times.dtype))

    value = jax.custom_jvp(run)

    def rule(primals, tangents):
        leaves, *others = primals
        moving = [i for i, tangent in enumerate(tangents[0]) if not isinstance(tangent, SymbolicZero)]
        if not moving:
            ys, status = run(leaves, *others)
            return (ys, status), (jnp.zeros_like(ys), jnp.zeros_like(status))
        packed, unpack = ravel_pytree([leaves[i] for i in moving])
        direction, _ = ravel_pytree([tangents[0][i] for i in moving])

        def of_packed(packed):
            changed = list(leaves)
            for i, leaf in zip(moving, unpack(packed), strict=True):
                changed[i] = leaf
            return run(changed, *others)

        def column(basis):
            return jax.jvp(of_packed, (packed,), (basis,), has_aux=True)

        ys, jacobian, status = jax.vmap(column, out_axes=(None, -1, None))(
            jnp.eye(packed.size, dtype=packed.dtype)
        )
        return (ys, status), ((jacobian @ direction).astype(ys.dtype), jnp.zeros_like(status))

    value.defjvp(rule, symbolic_zeros=True)
    ys, status = value(leaves, rest, times, t0, flaw)
    steps, reason = status.astype(jnp.int32)
    return ys, steps, reason


def _reverse(
    problem: Problem, y0: Array, inputs: PyTree, times: Array, t0: Array, flaw: Any
) -> tuple[Array, Array, Array]:
    return integrate(problem, diffrax.RecursiveCheckpointAdjoint(), y0, inputs, times, t0, flaw)


def _chosen(sensitivities: Sensitivities, y0: Array, inputs: PyTree, outside: PyTree = None) -> Callable:
    """Forward or reverse, by the count of numbers that could be differentiated: traced floating ones.

    What comes from `outside`, doses and forcing, is data as a rule: it counts only where it is seen to be
    differentiated.
    """
    traced = [x for x in jax.tree.leaves((y0, inputs)) if isinstance(x, Tracer)]
    traced += [x for x in jax.tree.leaves(outside) if _differentiated(x)]
    if any(jnp.issubdtype(x.dtype, jnp.complexfloating) for x in traced):
        return _reverse
    if sensitivities == "auto":
        count = sum(x.size for x in traced if jnp.issubdtype(x.dtype, jnp.floating))
        sensitivities = "forward" if count <= FORWARD_INPUTS else "reverse"
    return {"forward": _forward, "reverse": _reverse}[sensitivities]


def _differentiated(x: Any) -> bool:
    """Whether a number carries a derivative, through any mapping around it, as far as its tracer tells."""
    while isinstance(x, Tracer):
        if type(x).__name__ in ("JVPTracer", "LinearizeTracer"):
            return True
        x = getattr(x, "val", None)
    return False


def solve(
    field: Field,
    y0: Any,
    times: Any,
    t0: Any,
    args: PyTree = None,
    *,
    rtol: Any = 1e-6,
    atol: Any = 1e-6,
    solver: diffrax.AbstractSolver | None = None,
    max_steps: int = 4096,
    labels: tuple[str, ...] = (),
    inputs: Sequence[Doses | Forcing] = (),
    sensitivities: Sensitivities = "auto",
    grid: Any = None,
) -> Solution:
    """Solves dy/dt = field(t, y, args) from y(t0) = y0 and reads it at `times`.

    Derivatives go to `y0`, `t0`, `times`, the floating leaves of `args` and every array that the field
    closes over. Few of them: the solve carries its own Jacobian forward. Many: it is differentiated
    backwards (the discrete adjoint with recursive checkpoints). Derivatives by `t0` and `times` are those
    of the equation, `dy/dtimes = field` and `dy/dt0 = -(dy/dy0) field(t0, y0)`. A failed solve may have
    NaN derivatives.

    **Arguments:**

    - `field`: `field(t, y, args)` gives dy/dt in the shape of `y`; units of the state by units of time.
    - `y0`: the state at `t0`, shape `(n,)` or `()`.
    - `times`: when the state is wanted, shape `(times,)`; unsorted or repeated as they come, none before
      `t0`. A time equal to `t0` gives `y0` exactly.
    - `t0`: the time to which `y0` belongs.
    - `args`: handed to the field; any pytree, Equinox modules included.
    - `rtol`, `atol`: relative and absolute tolerance of one step; `atol` has the unit of the state.
    - `solver`: a diffrax solver, explicit or implicit, with an error estimate; `diffrax.Tsit5()` if none
      is given.
    - `max_steps`: after so many steps, refused ones included, the solve counts as failed; each time at which an
      input jumps allows for two more.
    - `labels`: names of the components, for messages and for doses that name where they enter.
    - `inputs`: doses and forcings of this one unit. A forcing that the field closes over or finds in `args`
      answers with the arrays given here. Derivatives by the times of jumps are those of the equation, as for
      `times`. A state wanted at the time of a dose is the one just before it.
    - `sensitivities`: `"forward"` or `"reverse"` to overrule the choice by count. Reverse mode outside
      works with either; forward mode outside (`jax.jvp`) only with `"forward"`.
    - `grid`: `(n + 1,)`, where steps end, sorted, with `t0`, every time and every jump among them. The solve then
      makes these steps whatever its error (see `science.lean`). Derivatives by the times of jumps are zero.

    **Returns:** a `Solution`. It never raises under `jax.jit`; see `Reason` for how a solve can fail.

    **Raises:** `ModelError` at trace time where the field does not return the state's shape, where shapes of `y0`,
    `times` or `t0` are impossible, a tolerance is below what the precision can give, or the solver can use no grid.

    Tsitouras (2011), doi:10.1016/j.camwa.2011.06.002, by way of diffrax (Kidger 2022, arXiv:2202.02435).

    ```python
    from bayeshybrid.science import ode

    decay = ode.solve(lambda t, y, rate: -rate * y, 2.0, jnp.array([0.0, 1.0]), 0.0, 0.5)
    assert jnp.allclose(decay.ys, 2.0 * jnp.exp(jnp.array([0.0, -0.5])), rtol=1e-5)
    ```
    """
    y0, times, t0 = _state_and_times(y0, times, t0)
    _check_tolerances(rtol, atol, y0.dtype)
    events.check(inputs, y0.size, labels)
    problem, arrays = _problem(field, y0, t0, args, labels, inputs, solver, rtol, atol, max_steps)
    if len(times) == 0:
        return Solution(jnp.zeros((0, *y0.shape), y0.dtype), jnp.array(True), *jnp.zeros((2,), jnp.int32))

    if _constant.value:
        floating, rest = eqx.partition((y0, times, t0, arrays, tuple(inputs)), eqx.is_inexact_array)
        floating = jax.tree.map(jnp.asarray, jax.lax.stop_gradient(floating))
        y0, times, t0, arrays, inputs = eqx.combine(floating, rest)
    if _outline.value:
        ys = jnp.broadcast_to(y0, (len(times), *y0.shape))
        return Solution(ys, jnp.array(True), *jnp.zeros((2,), jnp.int32))

    every, seen, begin, flaw = _events(inputs, arrays, y0.size, labels, times, t0)
    start = _moved(problem, -1.0, y0[None], t0[None], every)[0]
    if grid is None:
        order = jnp.argsort(seen)
        run = _chosen(sensitivities, y0, arrays, every[1])
        ys, steps, reason = run(problem, start, every, seen[order], begin, flaw)
        ys = ys[jnp.argsort(order)]
    else:
        ys, steps, reason = lean.integrate(problem, grid, start, every, seen, begin, flaw)

    rows = tuple(range(1, ys.ndim))
    finite = jnp.all(jnp.isfinite(ys), axis=rows)
    reason = jnp.where((reason == Reason.SOLVED) & ~jnp.all(finite), Reason.NOT_FINITE, reason)
    lost = (
        ~finite | (reason == Reason.BEFORE_START) | (reason == Reason.NOT_FINITE) & (steps == 0) | (flaw > 0)
    )
    ys = jnp.where(jnp.expand_dims(seen == begin, rows), start, ys)
    ys = _moved(problem, 1.0, ys, times, every, seen)
    ys = jnp.where(jnp.expand_dims(lost, rows), jnp.nan, ys)
    return Solution(ys, reason == Reason.SOLVED, steps, reason)


def accepted_steps(
    field: Field,
    y0: Any,
    times: Any,
    t0: Any,
    args: PyTree = None,
    *,
    labels: tuple[str, ...] = (),
    inputs: Sequence[Doses | Forcing] = (),
    **settings: Any,
) -> Steps:
    """Where the adaptive solve with these arguments steps; see `solve` for them, tolerances and solver included.

    ```python
    from bayeshybrid.science import ode
    found = ode.accepted_steps(lambda t, y, rate: -rate * y, 2.0, jnp.array([1.0]), 0.0, 0.5)
    assert found.ok and jnp.max(jnp.where(found.ends < jnp.inf, found.ends, 0.0)) == 1.0
    ```
    """
    y0, times, t0 = _state_and_times(y0, times, t0)
    problem, arrays = _problem(field, y0, t0, args, labels, inputs, **settings)
    every, seen, begin, flaw = _events(inputs, arrays, y0.size, labels, times, t0)
    ends, ok = step_ends(problem, y0, every, jnp.sort(seen), begin, flaw)
    last = jnp.max(seen)
    jumps = jnp.zeros(0, t0.dtype) if every[1] is None else every[1].stops
    stops = jnp.append(jnp.where((t0 < jumps) & (jumps < last), jumps, last), last)
    return Steps(ends, jnp.concatenate([t0[None], seen, stops]), stops, ok)


def _problem(field, y0, t0, args, labels, inputs, solver=None, rtol=1e-6, atol=1e-6, max_steps=4096):
    """The field without its arrays and how to solve it, and those arrays."""
    forcings = tuple(each for each in inputs if isinstance(each, Forcing))
    arrays, static = _hoist(uncompiled(field), y0, t0, args, forcings, labels)
    solver = diffrax.Tsit5() if solver is None else solver
    return Problem(static, solver, rtol, atol, int(max_steps)), arrays


def _events(inputs, arrays, size, labels, times, t0):
    """What the field is given with what happens at known times, where states are read, the start, and a flaw."""
    seen, begin = jax.lax.stop_gradient((times, t0))
    if not inputs:
        return (arrays, None), seen, begin, 0
    end = jnp.max(seen)
    happenings = events.gather(inputs, size, labels, begin, end)
    flaw = jnp.max(jax.lax.stop_gradient(events.flaws(inputs, begin, end))[:, 0]).astype(jnp.int32)
    seen, begin = events.seen_at(happenings, seen, begin, end)
    return (arrays, happenings), seen, begin, flaw


def _state_and_times(y0: Any, times: Any, t0: Any) -> tuple[Array, Array, Array]:
    """The three as arrays of one floating dtype, the widest among them: years need the digits of times."""
    y0, times, t0 = jnp.asarray(y0), jnp.asarray(times), jnp.asarray(t0)
    if y0.ndim > 1 or y0.size == 0:
        raise ModelError(f"y0 has shape {y0.shape}; write a vector (n,) or a single number, n at least 1")
    if times.ndim != 1:
        raise ModelError(f"times has shape {times.shape}; write a vector (times,)")
    if t0.ndim != 0:
        raise ModelError(f"t0 has shape {t0.shape}; write one number, or map over it")
    with jax.numpy_dtype_promotion("standard"):
        dtype = jnp.result_type(y0, times, t0)
    if not jnp.issubdtype(dtype, jnp.floating):
        dtype = jnp.zeros(()).dtype
    return y0.astype(dtype), times.astype(dtype), t0.astype(dtype)
