"""A target whose solves are relaxed: the density that a recipe climbs on its way to the target's own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from bayeshybrid.faults import ModelError
from bayeshybrid.science.relaxed import Free, Relaxation, Shortened
from bayeshybrid.survey import in_batches
from bayeshybrid.target import Target, guarded
from bayeshybrid.tracing import Run

NEAREST = 8  # one in so many points, those of highest density, tells how large states are
LOOKED_AT = 8  # points at which it is seen which observations depend on later states
PLACES = 3  # the fewest of which every relaxation can be made

__all__ = ["Relaxed", "finest", "loosened", "relaxable", "shortened", "solved"]


class _Size(NamedTuple):
    size: int


class Relaxed(eqx.Module):
    """A target of other solves and fewer observations, as a density over its unknowns and those of its solves.

    - `target`: the model as stated.
    - `plans`: solve name to its relaxation, where that has no unknowns of its own.
    - `free`: solve name to what states its unknowns are.
    - `cells`: observed site to 1 for each entry of its log probability that counts, and 0 for the others.
    - `strength`: how many units of a state's scale a relaxed solve may be from a solution, inverted.
    - `shapes`: of the unknowns of each solve; `build`: makes a relaxation of them.

    A relaxed solve obeys its equation up to a normal error of standard deviation `scale / strength`, a prior on the
    trajectory that is made tighter and tighter.
    """

    target: Target
    plans: dict[str, Relaxation]
    free: dict[str, Free]
    cells: dict[str, Array]
    strength: Array
    shapes: tuple[tuple[str, tuple[int, ...]], ...] = eqx.field(static=True)
    build: Callable[..., Relaxation] | None = eqx.field(static=True)

    @property
    def layout(self) -> _Size:
        """How many numbers the vector of unknowns has."""
        return _Size(self.target.layout.size + sum(int(np.prod(shape)) for _, shape in self.shapes))

    def log_density(self, q: Float[Array, " size"]) -> Float[Array, ""]:
        """Finite, or `-inf` with gradient zero."""
        return guarded(self, q, None)

    def run_at(self, q: Float[Array, " size"], key: Any = None) -> Run:
        """One run of the model with the solves relaxed."""
        plans = dict(self.plans)
        at = self.target.layout.size
        for name, shape in self.shapes:
            count = int(np.prod(shape))
            assert self.build is not None
            plans[name] = self.build(q[at : at + count].reshape(shape), self.free[name])
            at += count
        return self.target.frozen(plans).run_at(q[: self.target.layout.size], key)

    def densities(self, found: Run) -> tuple[Array, Array]:
        """Log prior with what keeps solves near their equations, and log likelihood of what counts."""
        prior, likelihood = self.target.densities(found, self.cells)
        for message in found.solutions.values():
            if message["value"].defect is not None:
                prior = prior - 0.5 * self.strength**2 * jnp.sum(message["value"].defect ** 2)
        return prior, likelihood


def shortened(target: Target, points: np.ndarray, share: float) -> Relaxed | None:
    """The target up to a share of the time of each solve, `None` where nothing was measured until then.

    Later observations do not count: those that depend on the solution behind that time.

    **Arguments:**

    - `points`: where it is asked which those are, `(n, size)`.
    """
    cells = {} if share >= 1 else _early(target, points, share)
    if share < 1 and not any(np.any(kept) for kept in cells.values()):
        return None
    return Relaxed(target, dict(_until(target, share)), {}, cells, jnp.ones(()), (), None)


def loosened(
    target: Target, points: np.ndarray, places: int, build: Callable[..., Relaxation], strength: float = 1.0
) -> Relaxed:
    """The target with so many states of each solve as unknowns.

    **Arguments:**

    - `points`: the states that solves reach there tell sizes, and which of them are above zero, `(n, size)`. A size is
      the median of the largest values, at those points that are nearest to the data: elsewhere solves may explode.
    - `build`: from unknowns and `Free` to the relaxation of a solve.
    - `strength`: of the equation.
    """
    shapes, free = _places(target, places), {}
    told, heights = in_batches(lambda rows: _reached(target, rows), points)
    nearest = np.argsort(-heights, kind="stable")[: max(1, len(points) // NEAREST)]
    for name, (*units, _, states) in shapes:
        ys = np.concatenate([each.reshape(len(points), -1, states) for each in told[name]], axis=1)
        finite = np.isfinite(ys)
        size = np.median(np.max(np.where(finite, np.abs(ys), 0.0), axis=1)[nearest], axis=0)
        chosen = Free(
            jnp.asarray(np.where(size > 0, size, 1.0)), jnp.asarray(np.all(~finite | (ys > 0), axis=(0, 1)))
        )
        free[name] = jax.tree.map(lambda x, units=units: jnp.broadcast_to(x, (*units, *x.shape)), chosen)
    return Relaxed(target, {}, free, {}, jnp.asarray(float(strength)), shapes, build)


def relaxable(target: Target, build: Callable[..., Relaxation]) -> None:
    """Raise a `ModelError` where a solve cannot have states as unknowns; nothing is computed."""
    shapes = _places(target, PLACES)
    free = {
        name: Free(jnp.ones((*units, states)), jnp.ones((*units, states), bool))
        for name, (*units, _, states) in shapes
    }
    density = Relaxed(target, {}, free, {}, jnp.ones(()), shapes, build)
    jax.eval_shape(density.log_density, jax.ShapeDtypeStruct((density.layout.size,), float))


def _places(target, places):
    """The shape of the unknowns of each solve: units where it is mapped, times, states."""
    return tuple(
        (solve.name, (*solve.shape[:mapped], places, int(np.prod(solve.shape[1 + mapped :]))))
        for solve, mapped in solved(target)
    )


def finest(target: Target, q: Float[np.ndarray, " size"]) -> float:
    """How often the shortest gap between the times asked of a solve goes into all of its time, at the unknowns `q`.

    The largest of all solves and units; several times that are the same count as one.
    """
    told = [0.0]
    for start, times in _asked(target, q):
        start, times = np.reshape(start, (-1, 1)), np.atleast_2d(times)
        units = max(len(start), len(times))
        rows = (np.broadcast_to(each, (units, each.shape[1])) for each in (start, times))
        gaps = np.diff(np.sort(np.concatenate(tuple(rows), axis=1), axis=1))
        if np.any(gaps > 0):
            told.append(float(gaps.sum(axis=1).max() / gaps[gaps > 0].min()))
    return max(told)


@jax.jit
def _asked(target, q):
    """Where each solve starts, and the times that are asked of it."""
    solutions = target.run_at(q, solved=False).solutions.values()
    return [(each["start"], each["times"]) for each in solutions]


def _until(target, share):
    """Of each solve the one that ends after that share of its time, for each unit where it is mapped."""
    return {
        solve.name: Shortened(jnp.full(solve.shape[:1] if mapped else (), share))
        for solve, mapped in solved(target)
    }


def solved(target: Target) -> list[tuple[Any, bool]]:
    """The solves of a target, and whether each is mapped over units.

    **Raises:** `ModelError` where there are none.
    """
    if not target.layout.solves:
        raise ModelError("this model solves no equation: there is nothing to relax. Write Adam() and LBFGS()")
    mapped = _mapped(target)
    return [(solve, mapped[solve.name]) for solve in target.layout.solves]


def _mapped(target):
    """Which solves are mapped over units."""
    found = {}

    def asked(q):
        solutions = target.run_at(q, solved=False).solutions
        found.update({name: message["axes"] is not None for name, message in solutions.items()})
        return 0

    jax.eval_shape(asked, jax.ShapeDtypeStruct((target.layout.size,), float))
    return found


@jax.jit
def _reached(target, rows):
    """The states at which each solve starts and those that it reaches at the times asked for, and the log density."""

    def told(q):
        solutions = target.run_at(q).solutions.items()
        return {name: (each["y0"], each["value"].ys) for name, each in solutions}, target.log_density(q)

    return jax.vmap(told)(rows)


class _Marked(Relaxation):
    """A shortened solve whose states behind its end are others."""

    inner: Shortened

    def solve(self, field, y0, times, t0, args, **settings):
        """See `Relaxation`."""
        solution = self.inner.solve(field, y0, times, t0, args, **settings)
        later = times > t0 + self.inner.share * (jnp.max(times) - t0)
        other = solution.ys + 0.1 * (1.0 + jnp.abs(solution.ys))
        return solution._replace(
            ys=jnp.where(jnp.expand_dims(later, range(1, other.ndim)), other, solution.ys)
        )


def _early(target, points, share):
    """Of each observed site 1 where its log probability is the same whatever states come behind that time."""
    plans = _until(target, share)
    marked = {name: _Marked(plan) for name, plan in plans.items()}
    one, other = (_pointwise(target.frozen(each), points[:LOOKED_AT]) for each in (plans, marked))
    found = {}
    for name, each in one.items():
        told, same = np.asarray(each), np.all(np.asarray(each == other[name]), axis=0)
        # What is missing has zero everywhere; what is impossible either way does not tell on what it depends.
        found[name] = (same & np.any(np.isfinite(told) & (told != 0), axis=0)).astype(float)
    return found


@jax.jit
def _pointwise(target, rows):
    return jax.vmap(lambda q: target.pointwise(q))(rows)
