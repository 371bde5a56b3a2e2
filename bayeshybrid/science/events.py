"""Jumps at known times inside one adaptive solve: where it must stop, what enters there, and what moves.

Every time at which an input jumps is a stop: a step ends on the number just before it, and the next begins on
the number just after, with the doses of that time added. So no step holds a jump, whatever its length. Stops
closer than some roundings of time are one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, cast

import diffrax
import equinox as eqx
import equinox.internal as eqxi
import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero
from jaxtyping import Array, Float, PyTree

from bayeshybrid.faults import ModelError
from bayeshybrid.science.inputs import Doses, Forcing
from bayeshybrid.science.reasons import Reason

# diffrax rounds a step to the end of the solve within 100 units of rounding; stops keep clear of that.
ROUNDINGS_IN_A_MOMENT = 128

# A step behind a jump is at most so many times the one that Hairer's rule would begin with: that aims at a
# hundredth of the tolerance, this at some times the tolerance, which the error control then refuses or not.
STEPS_OF_A_BEGINNING = 4.0

__all__ = ["Events", "Punctuated", "WithDoses", "check", "flaws", "gather", "seen_at"]


class Events(NamedTuple):
    """What happens at known times to a state of n components, padding at time infinity.

    - `stops`, `resumes`: `(events,)` sorted; a step ends before the first of a moment's events and the next
      begins after the last.
    - `at`, `moving`, `sizes`: `(jumps,)`, doses first and then the times of forcings: when they act, the same
      times with their derivatives, and how large each jump is.
    - `amounts`: `(doses, n)`, what the doses add.
    - `starts`, `ends`: `(infusions,)` when they act; `starting`, `ending` the same with their derivatives.
    - `rates`: `(infusions, n)`.
    """

    stops: Float[Array, " events"]
    resumes: Float[Array, " events"]
    at: Float[Array, " jumps"]
    moving: Float[Array, " jumps"]
    sizes: Float[Array, " jumps"]
    amounts: Float[Array, "doses n"]
    starts: Float[Array, " infusions"]
    ends: Float[Array, " infusions"]
    starting: Float[Array, " infusions"]
    ending: Float[Array, " infusions"]
    rates: Float[Array, "infusions n"]

    def inflow(self, t: Array) -> Float[Array, " n"]:
        """What infusions add to the slope at time `t`."""
        running = (self.starts <= t) & (t < self.ends)
        return jnp.where(running[:, None], self.rates, 0.0).sum(axis=0)

    def given(self, y: Array, since: Array, t: Array) -> Array:
        """The state with the doses after `since` and up to `t`."""
        when = self.at[: len(self.amounts)]
        due = (since < when) & (when <= t)
        return y + jnp.where(due[:, None], self.amounts, 0.0).sum(axis=0).reshape(y.shape)


def after(t: Array) -> Array:
    """The next number; of zero the next that compiled programs do not take for zero."""
    return jnp.where(t == 0, jnp.finfo(t.dtype).tiny, jnp.nextafter(t, jnp.inf))


def before(t: Array) -> Array:
    """The number just before; see `after`."""
    return jnp.where(t == 0, -jnp.finfo(t.dtype).tiny, jnp.nextafter(t, -jnp.inf))


def check(inputs: Sequence[Any], size: int, labels: tuple[str, ...]) -> None:
    """Checks that inputs are ones, for one unit, and that each dose enters a component of the state."""
    for i, each in enumerate(inputs):
        if not isinstance(each, (Doses, Forcing)):
            raise ModelError(
                f"inputs[{i}] is a {type(each).__name__}: write bh.doses(...) or bh.forcing(...)"
            )
        if each.times.ndim != 1:
            raise ModelError(
                f"inputs[{i}] has a unit axis, times of shape {each.times.shape}: give in_axes=(y0, times, args), as "
                "in jax.vmap, with None for what all units share"
            )
        if isinstance(each, Doses):
            _component(each.into, size, labels)


def _component(into: int | str, size: int, labels: tuple[str, ...]) -> int:
    """The index of the component of the state that a dose enters."""
    if isinstance(into, str):
        if not labels:
            raise ModelError(
                f"a dose enters {into!r}, but the solve has no labels=: give them, or write an index"
            )
        if into not in labels:
            import difflib

            near = difflib.get_close_matches(into, labels, 1)
            hint = f": did you mean {near[0]!r}?" if near else ""
            raise ModelError(f"a dose enters {into!r}, the components are {', '.join(labels)}{hint}")
        return labels.index(into)
    if not -size <= into < size:
        raise ModelError(
            f"a dose enters component {into}, the state has {size}: write 0 to {size - 1}, or its name"
        )
    return into % size


def gather(
    inputs: Sequence[Doses | Forcing], size: int, labels: tuple[str, ...], t0: Array, end: Array
) -> Events | None:
    """Everything that happens at known times from `t0` to `end`; `None` where nothing is declared."""
    if not inputs:
        return None
    dtype = t0.dtype
    doses = [
        _sorted(each, _component(each.into, size, labels), size, dtype)
        for each in inputs
        if isinstance(each, Doses)
    ]
    forcings = [each for each in inputs if isinstance(each, Forcing)]
    times = [each.times.astype(dtype) for each in forcings]
    at_once, starting, ending, amounts, rates = (
        (list(column) for column in zip(*doses, strict=True)) if doses else [[]] * 5
    )
    none, nothing = [jnp.zeros(0, dtype)], [jnp.zeros((0, size), dtype)]
    moving = jnp.concatenate([*at_once, *times, *none])
    starting, ending = (jnp.concatenate([*x, *none]) for x in (starting, ending))
    moments = jax.lax.stop_gradient(jnp.concatenate([moving, starting, ending]))
    placed, stops, resumes = _moments(moments, t0, _moment(t0, end))
    at, starts, ends = jnp.split(placed, [len(moving), len(moving) + len(starting)])
    amounts = jnp.concatenate([*amounts, *nothing])
    sizes = jnp.concatenate([jnp.abs(amounts).sum(axis=1), *(_jumps(each, dtype) for each in forcings)])
    return Events(
        stops, resumes, at, moving, jax.lax.stop_gradient(sizes), amounts,
        starts, ends, starting, ending, jnp.concatenate([*rates, *nothing]),
    )  # fmt: skip


def _jumps(forcing: Forcing, dtype: Any) -> Float[Array, " n"]:
    """How far a forcing jumps at each of its times; a linear one only where a time is given twice."""
    values = forcing.values.astype(dtype).reshape(len(forcing.times), -1)
    jumps = jnp.abs(jnp.diff(values, axis=0)).sum(axis=1)
    none = jnp.zeros(1, dtype)
    if forcing.kind == "previous":
        return jnp.concatenate([none, jumps])
    jumps = jnp.where(jnp.diff(forcing.times) > 0, 0.0, jumps)
    return jnp.concatenate([none, jumps]) + jnp.concatenate([jumps, none])


def _sorted(doses: Doses, into: int, size: int, dtype: Any) -> tuple[Array, ...]:
    """Times at once, starts, ends, amounts and rates; sorted, so that the order of writing changes no rounding."""
    times, amounts = doses.times.astype(dtype), doses.amounts.astype(dtype)
    column = jnp.zeros(size, dtype).at[into].set(1.0)
    idle = ~jnp.isfinite(times) | (amounts == 0)
    fixed = jax.lax.stop_gradient((jnp.where(idle, 0.0, amounts), jnp.where(idle, jnp.inf, times)))
    order = jnp.lexsort(fixed)
    times, amounts, idle = times[order], amounts[order], idle[order]
    if doses.duration is None:
        none = jnp.zeros(0, dtype)
        instant, starts, ends, rates = jnp.where(idle, jnp.inf, times), none, none, none
    else:
        duration = doses.duration.astype(dtype)[order]
        long = duration > 0
        instant = jnp.where(idle | long, jnp.inf, times)
        starts, ends = (jnp.where(idle | ~long, jnp.inf, x) for x in (times, times + duration))
        rates = jnp.where(idle | ~long, 0.0, amounts / jnp.where(long, duration, 1.0))
    amounts = jnp.where(jnp.isfinite(instant), amounts, 0.0)
    return instant, starts, ends, amounts[:, None] * column[None], rates[:, None] * column[None]


def _moments(times: Array, t0: Array, moment: Array) -> tuple[Array, Array, Array]:
    """When each event acts, where steps stop, and where they resume, with events within a moment made one."""
    times = jnp.where(jnp.abs(times - t0) <= moment, t0, jnp.where(times < t0, jnp.inf, times))
    order = jnp.argsort(times)
    ordered = times[order]
    apart = jnp.diff(ordered) > moment
    apart = jnp.where(jnp.isfinite(ordered[1:]), apart, True)
    yes = jnp.ones(1, bool)
    infinite = jnp.full(1, jnp.inf, times.dtype)
    begins, closes = jnp.concatenate([yes, apart])[: len(times)], jnp.concatenate([apart, yes])[: len(times)]
    stops = jax.lax.cummax(jnp.where(begins, ordered, -infinite))
    resumes = jax.lax.cummin(jnp.where(closes, ordered, infinite), reverse=True)
    return jnp.zeros_like(times).at[order].set(stops), stops, resumes


def _moment(t0: Array, end: Array) -> Array:
    return ROUNDINGS_IN_A_MOMENT * jnp.finfo(t0.dtype).eps * jnp.maximum(jnp.abs(t0), jnp.abs(end))


def seen_at(events: Events, times: Array, t0: Array, end: Array) -> tuple[Array, Array]:
    """Where a state wanted at `times` is read, just before the events of its moment, and where the solve begins."""
    if not events.stops.size:
        return times, t0
    i = jnp.searchsorted(events.stops, times, side="right") - 1
    within = (i >= 0) & (times <= events.resumes[i] + _moment(t0, end))
    last = jnp.max(jnp.where(events.stops <= t0, events.resumes, -jnp.inf), initial=-jnp.inf)
    begin = jnp.where(last > t0, after(last), t0)
    seen = jnp.where(within, before(events.stops[i]), times)
    return jnp.where(times < t0, times, jnp.maximum(seen, begin)), begin


def flaws(inputs: Sequence[Doses | Forcing], t0: Array, end: Array) -> Float[Array, "inputs 4"]:
    """The first flaw of each input: a code of `Reason` (0 for none), its place, its time and the value at fault."""
    found = [_dose_flaw(x, t0) if isinstance(x, Doses) else _forcing_flaw(x, t0, end) for x in inputs]
    return jnp.stack([jnp.stack([jnp.asarray(y, t0.dtype) for y in each]) for each in found])


def _dose_flaw(doses: Doses, t0: Array) -> tuple[Any, ...]:
    times, amounts = doses.times, doses.amounts
    if not times.size:
        return 0, 0, 0, 0
    duration = jnp.zeros_like(times) if doses.duration is None else doses.duration
    idle = ~jnp.isfinite(times) | (amounts == 0)
    wrong = ~((amounts >= 0) & (duration >= 0) & jnp.isfinite(amounts + duration))
    early = times < t0 - _moment(t0, times)
    code = jnp.where(wrong, Reason.DOSE_NEGATIVE, jnp.where(early, Reason.DOSE_BEFORE_START, 0))
    code = jnp.where(idle, 0, code)
    i = jnp.argmax(code > 0)
    return (
        code[i],
        i,
        times[i],
        jnp.where(amounts[i] >= 0, jnp.where(wrong[i], duration[i], amounts[i]), amounts[i]),
    )


def _forcing_flaw(forcing: Forcing, t0: Array, end: Array) -> tuple[Any, ...]:
    times = forcing.times
    moment = _moment(t0, end)
    falls = ~(jnp.diff(times, prepend=times[:1]) >= 0)  # not a number counts as well
    early = t0 < times[0] - moment
    late = (end > times[-1] + moment) & (forcing.kind == "linear")
    i = jnp.argmax(falls)
    code = jnp.where(early | late, Reason.FORCING_UNKNOWN, 0)
    return (
        jnp.where(jnp.any(falls), Reason.FORCING_UNSORTED, code),
        jnp.where(jnp.any(falls), i, jnp.where(early, 0, len(times) - 1)),
        jnp.where(jnp.any(falls), times[i], jnp.where(early, times[0], times[-1])),
        jnp.where(jnp.any(falls), times[i - 1], jnp.where(early, t0, end)),
    )


Slope = Callable[[Any, Array, PyTree], Array]


def cross(field: Slope, events: Events, inputs: PyTree, y: Array, since: Array, t: Array) -> Array:
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
    wished for before the stop is remembered, and bounded by what a solve would begin with behind it: a state at
    rest has grown its steps without limit, and a dose ends that.

    - `within`: the controller that judges the errors; it must have no smallest step of its own.
    - `smallest`: a step refused at this size ends the solve.
    """

    within: Any
    slope: Slope = eqx.field(static=True)
    smallest: Any
    rtol: Any
    atol: Any
    norm: Callable = eqx.field(static=True)

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
        inputs, y = jax.lax.stop_gradient((args, events.given(y1_candidate, t1, start)))
        longest = jax.lax.cond(
            eqxi.unvmap_any(reached),
            lambda: (
                STEPS_OF_A_BEGINNING * self._beginning(start, y, inputs, limit - start, wished, error_order)
            ),
            lambda: jnp.full_like(wished, jnp.inf),
        )
        wished = jnp.where(reached, jnp.maximum(jnp.minimum(wished, longest), self.smallest), wished)
        underflow = ~keep & (wished < self.smallest)
        result = diffrax.RESULTS.where(underflow, diffrax.RESULTS.dt_min_reached, result)
        return keep, start, jnp.minimum(start + wished, limit), jump | reached, (within, wished), result

    def _beginning(self, t, y, inputs, room, wished, order):
        """The step that a solve would begin with here (Hairer, Norsett and Wanner 1993, II.4), infinite at rest."""
        scale = self.atol + jnp.abs(y) * self.rtol
        slope = self.slope(t, y, inputs)
        size, speed = self.norm(y / scale), self.norm(slope / scale)
        first = jnp.where((size < 1e-5) | (speed < 1e-5), 1e-3 * wished, 0.01 * size / speed)
        first = jnp.minimum(first, room)
        bend = self.norm((self.slope(t + first, y + first * slope, inputs) - slope) / scale) / first
        step = jnp.minimum(100 * first, (0.01 / jnp.maximum(speed, bend)) ** (1 / order))
        return jnp.where(jnp.isfinite(step) & (jnp.maximum(speed, bend) > 1e-15), step, jnp.inf)


def _next(events: Events, t: Array) -> tuple[Array, Array]:
    """The next stop after `t`, and where the solve resumes behind it."""
    stop = jnp.min(jnp.where(events.stops > t, events.stops, jnp.inf), initial=jnp.inf)
    return stop, jnp.max(jnp.where(events.stops == stop, events.resumes, -jnp.inf), initial=-jnp.inf)
