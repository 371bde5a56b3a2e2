"""What enters an equation from outside: doses and infusions at known times, and forcing.

Both are declared to the solve, which steps to every jump and resumes behind it. They are pytrees: they may be
mapped over units, and derivatives go to every number in them.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, Literal, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from bayeshybrid.faults import DataError, ModelError

KINDS = ("previous", "linear")
FEW_PIECES = 512  # up to here one comparison with all times is cheaper than a search in a compiled loop

_open = threading.local()
# What JAX keeps of a jitted function is good for one binding: in the next its forcings answer with other arrays.
_retracing = jax.make_user_context(default_value=None)

__all__ = ["Doses", "Forcing", "binding", "doses", "forcing"]


class _Token:
    """Says which declaration a forcing stems from, through every mapping; it makes no tree differ from another."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Token)

    def __hash__(self) -> int:
        return hash(_Token)


class Doses(eqx.Module):
    """Amounts that enter one component of the state: at once, or spread evenly over a duration.

    What `doses` returns. `times`, `amounts` and `duration` have one shape, `(dose,)` or `(unit, dose)`;
    `duration` is `None` where all enter at once.

    ```python
    assert bh.doses([0.0, 12.0], 5.0, into="gut").amounts.shape == (2,)
    ```
    """

    times: Float[Array, "*units dose"]
    amounts: Float[Array, "*units dose"]
    duration: Float[Array, "*units dose"] | None
    into: int | str = eqx.field(static=True)


class Forcing(eqx.Module):
    """A quantity that is given over time, called at a time inside the field.

    What `forcing` returns. `times` has shape `(n,)` or `(unit, n)`, `values` the same with or without an axis
    of components behind. Outside the times for which it is given the answer is NaN; `"previous"` holds its
    last value.

    ```python
    rain = bh.forcing([0.0, 1.0, 2.0], [0.0, 5.0, 1.0])
    assert rain(1.5) == 5.0 and rain(7.0) == 1.0
    ```
    """

    times: Float[Array, "*units n"]
    values: Float[Array, "*units n *components"]
    kind: str = eqx.field(static=True)
    token: _Token = eqx.field(static=True, repr=False)

    def __call__(self, t: ArrayLike) -> Array:
        """The value at time `t`, a number or an array of them; components along the last axis."""
        declared, reports, now = _declared(self)
        if reports is not None:
            reports += _odd(declared, t, now)
            return (declared or self).smooth(jnp.asarray(t))
        own = declared or self
        if own.times.ndim != 1:
            raise ModelError(
                f"a forcing with a unit axis, times of shape {own.times.shape}, was called outside a solve that "
                "maps it: declare it with solve_ode(..., inputs=[it], in_axes=...), and call it inside the field"
            )
        return own.evaluate(jnp.asarray(t))

    def evaluate(self, t: Array) -> Array:
        """The value at `t` from these very arrays, whatever is bound."""
        times, values = self.times, self.values
        fixed = jax.lax.stop_gradient(times)
        few = times.size <= FEW_PIECES
        index = jnp.searchsorted(fixed, t, side="right", method="compare_all" if few else "scan") - 1
        known = index >= 0
        index = jnp.maximum(index, 0)
        value = values[index]
        known = known.reshape(known.shape + (1,) * (value.ndim - known.ndim))
        if self.kind == "linear":
            ahead = jnp.minimum(index + 1, len(times) - 1)
            span = times[ahead] - times[index]
            share = (t - times[index]) / jnp.where(span > 0, span, 1.0)
            share = jnp.where(span > 0, share, 0.0)
            value = value + share.reshape(share.shape + (1,) * (value.ndim - share.ndim)) * (
                values[ahead] - value
            )
            known = known & (t <= fixed[-1]).reshape(known.shape)
        return jnp.where(known, value, jnp.nan)

    def smooth(self, t: Array) -> Array:
        """Something of the same shape that depends on `t` without a jump, for questions about the field."""
        components = self.values.shape[self.times.ndim :]
        first = self.values.reshape(-1, *components)[0]
        return first + jnp.expand_dims(0.0 * t, tuple(range(t.ndim, t.ndim + len(components))))


