"""What happens to a state at known times, put in order: where a solve must stop, and what enters there.

Every time at which an input jumps is a stop: a step ends on the number just before it, and the next begins on
the number just after. Stops closer than some roundings of time are one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from bayeshybrid.faults import ModelError
from bayeshybrid.science.inputs import Doses, Forcing
from bayeshybrid.science.reasons import Reason

# diffrax rounds a step to the end of the solve within 100 units of rounding; stops keep clear of that.
ROUNDINGS_IN_A_MOMENT = 128

__all__ = ["Events", "after", "before", "check", "entering", "flaws", "gather", "moment_of", "seen_at"]


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


def entering(inputs: Sequence[Any], size: int, labels: tuple[str, ...], shift: int = 0) -> list[Any]:
    """The inputs with doses by number, `shift` components further on: for a state that is a part of a larger one."""
    return [
        replace(each, into=_component(each.into, size, labels) + shift) if isinstance(each, Doses) else each
        for each in inputs
    ]


def gather(
    inputs: Sequence[Doses | Forcing], size: int, labels: tuple[str, ...], t0: Array, end: Array
) -> Events:
    """Everything that happens at known times from `t0` to `end`."""
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
    placed, stops, resumes = _moments(moments, t0, moment_of(t0, end))
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


def moment_of(t0: Array, end: Array) -> Array:
    """How close two times of a solve from `t0` to `end` may be and count as one."""
    return ROUNDINGS_IN_A_MOMENT * jnp.finfo(t0.dtype).eps * jnp.maximum(jnp.abs(t0), jnp.abs(end))


def seen_at(events: Events, times: Array, t0: Array, end: Array) -> tuple[Array, Array]:
    """Where a state wanted at `times` is read, just before the events of its moment, and where the solve begins."""
    if not events.stops.size:
        return times, t0
    i = jnp.searchsorted(events.stops, times, side="right") - 1
    within = (i >= 0) & (times <= events.resumes[i] + moment_of(t0, end))
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
    early = times < t0 - moment_of(t0, times)
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
    moment = moment_of(t0, end)
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
