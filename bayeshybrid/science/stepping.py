"""One solve by diffrax, and why it ended.

diffrax supplies the solvers, their tableaus and the control of the step. Here it is kept from stalling on
a NaN, and its results become codes of ours.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import IntEnum
from typing import Any, NamedTuple, cast

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from bayeshybrid.faults import ModelError

# diffrax itself rounds a step to the end of the interval within 100 of these.
ROUNDINGS_IN_SMALLEST_STEP = 10


class Reason(IntEnum):
    """Why a solve ended; `SOLVED` is zero, so a sum over lanes is zero where all went well.

    `LEFT_DOMAIN` is for callers that bound the state; `solve` itself has no bounds to leave.

    ```python
    from bayeshybrid.science import ode

    assert ode.Reason.SOLVED == 0
    ```
    """

    SOLVED = 0
    MAX_STEPS = 1
    STEP_UNDERFLOW = 2
    NOT_FINITE = 3
    NEWTON_DIVERGED = 4
    SINGULAR = 5
    BEFORE_START = 6
    LEFT_DOMAIN = 7


_DESCRIPTIONS = {
    Reason.SOLVED: "solved",
    Reason.MAX_STEPS: "needed more than max_steps steps: raise max_steps, or use a stiff solver such as "
    "diffrax.Kvaerno5()",
    Reason.STEP_UNDERFLOW: "the step shrank below the resolution of time: the solution has a pole or the "
    "field a jump there, or the tolerance is too tight",
    Reason.NOT_FINITE: "the field or the state became NaN or infinite",
    Reason.NEWTON_DIVERGED: "Newton's method of the implicit solver diverged: try an explicit solver, or a "
    "smoother field",
    Reason.SINGULAR: "the Jacobian of the field is singular or not finite: an implicit solver cannot use it, "
    "try an explicit one",
    Reason.BEFORE_START: "a time lies before t0",
    Reason.LEFT_DOMAIN: "the state left its declared domain",
}


def describe(reason: int) -> str:
    """A reason code in words, with what to do about it.

    **Arguments:**

    - `reason`: a concrete code of `Reason`, for instance `int(solution.reason)`.

    ```python
    from bayeshybrid.science import ode

    assert ode.describe(0) == "solved"
    ```
    """
    return _DESCRIPTIONS[Reason(int(reason))]


class _Watched(diffrax.AbstractAdaptiveStepSizeController):
    """A PID controller that remembers why it last refused a step, and that a NaN cannot stall."""

    pid: diffrax.PIDController
    rtol: Any
    atol: Any
    norm: Callable

    def __init__(self, rtol: Any, atol: Any, smallest: Any):
        self.pid = diffrax.PIDController(rtol=rtol, atol=atol, dtmin=smallest, force_dtmin=False)
        self.rtol, self.atol, self.norm = rtol, atol, self.pid.norm

    def wrap(self, direction):
        return self

    def init(self, terms, t0, t1, y0, dt0, args, func, error_order):
        end, state = self.pid.init(terms, t0, t1, y0, dt0, args, func, error_order)
        # The automatic first step looks one Euler step ahead; where the field is not defined there it
        # is NaN, and a NaN step is never refused nor accepted but tried until max_steps.
        end = jnp.where(jnp.isfinite(end) & (end > t0), end, t0 + 1e-3 * (t1 - t0))
        return end, (state, jnp.asarray(Reason.STEP_UNDERFLOW, jnp.int32))

    def adapt_step_size(self, t0, t1, y0, y1_candidate, args, y_error, error_order, controller_state):
        if y_error is None:
            raise ModelError(
                "the solver gives no estimate of its error: write diffrax.Tsit5() or diffrax.Kvaerno5()"
            )
        state, cause = controller_state
        finite = jnp.all(jnp.isfinite(y1_candidate))
        newton_failed = jnp.all(jnp.isinf(y_error))
        # An infinite candidate would make the scale of the error infinite, the next step NaN, and the
        # solve try that step until max_steps.
        y1_candidate = jnp.where(finite, y1_candidate, y0)
        y_error = jnp.where(finite, y_error, jnp.inf)
        keep, start, end, jump, state, result = self.pid.adapt_step_size(
            t0, t1, y0, y1_candidate, args, y_error, error_order, state
        )
        refused = jnp.where(
            finite, jnp.where(newton_failed, Reason.NEWTON_DIVERGED, Reason.STEP_UNDERFLOW), Reason.NOT_FINITE
        )
        cause = jnp.where(keep, Reason.STEP_UNDERFLOW, refused).astype(jnp.int32)
        return keep, start, end, jump, (state, cause), result


class Problem(NamedTuple):
    """The field with all arrays it uses taken out of it, and how to solve it.

    - `static`: what is left of the hoisted field and its arguments without their arrays.
    - `solver`, `rtol`, `atol`, `max_steps`: as in `solve`.
    """

    static: PyTree
    solver: diffrax.AbstractSolver
    rtol: Any
    atol: Any
    max_steps: int

    def slope(self, t: Any, y: Array, inputs: PyTree) -> Array:
        """dy/dt, given the arrays that were taken out."""
        field, arrays = eqx.combine(inputs, self.static)
        return field(t, y, arrays)


def _reason(problem: Problem, solution: diffrax.Solution) -> Array:
    """diffrax's result as a code of ours; behind a step that could not shrink lies why it was refused."""
    _, refused = cast(tuple, solution.controller_state)
    if not isinstance(problem.solver, diffrax.AbstractImplicitSolver):
        refused = jnp.where(refused == Reason.NEWTON_DIVERGED, Reason.STEP_UNDERFLOW, refused)
    codes = diffrax.RESULTS
    table = (
        (codes.successful, Reason.SOLVED),
        (codes.max_steps_reached, Reason.MAX_STEPS),
        (codes.nonlinear_divergence, Reason.NEWTON_DIVERGED),
        (codes.nonlinear_max_steps_reached, Reason.NEWTON_DIVERGED),
        (codes.singular, Reason.SINGULAR),
    )
    reason = refused
    for code, meaning in table:
        reason = jnp.where(solution.result == code, meaning, reason)
    return reason.astype(jnp.int32)


