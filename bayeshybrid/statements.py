"""Statements of a model: an equation and its solver, said once and by name.

A statement stands at the model's own level, like `numpyro.sample`. It owns its batch through `in_axes`, so
that each lane keeps its status and its own Jacobian, and it publishes what it solved as a message of our own
type. numpyro's handlers let such a message pass; the `Target` reads it.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
from jax.core import Tracer
from jaxtyping import Array, Float, PyTree
from numpyro.primitives import _PYRO_STACK, apply_stack

from bayeshybrid.faults import ModelError
from bayeshybrid.joins import listening, together
from bayeshybrid.networks import recording, replaying
from bayeshybrid.science import lean, ode
from bayeshybrid.science.events import entering, flaws
from bayeshybrid.science.inputs import Doses, Forcing, binding
from bayeshybrid.science.jumps import undeclared
from bayeshybrid.science.ode import Solution
from bayeshybrid.science.pacing import Buckets, Stable
from bayeshybrid.science.relaxed import Relaxation

SOLUTION = "bayeshybrid.solution"
"""Type of the message by which a statement hands over what it solved."""

PRECISION = "bayeshybrid.precision"
"""Type of the message by which a statement asks how much finer than stated it should solve."""

HELD = "bayeshybrid.held"
"""Type of the message by which a statement asks for the run beside which its networks shall be held.

Its answer is the message of the same statement in that run: then each network of the field says here, at every
time, what it said there, and the solution is that of this equation under those answers.
"""

GRID = "bayeshybrid.grid"
"""Type of the message by which a statement asks for a frozen grid of steps: `(n + 1,)`, or `(units, n + 1)`.

