"""One adaptive solve that stops at known times: steps end just before a jump and begin anew behind it.

So no step holds a jump, whatever its length, and derivatives by the times of jumps are those of the equation.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero
from jaxtyping import Array, PyTree

from bayeshybrid.science.events import Events, after, before

Slope = Callable[[Any, Array, PyTree], Array]

__all__ = ["Punctuated", "WithDoses", "cross", "instantiate"]


def cross(field: Slope, events: Events, inputs: PyTree, y: Array, since: Array, t: Any) -> Array:
    """The state behind the jumps after `since` and up to `t`: doses are added, and the state moves with their times.

    A jump that comes later by d lets the state follow the old field for d longer and the new one for d less:
    the state behind it moves by (f(before, y-) - f(after, y+)) d, exactly. So the discretisation need not be
    differentiated by time, and where no time is differentiated none of these slopes is evaluated. At one moment
    forcings jump first and doses follow, several of a kind share by their sizes, and infusions act by their
    rates alone.
    """
    arrived = events.given(y, since, t)

    @jax.custom_jvp
    def crossed(arrived, moving, starting, ending, rest):
        return arrived

    def rule(primals, tangents):
        (arrived, _, _, _, (y, since, t, events, inputs)), (tangent, *moved, _) = primals, tangents
        tangent = instantiate(tangent)
        by_jumps, by_starts, by_ends = moved
        if not isinstance(by_jumps, SymbolicZero):
            hit = jnp.where((since < events.at) & (events.at <= t), events.sizes, 0.0)
            pause = jnp.max(jnp.where(hit > 0, events.at, -jnp.inf), initial=-jnp.inf)
            earlier = jnp.where(jnp.isneginf(since) | jnp.isneginf(pause), t, before(pause))
            by_doses, by_forcings = (
                jnp.dot(hit[part], by_jumps[part]) / jnp.where(hit[part].sum() > 0, hit[part].sum(), 1.0)
                for part in (slice(len(events.amounts)), slice(len(events.amounts), None))
            )
            between = field(t, y, inputs)
            tangent = tangent + by_forcings * (field(earlier, y, inputs) - between)
            tangent = tangent + by_doses * (between - field(t, arrived, inputs))
        for when, by, sign in ((events.starts, by_starts, -1.0), (events.ends, by_ends, 1.0)):
            if not isinstance(by, SymbolicZero):
                hit = (since < when) & (when <= t)
                moves = jnp.where(hit[:, None], by[:, None] * events.rates, 0.0).sum(axis=0)
                tangent = tangent + sign * moves.reshape(y.shape)
        return arrived, tangent

    crossed.defjvp(rule, symbolic_zeros=True)
    rest = (y, since, t, events, inputs)
    return crossed(arrived, events.moving, events.starting, events.ending, rest)


def instantiate(tangent: Any) -> Any:
    """A tangent as an array where it is known to be zero."""
    if isinstance(tangent, SymbolicZero):
        return jnp.zeros(tangent.shape, cast(Any, tangent.dtype))
    return tangent


class WithDoses(diffrax.AbstractAdaptiveSolver, diffrax.AbstractWrappedSolver):
    """A solver whose steps begin with the doses that have come due; it remembers since when.

    A refused step brings back the memory, so its doses are given again when it is tried again.
    """

    solver: diffrax.AbstractSolver
    field: Slope = eqx.field(static=True)

    @property
    def term_structure(self):
        """Of the solver within, as are all that follow."""
        return self.solver.term_structure

    @property
    def interpolation_cls(self):  # pyright: ignore
        """See `term_structure`."""
        return self.solver.interpolation_cls

    @property
    def term_compatible_contr_kwargs(self):
        """See `term_structure`."""
        return self.solver.term_compatible_contr_kwargs

    @property
    def scan_kind(self):
        """See `term_structure`."""
        return self.solver.scan_kind  # pyright: ignore

    @property
    def root_finder(self):
        """See `term_structure`."""
        return self.solver.root_finder  # pyright: ignore

    @property
    def root_find_max_steps(self):
        """See `term_structure`."""
        return self.solver.root_find_max_steps  # pyright: ignore

    def order(self, terms):
        """See `term_structure`."""
        return self.solver.order(terms)

    def error_order(self, terms):
        """See `term_structure`."""
        return self.solver.error_order(terms)

    def func(self, terms, t0, y0, args):
        """See `term_structure`."""
        return self.solver.func(terms, t0, y0, args)

    def init(self, terms, t0, t1, y0, args):
        """No dose given yet."""
        return self.solver.init(terms, t0, t1, y0, args), jnp.full_like(t0, -jnp.inf)

    def step(self, terms, t0, t1, y0, args, solver_state, made_jump):
        """Doses first, then the step; `made_jump` has the solver evaluate the slope anew behind them."""
        within, since = solver_state
        y0 = cross(self.field, args[1], args, y0, since, t0)
        y1, error, dense, within, result = self.solver.step(terms, t0, t1, y0, args, within, made_jump)
        return y1, error, dense, (within, t0), result


class Punctuated(diffrax.AbstractAdaptiveStepSizeController):
    """A controller that ends steps just before stops and begins anew behind them.

    diffrax's own `ClipStepSizeController` lets the step grow again from whatever was left before the stop, and a
    controller with a smallest step takes a small rest for a step that could not shrink. Here the step that was
    wished for before the stop is remembered. Where that is too long behind it, as when a dose ends a long rest,
    the control of errors refuses it.

    - `within`: the controller that judges the errors; it must have no smallest step of its own.
    - `smallest`: a step refused at this size ends the solve.
    """

    within: Any
    smallest: Any
    rtol: Any
    atol: Any
    norm: Any = eqx.field(static=True)

    def wrap(self, direction):
        """Time runs forward."""
        return self

    def init(self, terms, t0, t1, y0, dt0, args, func, error_order):
        """The first step, from the state with the doses at the start."""
        events = args[1]
        y0 = events.given(y0, jnp.full_like(t0, -jnp.inf), t0)
        end, state = self.within.init(terms, t0, t1, y0, dt0, args, func, error_order)
        return jnp.minimum(end, before(_next(events, t0)[0])), (state, end - t0)

    def adapt_step_size(self, t0, t1, y0, y1_candidate, args, y_error, error_order, controller_state):
        """The judgement of the controller within, and the next step up to the next stop."""
        events, (within, wished) = args[1], controller_state
        keep, start, end, jump, within, result = self.within.adapt_step_size(
            t0, t1, y0, y1_candidate, args, y_error, error_order, within
        )
        # A step that was cut short says nothing against the one that was wished for.
        wished = jnp.where(keep, jnp.maximum(end - start, wished), end - start)
        stop, resume = _next(events, t1)
        reached = keep & (before(stop) <= t1)
        start = jnp.where(reached, after(resume), start)
        limit = before(_next(events, start)[0])
        underflow = ~keep & (wished < self.smallest)
        result = diffrax.RESULTS.where(underflow, diffrax.RESULTS.dt_min_reached, result)
        return keep, start, jnp.minimum(start + wished, limit), jump | reached, (within, wished), result


def _next(events: Events, t: Any) -> tuple[Array, Array]:
    """The next stop after `t`, and where the solve resumes behind it."""
    stop = jnp.min(jnp.where(events.stops > t, events.stops, jnp.inf), initial=jnp.inf)
    return stop, jnp.max(jnp.where(events.stops == stop, events.resumes, -jnp.inf), initial=-jnp.inf)
