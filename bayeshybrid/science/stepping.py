"""One solve by diffrax, and why it ended.

diffrax supplies the solvers, their tableaus and the control of the step. Here it is kept from stalling on
a NaN, and its results become codes of ours.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, cast

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from bayeshybrid.faults import ModelError
from bayeshybrid.science.elimination import without_lapack
from bayeshybrid.science.punctuated import Punctuated, WithDoses
from bayeshybrid.science.reasons import Reason

# diffrax itself rounds a step to the end of the interval within 100 of these.
ROUNDINGS_IN_SMALLEST_STEP = 10

# Between two stops at least one step is made, and often one is refused: they do not count against the equation.
STEPS_PER_STOP = 2


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

    def field(self, t: Any, y: Array, inputs: PyTree) -> Array:
        """What the field says, given the arrays that were taken out of it."""
        field, arrays = eqx.combine(inputs[0], self.static)
        return field(t, y, arrays)

    def slope(self, t: Any, y: Array, inputs: PyTree) -> Array:
        """dy/dt: the field and what infusions add."""
        slope = self.field(t, y, inputs)
        return slope if inputs[1] is None else slope + inputs[1].inflow(t).reshape(y.shape)


def _reason(problem: Problem, solution: diffrax.Solution, punctuated: bool) -> Array:
    """diffrax's result as a code of ours; behind a step that could not shrink lies why it was refused."""
    state = cast(tuple, solution.controller_state)
    _, refused = state[0] if punctuated else state
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
    problem: Problem,
    adjoint: diffrax.AbstractAdjoint,
    y0: Array,
    inputs: PyTree,
    times: Array,
    t0: Array,
    flaw: Any,
) -> tuple[Array, Array, Array]:
    """States at the sorted times, the steps tried and the reason; an impossible start makes no step.

    `inputs` are the arrays of the field and the events, and `flaw` the code of what is wrong with the latter.
    Rows that were not reached are infinite.
    """
    early, finite = impossible(problem, y0, inputs, times, t0)
    able = finite & ~early & (flaw == 0)
    at = jnp.where(able, times, t0)
    solution = _solution(problem, adjoint, y0, inputs, t0, at, {"ts": at})
    ys = cast(Array, solution.ys)
    reason = _reason(problem, solution, inputs[1] is not None)
    usable = _newton_usable(problem, jnp.append(at, t0), jnp.concatenate([ys, y0[None]]), inputs)
    reason = jnp.where(usable, reason, Reason.SINGULAR)
    return ys, solution.stats["num_steps"], before_all_else(reason, early, finite, flaw)


def step_ends(
    problem: Problem, y0: Array, inputs: PyTree, times: Array, t0: Array, flaw: Any
) -> tuple[Array, Array]:
    """Where the accepted steps of a solve over the sorted times end, infinite behind the last, and whether it worked.

    Arguments as in `integrate`; nothing can be differentiated.
    """
    early, finite = impossible(problem, y0, inputs, times, t0)
    able = finite & ~early & (flaw == 0)
    at = jnp.where(able, times, t0)
    steps = {"steps": True, "fn": lambda t, y, args: jnp.zeros(())}  # the states are not wanted
    solution = _solution(problem, diffrax.RecursiveCheckpointAdjoint(), y0, inputs, t0, at, steps)
    return cast(Array, solution.ts), able & (solution.result == diffrax.RESULTS.successful)


def impossible(problem: Problem, y0: Array, inputs: PyTree, times: Array, t0: Array) -> tuple[Array, Array]:
    """Whether a time lies before the start, and whether all that a solve starts from is finite."""
    numbers = (problem.slope(t0, y0, inputs), y0, times, t0)
    return jnp.any(times < t0), jnp.stack([jnp.all(jnp.isfinite(each)) for each in numbers]).all()


def before_all_else(reason: Array, early: Array, finite: Array, flaw: Any) -> Array:
    """The reason why a solve ended, or why it could not begin."""
    reason = jnp.where(finite, reason, Reason.NOT_FINITE)
    reason = jnp.where(flaw == 0, reason, flaw)
    return jnp.where(early, Reason.BEFORE_START, reason).astype(jnp.int32)


def _solution(problem, adjoint, y0, inputs, t0, at, wanted) -> diffrax.Solution:
    """diffrax's own answer over the sorted times `at`, with what is `wanted` of it."""
    happenings = inputs[1]
    # Ten units of rounding at the larger end, so that a step is always told from none.
    rounding = jnp.finfo(at.dtype).eps * jnp.maximum(jnp.abs(t0), jnp.abs(at[-1]))
    smallest = ROUNDINGS_IN_SMALLEST_STEP * jnp.maximum(rounding, jnp.finfo(at.dtype).tiny)
    solver, max_steps = without_lapack(problem.solver, y0.size), problem.max_steps
    if happenings is None:
        controller = _Watched(problem.rtol, problem.atol, smallest)
    else:
        within = _Watched(problem.rtol, problem.atol, None)
        controller = Punctuated(within, smallest, within.rtol, within.atol, within.norm)
        solver = WithDoses(solver, problem.field)
        max_steps += STEPS_PER_STOP * len(happenings.stops)
    return diffrax.diffeqsolve(
        diffrax.ODETerm(problem.slope),
        solver,
        t0,
        at[-1],
        None,
        y0,
        inputs,
        saveat=diffrax.SaveAt(controller_state=True, **wanted),
        stepsize_controller=controller,
        adjoint=adjoint,
        max_steps=max_steps,
        throw=False,
    )