Its answer is `None` where the step size control shall choose the steps, or a relaxation of the solve. Only who knows
that the start, the times and the jumps of the inputs are those of the grid may answer with one.
"""

STEPS_PER_PRECISION = 0.2  # a method of order five needs a fifth of the power in steps

__all__ = ["GRID", "HELD", "PRECISION", "SOLUTION", "solve_ode"]


def solve_ode(
    name: str,
    field: Callable[[Any, Array, Any], Array],
    y0: Float[Array, "..."] | np.ndarray | float,
    times: Float[Array, "..."] | np.ndarray,
    *,
    t0: Float[Array, "..."] | np.ndarray | float,
    args: PyTree = None,
    in_axes: int | Sequence[Any] | None = None,
    labels: Sequence[str] | None = None,
    unit: str | None = None,
    rtol: float = 1e-6,
    atol: float = 1e-6,
    solver: Any = None,
    max_steps: int = 4096,
    inputs: Sequence[Doses | Forcing] = (),
    across: str | None = None,
) -> Solution:
    """Solve an ordinary differential equation inside a model.

    The solution becomes a latent quantity of the model under `name`: forecasts carry a band for it, failed
    solves are counted under it. A solve that fails makes the posterior density zero at that point; the value
    returned stays finite, so that nothing downstream sees a NaN.

    **Arguments:**

    - `name`: the name of the solution, different from every site of the model.
    - `field`: `field(t, y, args)`, the time derivative of the state, shaped like `y`.
    - `y0`: the state at `t0`, shape `(states,)` or `()`; with a mapped axis `(units, states)`.
    - `times`: the times wanted, in any order, repeats allowed, none before `t0`.
    - `t0`: the time that `y0` belongs to. With a leading axis it is mapped with the units.
    - `args`: whatever the field needs: parameters, networks, any tree of arrays.
    - `in_axes`: as in `jax.vmap`, over `(y0, times, args)`, to solve many units side by side.
    - `labels`, `unit`: names of the state's components and their unit.
    - `rtol`, `atol`: tolerances of the adaptive step size control; `atol` has the state's unit.
    - `solver`: a diffrax solver; by default `diffrax.Tsit5()`. For stiff systems `diffrax.Kvaerno5()`.
    - `max_steps`: steps after which a solve counts as failed; each jump of an input allows for two more.
    - `inputs`: what `bh.doses` and `bh.forcing` made: the solve stops at each of their jumps. Those with a row
      for each unit are mapped with the units, and a forcing called in the field is the unit's own.
    - `across`: what the units' axis counts, such as `"subject"`: the name of its plate and of the data's labels.

    **Returns:** a `Solution`: `ys` of shape `(times, states)`, with the units' axis in front when mapped,
    and `ok`, `steps`, `reason` per unit.

    **Raises:** `ModelError` where the field returns another shape than the state, where labels and states
    differ in number, and, when read by `infer` or `predict`, where the statement stands inside a `vmap` or
    `jit` written by hand.

    ```python
    def model(times):
        path = bh.solve_ode("path", lambda t, y, rate: -rate * y, jnp.ones(1), times, t0=0.0, args=0.5)
        numpyro.deterministic("end", path.ys[-1])
    assert abs(bh.simulate(model, {"times": jnp.array([2.0])}, key=0, draws=2).latent["end"].mean[0] - 0.3679) < 1e-4
    ```
    """
    name = _scoped(name)
    y0, times, start = (jnp.asarray(x, dtype=float) for x in (y0, times, t0))
    args = jax.tree.map(
        lambda x: jnp.asarray(x) if isinstance(x, np.ndarray) else x, args
    )  # vmap keeps them raw
    labels = tuple(labels or ())
    inputs = (inputs,) if isinstance(inputs, (Doses, Forcing)) else tuple(inputs)
    axes = _axes(in_axes, name)
    _check_shapes(name, y0, times, start, axes, labels)
    _check_across(name, across, axes)
    lanes = None if axes is None else (*axes, 0 if start.ndim else None, _input_axes(inputs))
    settings = {"solver": solver, **_precision(name, rtol, atol, max_steps, y0.dtype)}
    given = (y0, times, args, start, inputs)
    field = ode.uncompiled(field)
    system = _System(field, labels, settings)
    held = _asked(HELD, name)
    solution = (
        _solved(name, system, given, lanes, in_axes, _asked(GRID, name))
        if held is None
        else system.beside(held, given, lanes)
    )
    finite = solution._replace(ys=_finite(solution.ys, y0, axes))
    message = {
        "type": SOLUTION,
        "statement": name,
        "value": finite,
        "heard": False,
        "times": times,
        "start": start,
        "y0": y0,
        "labels": labels,
        "unit": unit,
        "across": across,
        "field": field,
        "args": args,
        "axes": lanes,
        "settings": settings,
        "inputs": inputs,
        "oddities": _Lazy(lambda: system.oddities(given, lanes)),
        "initial": lambda: system.initial(given, lanes, len(finite.ok) if axes else None),
        "stepped": lambda most, tolerance, stable: (system.stable() if stable else system).stepped(
            given, lanes, most, tolerance
        ),
        "visited": lambda: system.visited(finite.ys, given, lanes),
    }
    _publish(message)
    return message["value"] if message["heard"] else _unheard(name, solution, finite)


class _System(NamedTuple):
    """An equation with its settings, and the questions that are asked of one lane or of all.

    What is given to a lane is `(y0, times, args, t0, inputs)`, mapped by `lanes` where that is not `None`.
    """

    field: Callable[[Any, Array, Any], Array]
    labels: tuple[str, ...]
    settings: dict[str, Any]

    def solve(self, given, lanes, grid=None):
        """The solution, on a grid of steps where there is one: for all units, one row for each, or in buckets.

        In place of a grid there may be a relaxation, with the units in front of its arrays where they are mapped.
        """
        if isinstance(grid, Stable):
            return self.stable().solve(given, lanes, grid.grid)
        if isinstance(grid, Buckets):
            parts = [
                self.solve(_units_of(given, lanes, units), lanes, ends)
                for units, ends in zip(grid.units, grid.ends, strict=True)
            ]
            return jax.tree.map(lambda *x: jnp.concatenate(x)[grid.order], *parts)

        def lane(grid, y0, times, args, start, inputs):
            settings = {"labels": self.labels, "inputs": inputs, **self.settings}
            if relaxed:
                return grid.solve(self.field, y0, times, start, args, **settings)
            return ode.solve(self.field, y0, times, start, args, grid=grid, **settings)

        relaxed = isinstance(grid, Relaxation)
        own = 0 if relaxed or (grid is not None and jnp.ndim(grid) == 2) else None
        return _mapped(lane, lanes and (own, *lanes))(grid, *given)

    def stable(self):
        """The same equation with an implicit solver."""
        return self._replace(settings=self.settings | {"solver": lean.STABLE})

    def stepped(self, given, lanes, most, tolerance):
        """Where an adaptive solve of this relative tolerance steps, or of the stated one if finer, in so many steps."""
        settings = self.settings | {"max_steps": min(self.settings["max_steps"], most)}
        looser = jnp.maximum(1.0, tolerance / settings["rtol"])
        settings |= {name: looser * settings[name] for name in ("rtol", "atol")}

        def lane(y0, times, args, start, inputs):
            return ode.accepted_steps(
                self.field, y0, times, start, args, labels=self.labels, inputs=inputs, **settings
            )

        return _mapped(lane, lanes)(*given)

    def beside(self, held, given, lanes):
        """The solution with the networks held at what they say along the run that `held` tells of.

        Both are solved as one system, so that the answers of the networks are those at the very time.
        """

        def lane(own, there):
            y0, times, args, start, inputs = own
            first, _, first_args, _, first_inputs = there
            size = first.size

            def both(t, y, args):
                with recording() as notes, replaying(None):
                    slope = held["field"](t, y[:size].reshape(first.shape), args[0])
                with replaying(notes):
                    changed = self.field(t, y[size:].reshape(y0.shape), args[1])
                return jnp.concatenate([jnp.ravel(slope), jnp.ravel(changed)])

            solution = ode.solve(
                both,
                jnp.concatenate([jnp.ravel(first), jnp.ravel(y0)]),
                times,
                start,
                (first_args, args),
                inputs=[
                    *entering(first_inputs, size, held["labels"]),
                    *entering(inputs, y0.size, self.labels, size),
                ],
                **self.settings,
            )
            return solution._replace(ys=solution.ys[:, size:].reshape(len(times), *y0.shape))

        there = tuple(held[what] for what in ("y0", "times", "args", "start", "inputs"))
        return _mapped(lane, lanes and (lanes, held["axes"]))(given, there)

    def initial(self, given, lanes, size):
        """State, time and slope at the start, and what is wrong with each input."""

        def lane(y0, times, args, start, inputs):
            with binding(_forcings(inputs)):
                slope = self.field(start, y0, args)
            told = {"y0": jnp.ravel(y0), "t0": start, "slope": jnp.ravel(slope), "last": jnp.max(times)}
            return told | ({"flaws": flaws(inputs, start, jnp.max(times))} if inputs else {})

        # Nothing of the start may be mapped, only the times.
        return _mapped(lane, lanes, axis_size=size)(*given)

    def visited(self, ys, given, lanes):
        """What each network was asked and answered along the solution, and what each part of a join said."""

        def lane(ys, y0, times, args, start, inputs):
            with binding(_forcings(inputs)):
                return jax.vmap(lambda t, y: _noted(self.field, t, y, args))(times, ys)

        return _mapped(lane, lanes and (0, *lanes))(ys, *given)

    def oddities(self, given, lanes):
        """Sentences about jumps in time that were not declared; the field is traced, nothing is computed."""
        found = []

        def lane(y0, times, args, start, inputs):
            found.extend(undeclared(self.field, start, y0, args, _forcings(inputs)))
            return 0

        jax.eval_shape(_mapped(lane, lanes, out_axes=None), *given)
        return tuple(found)


class _Lazy:
    """A sequence that is found when somebody reads it."""

    def __init__(self, find):
        self._find = find

    def __iter__(self):
        return iter(self._find())


def _mapped(lane, lanes, **options):
    return lane if lanes is None else jax.vmap(lane, in_axes=lanes, **options)


def _units_of(given, lanes, units):
    """What is given to these units only."""

    def rows(axis, part):
        return part if axis is None else jax.tree.map(lambda x: jnp.take(x, units, axis, mode="clip"), part)

    return jax.tree.map(rows, lanes, given, is_leaf=lambda axis: axis is None)


def _forcings(inputs):
    return [each for each in inputs if isinstance(each, Forcing)]


def _input_axes(inputs):
    """Which inputs have a row for each unit."""
    return tuple(0 if getattr(each, "times", jnp.zeros(0)).ndim == 2 else None for each in inputs)


def _solved(name, system, given, lanes, in_axes, grid):
    """The solution, with errors that name the statement."""
    try:
        return system.solve(given, lanes, grid)
    except ModelError as error:
        raise ModelError(f"solve_ode({name!r}): {error}") from None
    except ValueError as error:
        if "inconsistent sizes" not in str(error):
            raise
        y0, times, args, start, inputs = given
        shapes = [each.times.shape for each in inputs]
        raise ModelError(
            f"solve_ode({name!r}): in_axes={in_axes} maps axes of different length: y0 has shape {y0.shape}, times "
            f"{times.shape}, t0 {start.shape}, args {jax.tree.map(jnp.shape, args)}"
            + (f", times of the inputs {shapes}" if shapes else "")
        ) from None


def _check_across(name, across, axes):
    if across is not None and axes is None:
        raise ModelError(
            f"solve_ode({name!r}): across={across!r} names the axis of units, but nothing is mapped: give in_axes"
        )


def _asked(kind, name):
    """What a listener answers to a message of this kind: `None` where nobody does."""
    nobody = {"fn": lambda: None, "args": (), "kwargs": {}}
    return apply_stack({"type": kind, "statement": name, "value": None, **nobody})["value"]


def _precision(name, rtol, atol, max_steps, dtype):
    """Tolerances and steps, finer where a listener asks for it, never finer than the precision can give."""
    finer = apply_stack({"type": PRECISION, "statement": name, "value": 1.0})["value"]
    if finer == 1:
        return {"rtol": rtol, "atol": atol, "max_steps": max_steps}
    least = 2 * ode.ROUNDINGS_IN_TOLERANCE * float(jnp.finfo(dtype).eps)
    return {
        "rtol": max(rtol / finer, min(rtol, least)),
        "atol": atol / finer,
        "max_steps": int(max_steps * 2 * finer**STEPS_PER_PRECISION),
    }


def _publish(message):
    """To all handlers; to ours also past numpyro's `block`, which hides sites and must not hide a failure."""
    apply_stack(message)
    for handler in reversed(_PYRO_STACK):
        if not message["heard"] and getattr(handler, "hears_solutions", False):
            handler.process_message(message)