def doses(
    times: ArrayLike,
    amounts: ArrayLike,
    into: int | str = 0,
    duration: ArrayLike = 0.0,
) -> Doses:
    """Doses that a solve gives at known times: at once, or as infusions of constant rate.

    Declare them with `solve_ode(..., inputs=[...])`. A dose at a time at which the state is wanted acts after
    it: the value returned is the state just before. A dose at `t0` is given at once. Doses after the last time
    wanted have no effect. A dose whose time is NaN or infinite, or whose amount is exactly zero, is padding and
    does nothing.

    **Arguments:**

    - `times`: when they are given, or when infusions begin: shape `(dose,)`, one for all units, or `(unit,
      dose)`; in the unit of time, in any order, none before `t0`.
    - `amounts`: how much enters, in the unit of the state: one number, or shaped like `times`; `(unit, dose)`
      with times `(dose,)` gives each unit its own amounts.
    - `into`: the component of the state that it enters, by index or by its name in the solve's `labels`.
    - `duration`: zero for doses that enter at once; above zero the amount enters evenly over that time.

    **Returns:** `Doses`, a pytree; derivatives go to times, amounts and duration.

    **Raises:** `DataError` for a negative amount or duration, for shapes that differ, and for text.

    ```python
    def model(times):
        twice = bh.doses([0.0, 12.0], 10.0, into="gut")
        field = lambda t, y, k: jnp.stack([-1.5 * y[0], 1.5 * y[0] - k * y[1]])
        path = bh.solve_ode("path", field, jnp.zeros(2), times, t0=0.0, args=0.1, inputs=[twice],
                            labels=("gut", "blood"))
        numpyro.deterministic("total", path.ys.sum(-1))
    told = bh.simulate(model, {"times": np.array([0.0, 0.1])}, key=0, draws=2)
    assert np.allclose(told.latent["total"].mean, [0.0, 10.0], atol=0.1)
    ```
    """
    times, amounts, duration = (
        _numbers(what, value)
        for what, value in (("times", times), ("amounts", amounts), ("duration", duration))
    )
    if isinstance(into, bool) or not isinstance(into, (int, str)):
        raise DataError(f"doses: into = {into!r}; write the index or the name of one component of the state")
    shape = _dose_shape(times.shape, amounts.shape, duration.shape)
    for what, value in (("amounts", amounts), ("duration", duration)):
        _check_not_negative(what, jnp.broadcast_to(value, shape), jnp.broadcast_to(times, shape))
    at_once = not isinstance(duration, Tracer) and not np.any(np.asarray(duration))
    return Doses(
        times=jnp.broadcast_to(times, shape),
        amounts=jnp.broadcast_to(amounts, shape),
        duration=None if at_once else jnp.broadcast_to(duration, shape),
        into=into,
    )


def forcing(times: ArrayLike, values: ArrayLike, kind: Literal["previous", "linear"] = "previous") -> Forcing:
    """A quantity given over time (rain, temperature, a dose rate), to be called at `t` inside the field.

    Declare it with `solve_ode(..., inputs=[...])` too: then the solver stops at each of its times and steps
    over none of its jumps.

    **Arguments:**

    - `times`: when it is known, not decreasing: shape `(n,)`, one for all units, or `(unit, n)`. A time given
      twice makes a jump in a linear forcing.
    - `values`: its values there, `(n,)`, or `(n, k)` for k quantities; `(unit, n)` or `(unit, n, k)`.
    - `kind`: `"previous"` keeps each value until the next time, the last one for good; `"linear"` joins them by
      straight lines, and is not known after the last time. Neither is known before the first.

    **Returns:** `Forcing`, a pytree; derivatives go to times and values.

    **Raises:** `DataError` for times that run backwards or are not finite, for shapes that differ, for an
    unknown kind, and for text.

    ```python
    def model(times, day, rain):
        rain = bh.forcing(day, rain)
        path = bh.solve_ode("store", lambda t, y, k: rain(t) - k * y, 1.0, times, t0=0.0, args=0.5, inputs=[rain])
        numpyro.deterministic("end", path.ys[-1])
    wet = {"times": np.array([2.0]), "day": np.arange(3.0), "rain": np.array([1.0, 0.0, 3.0])}
    told = bh.simulate(model, wet, key=0, draws=2)
    assert abs(told.latent["end"].mean - (np.exp(-1) + 2 * (np.exp(-0.5) - np.exp(-1)))) < 1e-5
    ```
    """
    times, values = _numbers("times", times, "forcing"), _numbers("values", values, "forcing")
    if kind not in KINDS:
        raise DataError(f'forcing: kind = {kind!r}; write "previous" or "linear"')
    rank = times.ndim
    if rank not in (1, 2) or values.ndim not in (rank, rank + 1) or values.shape[:rank] != times.shape:
        raise DataError(
            f"forcing: times of shape {times.shape}, values {values.shape}; write times (n,) or (unit, n), and values "
            "of the same shape, or with one more axis for several quantities"
        )
    if times.shape[-1] == 0:
        raise DataError("forcing: no times were given; write at least one")
    _check_forward(times)
    return Forcing(times=times, values=values, kind=kind, token=_Token())


