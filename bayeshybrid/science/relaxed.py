"""Solves made easier to fit: cut short, cut into segments, or replaced by a curve that need not obey the equation.

A relaxed solve answers at the times asked for and says how far it is from a solution. Made to be one, step by step, it
leads to fits that a solve from the start does not find: over a long time the likelihood has many maxima and steep
slopes, over short pieces it has not.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from bayeshybrid.faults import ModelError
from bayeshybrid.science import ode
from bayeshybrid.science.inputs import Doses, Forcing, binding
from bayeshybrid.science.ode import Solution

__all__ = ["Curve", "Free", "Relaxation", "Segments", "Shortened"]


class Relaxation(eqx.Module):
    """What stands in place of a solve; its arrays are those of one unit, or have the units in front."""

    @abstractmethod
    def solve(
        self,
        field: Callable[[Any, Array, Any], Array],
        y0: Float[Array, " states"],
        times: Float[Array, " times"],
        t0: Float[Array, ""],
        args: Any,
        **settings: Any,
    ) -> Solution:
        """As `ode.solve`, with the distance from a solution, entry by entry, in `defect`."""


class Shortened(Relaxation):
    """A solve that ends after a share of its time; later times are told the state at that end.

    - `share`: of the time from the start to the last time.
    """

    share: Float[Array, ""]

    def solve(self, field, y0, times, t0, args, **settings):
        """See `Relaxation`."""
        end = t0 + self.share * (jnp.max(times) - t0)
        return ode.solve(field, y0, jnp.minimum(times, end), t0, args, **settings)


class Free(eqx.Module):
    """States as unknowns: any real numbers `u` in units of each component's scale, above zero where it always is.

    - `scale`: size of each component, `(states,)`.
    - `positive`: which of them are above zero, `(states,)`: there a state is `scale * exp(u)`, else `scale * u`.
    """

    scale: Float[Array, " states"]
    positive: Bool[Array, " states"]

    def states(self, u: Float[Array, "... states"]) -> Float[Array, "... states"]:
        """The states at `u`."""
        positive, scale = (jnp.expand_dims(x, range(u.ndim - 1)) for x in (self.positive, self.scale))
        # A component that is not exponentiated is not allowed to overflow there, or its gradient would be NaN.
        grown = jnp.exp(jnp.where(positive, u, 0.0))
        return scale * jnp.where(positive, grown, u)

    def slopes(self, u: Float[Array, " states"], rate: Float[Array, " states"]) -> Float[Array, " states"]:
        """The time derivative of a state, where `u` has that rate."""
        return jax.jvp(self.states, (u,), (rate,))[1]


class Segments(Relaxation):
    """Multiple shooting (Bock and Plitt 1984): each segment of equal length starts at a state of its own.

    - `begin`: the unknowns of the states at which all segments but the first start, `(segments - 1, states)`.
    - `free`: what states they are.

    How far the end of each segment is from the start of the next one, in units of `free.scale`, is `defect`.
    """

    begin: Float[Array, "inner states"]
    free: Free

    def solve(self, field, y0, times, t0, args, **settings):
        """See `Relaxation`."""
        _refuse_doses(settings)
        shape, pieces = y0.shape, len(self.begin) + 1
        edges = t0 + jnp.linspace(0.0, 1.0, pieces + 1) * (jnp.max(times) - t0)
        inner = self.free.states(self.begin).reshape(pieces - 1, *shape)
        starts = jnp.concatenate([y0[None], inner])

        def segment(start, begin, end):
            return ode.solve(
                field, start, jnp.append(jnp.clip(times, begin, end), end), begin, args, **settings
            )

        each = jax.vmap(segment)(starts, edges[:-1], edges[1:])
        # A time on an edge belongs to the segment before it, since its events are not over.
        owner = jnp.clip(jnp.searchsorted(edges, times, side="left") - 1, 0, pieces - 1)
        ys = each.ys[owner, jnp.arange(len(times))]
        defect = (each.ys[:-1, -1] - inner).reshape(pieces - 1, -1) / self.free.scale[None]
        return Solution(ys, jnp.all(each.ok), jnp.sum(each.steps), jnp.max(each.reason), defect)


class Curve(Relaxation):
    """Collocation: a natural cubic spline of the unknowns through equally spaced knots, in place of a solution.

    - `knots`: the unknowns at the knots, `(knots, states)`.
    - `free`: what states they are.

    `defect` is the difference of its slope and that of the field, at the knots and midway between them, times the
    spacing and in units of `free.scale`; and the difference from the start.
    """

    knots: Float[Array, "knots states"]
    free: Free

    def solve(self, field, y0, times, t0, args, **settings):
        """See `Relaxation`."""
        _refuse_doses(settings)
        shape, count = y0.shape, len(self.knots)
        forcings = [each for each in settings.get("inputs", ()) if isinstance(each, Forcing)]
        length = jnp.max(times) - t0
        spacing = jnp.where(length > 0, length, 1.0) / (count - 1)
        bends = jnp.asarray(_natural(count), self.knots.dtype) @ self.knots

        def at(place):
            """Unknowns and their rate at a place counted in knots (de Boor 1978, chapter IV)."""
            left = jnp.clip(jnp.floor(place).astype(int), 0, count - 2)
            x = place - left
            near, far, bend, bent = self.knots[left], self.knots[left + 1], bends[left], bends[left + 1]
            u = (1 - x) * near + x * far + (((1 - x) ** 3 - (1 - x)) * bend + (x**3 - x) * bent) / 6
            rate = far - near + ((1 - 3 * (1 - x) ** 2) * bend + (3 * x**2 - 1) * bent) / 6
            return u, rate

        def differs(place):
            u, rate = at(place)
            state = self.free.states(u)
            with binding(forcings):
                slope = jnp.ravel(field(t0 + place * spacing, state.reshape(shape), args))
            return (self.free.slopes(u, rate) - spacing * slope) / self.free.scale

        places = jnp.arange(2 * count - 1) / 2
        inside = jax.vmap(differs)(places) / jnp.sqrt(2.0)
        begun = (self.free.states(self.knots[0]) - jnp.ravel(y0)) / self.free.scale
        ys = jax.vmap(lambda time: self.free.states(at((time - t0) / spacing)[0]))(times)
        finite = jnp.all(jnp.isfinite(ys)) & jnp.all(jnp.isfinite(inside))
        return Solution(
            ys.reshape(len(times), *shape),
            finite,
            jnp.zeros((), jnp.int32),
            jnp.where(finite, ode.Reason.SOLVED, ode.Reason.NOT_FINITE).astype(jnp.int32),
            jnp.concatenate([inside, begun[None]]),
        )


def _refuse_doses(settings):
    if any(isinstance(each, Doses) for each in settings.get("inputs", ())):
        raise ModelError(
            "a solve with doses jumps, and neither segments of equal length nor a smooth curve do: train it with "
            "GrowingInterval instead"
        )


@lru_cache(maxsize=32)
def _natural(count: int) -> np.ndarray:
    """From values at knots one apart to second derivatives of the natural cubic spline through them."""
    if count < 3:
        raise ModelError(f"a curve through {count} knots cannot bend: write 3 or more")
    inner = count - 2
    bands = 4 * np.eye(inner) + np.eye(inner, k=1) + np.eye(inner, k=-1)
    differences = np.eye(inner, count) - 2 * np.eye(inner, count, k=1) + np.eye(inner, count, k=2)
    return np.pad(6 * np.linalg.solve(bands, differences), ((1, 1), (0, 0)))