def _scoped(name):
    """The name with the prefixes that `numpyro.handlers.scope` gives to the sites around it."""
    for handler in reversed(_PYRO_STACK):
        if isinstance(handler, numpyro.handlers.scope):
            name = f"{handler.prefix}{handler.divider}{name}"
    return name


def _axes(in_axes, name):
    """The three entries of `in_axes`, `None` where nothing is mapped."""
    if in_axes is None:
        return None
    if isinstance(in_axes, int):
        return (in_axes, in_axes, in_axes)
    if len(in_axes) != 3:
        raise ModelError(
            f"solve_ode({name!r}): in_axes has {len(in_axes)} entries, it needs three: (y0, times, args), "
            "for example in_axes=(0, None, 0)"
        )
    return tuple(in_axes)


def _check_shapes(name, y0, times, start, axes, labels):
    mapped_y0, mapped_times = (axes[0] is not None, axes[1] is not None) if axes else (False, False)
    hint = "; to solve many units side by side give in_axes, as in jax.vmap" if axes is None else ""
    if y0.ndim - mapped_y0 > 1:
        raise ModelError(f"solve_ode({name!r}): y0 has shape {y0.shape}, a state is () or (states,){hint}")
    if times.ndim - mapped_times != 1:
        raise ModelError(f"solve_ode({name!r}): times has shape {times.shape}, expected (times,){hint}")
    if start.ndim > (axes is not None):
        raise ModelError(f"solve_ode({name!r}): t0 has shape {start.shape}, expected one time{hint}")
    states = y0.size // (y0.shape[axes[0]] if axes and mapped_y0 else 1)
    if labels and len(labels) != states:
        raise ModelError(f"solve_ode({name!r}): {len(labels)} labels {tuple(labels)} for {states} states")