class _Binding(NamedTuple):
    forcings: tuple[Forcing, ...]
    reports: list[str] | None
    now: Any


@contextmanager
def binding(forcings: Sequence[Forcing], reports: list[str] | None = None, now: Any = None) -> Iterator[None]:
    """While open, a forcing called inside a field answers with the arrays of its own declaration here.

    **Arguments:**

    - `forcings`: the declared ones, in each lane of a mapped solve those of the lane.
    - `reports`, `now`: where given, nothing is looked up: forcings answer smoothly in time, and those that
      were not declared, or that are asked at another time than `now`, are told here.

    ```python
    from bayeshybrid.science.inputs import binding
    rain = bh.forcing([0.0, 1.0], [1.0, 2.0])
    with binding([jax.tree.map(lambda x: 2 * x, rain)]):
        assert rain(0.5) == 2.0
    ```
    """
    stack = _bindings()
    stack.append(_Binding(tuple(forcings), reports, now))
    try:
        with _retracing(object()) if forcings else nullcontext():
            yield
    finally:
        stack.pop()


def _bindings() -> list[_Binding]:
    if not hasattr(_open, "stack"):
        _open.stack = []
    return _open.stack


def _declared(asked: Forcing) -> tuple[Forcing | None, list[str] | None, Any]:
    """The forcing that stands for `asked` where it is called, and where to report what is odd about the call."""
    stack = _bindings()
    if not stack:
        return None, None, None
    own = [forcing for forcing in stack[-1].forcings if forcing.token is asked.token]
    return (own[0] if own else None), stack[-1].reports, stack[-1].now


def _odd(declared: Forcing | None, t: Any, now: Any) -> list[str]:
    if declared is None:
        return [
            "a forcing is called that was not declared, so its jumps may be stepped over: give it in inputs=[...]"
        ]
    if declared.kind == "previous" and t is not now and not _beyond_comparison(t, now):
        return [
            "a forcing is asked at another time than the field's own t, so it jumps at times that were not "
            "declared: shift or scale the times of bh.forcing instead"
        ]
    return []


def _beyond_comparison(t: Any, now: Any) -> bool:
    """Whether `t` is met inside a jitted function of the field, where the field's own t goes by another name."""
    return type(t) is type(now) and getattr(t, "_trace", None) is not getattr(now, "_trace", None)


def _dose_shape(
    times: tuple[int, ...], amounts: tuple[int, ...], duration: tuple[int, ...]
) -> tuple[int, ...]:
    """The common shape; amounts may add the axis of units to times, never doses."""
    try:
        shape = np.broadcast_shapes(times, amounts, duration) or (1,)
    except ValueError:
        shape = ()
    if len(shape) not in (1, 2) or shape[-1:] != (times[-1:] or (1,)):
        raise DataError(
            f"doses: times of shape {times}, amounts {amounts}, duration {duration}; write (dose,) for all units alike "
            "or (unit, dose); for one dose each, amounts[:, None]"
        )
    return shape


def _numbers(what: str, value: Any, statement: str = "doses") -> Array:
    if not isinstance(value, Tracer):
        try:
            array = np.asarray(value)
        except Exception:  # tracers within a list
            array = None
        if array is not None and array.dtype.kind not in "fiub":
            raise DataError(f"{statement}: {what} are {array.dtype.name}, not numbers: {str(value)[:60]}")
    return jnp.asarray(value, dtype=float)


def _check_not_negative(what: str, values: Array, times: Array) -> None:
    if isinstance(values, Tracer) or isinstance(times, Tracer):
        return  # the solve fails under a reason of its own, and the gate tells which dose it is
    for cell in np.argwhere(np.asarray(values) < 0).tolist():
        at, value = np.asarray(times)[tuple(cell)], np.asarray(values)[tuple(cell)]
        raise DataError(
            f"doses: {what} {cell} = {value:g} at time {at:g} is negative; what leaves the state belongs in the field"
        )


def _check_forward(times: Array) -> None:
    if isinstance(times, Tracer):
        return
    numbers = np.asarray(times)
    for cell in np.argwhere(~np.isfinite(numbers)).tolist():
        raise DataError(
            f"forcing: times{cell} is {numbers[tuple(cell)]}; fill up a row by repeating its last time"
        )
    for cell in np.argwhere(np.diff(numbers, axis=-1) < 0).tolist():
        before = numbers[tuple(cell)]
        cell[-1] += 1
        raise DataError(
            f"forcing: times{cell} = {numbers[tuple(cell)]:g} comes after {before:g}: sort times and values together"
        )