def _newton_usable(problem: Problem, times: Array, ys: Array, inputs: PyTree) -> Array:
    """Whether the Jacobian is finite wherever the field is.

    Where it is infinite, diffrax's Newton step divides by infinity: the state stands still, the error
    estimate is zero, and the solve claims success.
    """
    if not isinstance(problem.solver, diffrax.AbstractImplicitSolver):
        return jnp.array(True)
    times, ys, inputs = jax.lax.stop_gradient((times, ys, inputs))

    def usable(t, y):
        slope = problem.slope(t, y, inputs)
        jacobian = jax.jacfwd(problem.slope, argnums=1)(t, y, inputs)
        return jnp.all(jnp.isfinite(jacobian)) | ~jnp.all(jnp.isfinite(slope))

    return jnp.all(jax.vmap(usable)(times, ys))


def integrate(
    problem: Problem, adjoint: diffrax.AbstractAdjoint, y0: Array, inputs: PyTree, times: Array, t0: Array
) -> tuple[Array, Array, Array]:
    """States at the sorted times, the steps tried and the reason; an impossible start makes no step.

    Rows that were not reached are infinite.
    """
    early = jnp.any(times < t0)
    numbers = (problem.slope(t0, y0, inputs), y0, times, t0)
    finite = jnp.stack([jnp.all(jnp.isfinite(each)) for each in numbers]).all()
    able = finite & ~early
    at = jnp.where(able, times, t0)
    # Ten units of rounding at the larger end, so that a step is always told from none.
    rounding = jnp.finfo(times.dtype).eps * jnp.maximum(jnp.abs(t0), jnp.abs(at[-1]))
    smallest = ROUNDINGS_IN_SMALLEST_STEP * jnp.maximum(rounding, jnp.finfo(times.dtype).tiny)
    solution = diffrax.diffeqsolve(
        diffrax.ODETerm(problem.slope),
        problem.solver,
        t0,
        at[-1],
        None,
        y0,
        inputs,
        saveat=diffrax.SaveAt(ts=at, controller_state=True),
        stepsize_controller=_Watched(problem.rtol, problem.atol, smallest),
        adjoint=adjoint,
        max_steps=problem.max_steps,
        throw=False,
    )
    ys = cast(Array, solution.ys)
    reason = _reason(problem, solution)
    usable = _newton_usable(problem, jnp.append(at, t0), jnp.concatenate([ys, y0[None]]), inputs)
    reason = jnp.where(usable, reason, Reason.SINGULAR)
    reason = jnp.where(finite, reason, Reason.NOT_FINITE)
    reason = jnp.where(early, Reason.BEFORE_START, reason)
    return ys, solution.stats["num_steps"], reason