def _noted(field, t, y, args):
    """What each network was asked and answered, and what each part of a join said, in one evaluation of the field."""
    with recording() as notes, listening() as said:
        field(t, y, args)
    return notes, together(said)


def _finite(ys, y0, axes):
    """The solution with the start in place of what a failed solve left undefined.

    numpyro refuses a distribution whose parameter is NaN in its eager first trace, and the start is a value
    that the model's own likelihood must be able to take.
    """
    if axes is not None and axes[0] is not None:
        y0 = jnp.expand_dims(jnp.moveaxis(y0, axes[0], 0), 1)
    start = jnp.where(jnp.isfinite(y0), y0, 1.0)
    return jnp.where(jnp.isfinite(ys), ys, jnp.broadcast_to(start, ys.shape))


def _unheard(name, solution, finite):
    """The value where no `Target` listens and so nobody else will see that the solve failed.

    Traced values keep their NaN, which numpyro's own samplers reject; an eager call cannot (numpyro's
    validation raises) and warns instead.
    """
    if isinstance(solution.ok, Tracer):
        return solution
    if not bool(jnp.all(solution.ok)):
        reasons = sorted({ode.describe(int(code)) for code in np.ravel(solution.reason) if code})
        warnings.warn(f"solve_ode({name!r}) failed: {', '.join(reasons)}", RuntimeWarning, stacklevel=3)
    return finite
