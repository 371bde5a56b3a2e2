"""Frozen grids of steps: learned from adaptive solves near the basins, and held against them afterwards.

On a grid a solve costs a fraction of an adaptive one (`science.lean`), and does not notice its own error. So what was
drawn on grids counts only with a `certificate`, and what was never drawn because of them is looked for by `compare`.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bayeshybrid import configuration
from bayeshybrid.inference.convergence import FEW, MOVED_LITTLE, MOVED_MUCH
from bayeshybrid.inference.importance import Weights, shape_limit, weigh
from bayeshybrid.inference.trajectories import slopes
from bayeshybrid.science import lean, pacing
from bayeshybrid.science.inputs import Doses
from bayeshybrid.survey import ask
from bayeshybrid.target import Target
from bayeshybrid.tracing import abstract
from bayeshybrid.verdict import Check

MOST_STEPS = 1024
MOST_ADAPTIVE_STEPS = 4 * MOST_STEPS
POINTS_AT_ONCE = 16  # each keeps the ends of all its steps, for every unit
FEWEST_SOLVED = 0.5
APART = 1.0
ENOUGH = 1e-3

# Where some solves are far stiffer than others, a grid is either dear for most or not stable for a few: with steps
# that suit most a hierarchical model had divergences at the border, and with steps that suit all it was slower.
ALIKE = 8.0

__all__ = ["Certificate", "Comparison", "certificate", "compare", "learn", "refine", "stepped_over"]


def learn(
    target: Target,
    points: np.ndarray,
    stretch: float = 1.0,
    earlier: Mapping[str, Any] | None = None,
    steadier: bool = False,
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """A grid of steps for each solve for which one can stand.

    At each time the grid is as fine as the finest of adaptive solves at the points, at a tolerance of 1e-3 where the
    stated one is finer: the error of single steps is far below what a posterior feels. Steps end at the start, at every
    time wanted and at every jump of an input. The number of steps is rounded up to a power of two by splitting
    the longest ones in those units, so that few programs serve many grids.

    **Arguments:**

    - `target`: with adaptive solves, as it is built.
    - `points`: `(m, size)`, 16 to 64 draws near the basins.
    - `stretch`: how many times longer than those of the adaptive solves the steps may be.
    - `earlier`: plans that there were, whose numbers of steps are kept if fewer would do but not far fewer: so that a
      program which was compiled for them serves again.
    - `steadier`: whether a Rosenbrock method shall replace explicit ones wherever it can.

    **Returns:** plans for `Target.frozen`, solve name to `(n + 1,)`, `(units, n + 1)` or
      `pacing.Buckets`, and a sentence for each
    solve that has none: its solver is neither an explicit Runge-Kutta method nor an implicit one, or an implicit
      one with more than 16 states; its start, its times or the times of its inputs depend on the unknowns; more than
      half of its points failed; more than 1024 steps would be needed; or the finest grid would have over eight times
      as many steps as a solve makes by itself. In the last two cases an explicit method of up to 16 states gives way to
      a Rosenbrock method (`pacing.Stable`), whose grid is learned from an implicit solver.

    ```python
    from bayeshybrid.inference.grids import learn
    def model(times, y=None):
        rate = numpyro.sample("rate", dist.LogNormal())
        path = bh.solve_ode("path", lambda t, y, k: -k * y, 1.0, times, t0=0.0, args=rate)
        bh.observe("y", dist.Normal(path.ys, 0.1), obs=y)
    target = bh.Target(model, {"times": np.array([1.0, 2.0]), "y": np.array([0.4, 0.1])})
    plans, notes = learn(target, np.zeros((4, 1)))
    assert 1.0 in plans["path"] and 2.0 in plans["path"] and not notes
    ```
    """
    target, points, earlier = target.frozen({}), np.asarray(points), earlier or {}
    obstacles = abstract(_obstacles, target, points[0])
    found = {name: why for name, (why, _) in obstacles.items() if why}
    stable = {
        name
        for name, (_, unable) in obstacles.items()
        if isinstance(earlier.get(name), pacing.Stable) or (steadier and not unable)
    }
    able = tuple(name for name in obstacles if name not in found and name not in stable)
    found |= _plans(target, points, able, stretch, earlier)
    stable |= {name for name in able if isinstance(found[name], _TooFine) and not obstacles[name][1]}
    found |= {
        name: plan if isinstance(plan, str) else pacing.Stable(plan)
        for name, plan in _plans(target, points, tuple(sorted(stable)), stretch, earlier, stable=True).items()
    }
    plans = {
        name: jax.tree.map(jnp.asarray, plan) for name, plan in found.items() if not isinstance(plan, str)
    }
    notes = [f"{name}: no frozen grid, {why}" for name, why in found.items() if isinstance(why, str)]
    notes += [
        f"{name}: steps of an explicit method would have to be far shorter for some draws than for most, so draws are "
        "made by a Rosenbrock method"
        for name in plans
        if name in stable
    ]
    return plans, tuple(notes)


def _plans(target, points, names, stretch, earlier, stable=False):
    """Solve name to its grid, or why there is none."""
    steps = _steps(target, points, names, stable) if names else {}
    return {name: _plan(told, stretch, earlier.get(name)) for name, told in steps.items()}


def refine(plans: Mapping[str, Any]) -> dict[str, Any]:
    """The same grids with every step halved.

    ```python
    from bayeshybrid.inference.grids import refine
    assert refine({"path": np.array([0.0, 1.0, 3.0])})["path"].tolist() == [0.0, 0.5, 1.0, 2.0, 3.0]
    ```
    """
    return {name: jax.tree.map(jnp.asarray, pacing.halved(grid)) for name, grid in plans.items()}


class Certificate(NamedTuple):
    """What draws made on frozen grids are worth.

    - `check`: for the verdict; failed where the grids must be refined.
    - `verdict`: `"pass"`; `"weigh"`, where the draws must be weighted; `"refine"`; or `"adaptive"`, where draws lie in
      a region that only the grids can solve, which finer ones would only make smaller.
    - `differences`: `(n,)`, log density of adaptive solves minus that on the grids; `-inf` where only the former
      fail, NaN where the latter do.
    - `weights`: of the draws that did not fail on the grids, in their order.
    - `lost`: share of all points that fail on the grids and not otherwise.
    """

    check: Check
    verdict: Literal["pass", "weigh", "refine", "adaptive"]
    differences: np.ndarray
    weights: Weights
    lost: float


def certificate(target: Target, frozen: Target, draws: np.ndarray) -> Certificate:
    """Whether draws made on frozen grids are draws of the posterior, or can be weighted to be.

    No posterior mean is off by more than the coefficient of variation of the weights, in posterior standard
    deviations (Timonen et al. 2023, arXiv:2205.09059): below 0.1 is a pass, up to 0.7 the weights are to be applied
    if their Pareto k-hat allows, and above the grids are too coarse. So they are where more than 0.1 % of the points
    fail on them alone. Where the grids step over what makes adaptive solves fail, such as a pole, none serves. It
    cannot see what was never drawn: `compare` looks there.

    **Arguments:**

    - `target`, `frozen`: with adaptive solves, of the stated or a finer tolerance, and with grids.
    - `draws`: `(n, size)`, at least a thousand; proposals that failed may stand among them.
    """
    accurate, cheap = _accurate(target, draws), slopes(frozen, draws)[0]
    drawn, lost = np.isfinite(cheap), float(np.mean(~np.isfinite(cheap) & np.isfinite(accurate)))
    differences = np.full(len(accurate), np.nan)
    differences[drawn] = accurate[drawn] - cheap[drawn]
    weights = weigh(differences[drawn])
    gained = float(np.mean(drawn & ~np.isfinite(accurate)))
    if gained:
        return Certificate(stepped_over(gained), "adaptive", differences, weights, lost)
    variation = np.sqrt(max(0.0, drawn.sum() / weights.effective - 1)) if weights.count else np.inf
    name, remedy = "frozen step grid (weights' variation)", "learn a finer grid: halve its steps and repeat"
    if lost > FEW:
        name = "points that fail on the frozen step grid and are solved adaptively"
        return Certificate(Check(name, "fail", lost, FEW, "", remedy), "refine", differences, weights, lost)
    if variation < MOVED_LITTLE:
        check = Check(name, "pass", variation, MOVED_LITTLE)
        return Certificate(check, "pass", differences, weights, lost)
    if variation < MOVED_MUCH and weights.shape <= shape_limit(weights.count):
        check = Check(
            name, "pass with remarks", variation, MOVED_LITTLE, "", "weight the draws, or learn a finer grid"
        )
        return Certificate(check, "weigh", differences, weights, lost)
    place = f"Pareto k-hat {weights.shape:.2f}"
    check = Check(name, "fail", variation, MOVED_MUCH, place, remedy)
    return Certificate(check, "refine", differences, weights, lost)


def stepped_over(share: float) -> Check:
    """The failed check of draws that only frozen grids can solve, of which there are such a share.

    ```python
    from bayeshybrid.inference.grids import stepped_over
    assert stepped_over(0.01).state == "fail"
    ```
    """
    return Check("draws that only the frozen step grid solves", "fail", share, 0.0, "", "solve adaptively")


class Comparison(NamedTuple):
    """Where frozen grids and adaptive solves disagree.

    - `accurate`, `cheap`: kind of point to log densities, `(n,)`, `-inf` where they fail.
    - `lost`: kind of point to the places that fail on the grids and are solved adaptively.
    - `apart`: kind of point to the places within reach of the best whose log densities differ by more than 1.
    - `notes`: a sentence for each kind with any of these.
    - `sound`: whether nothing within reach of the best was lost or is apart.
    """

    accurate: dict[str, np.ndarray]
    cheap: dict[str, np.ndarray]
    lost: dict[str, np.ndarray]
    apart: dict[str, np.ndarray]
    notes: tuple[str, ...]
    sound: bool


def compare(target: Target, frozen: Target, points: Mapping[str, np.ndarray]) -> Comparison:
    """Log densities by adaptive solves and on frozen grids where nothing may have been drawn.

    A point is within reach where the higher of its two log densities lies within `10 + size / 2` of the highest
    accurate one: draws of a posterior lie about `size / 2` below its mode, and what is e^10 times rarer does not count.

    **Arguments:**

    - `target`, `frozen`: with adaptive solves and with grids.
    - `points`: `(n, size)` by kind, such as all optimised starts, the discarded ones too, `"starts"`; 200 prior
      draws, `"prior"`; and draws inflated twofold about their mean, `"inflated"`.
    """
    sizes = {kind: len(rows) for kind, rows in points.items()}
    rows = np.concatenate([np.asarray(rows) for rows in points.values()])
    splits = np.cumsum(list(sizes.values()))[:-1]

    def by_kind(values):
        return dict(zip(sizes, np.split(values, splits), strict=True))

    accurate, cheap = _accurate(target, rows), slopes(frozen, rows)[0]
    reach = accurate.max() - 10 - rows.shape[1] / 2
    near = np.maximum(accurate, cheap) >= reach
    lost = np.isfinite(accurate) & ~np.isfinite(cheap)
    with np.errstate(invalid="ignore"):
        differences = cheap - accurate
        apart = near & ~lost & (np.abs(differences) > APART)
    notes = []
    for kind, missing, near_missing, off, by in zip(
        sizes, *(by_kind(x).values() for x in (lost, lost & near, apart, differences)), strict=True
    ):
        if missing.any():
            notes.append(
                f"{missing.sum()} of {sizes[kind]} points ({kind}) fail on the frozen grid and are solved adaptively, "
                f"{near_missing.sum()} of them within reach of the best"
            )
        if off.any():
            worst = by[off][np.argmax(np.abs(by[off]))]
            notes.append(
                f"{off.sum()} of {sizes[kind]} points ({kind}) within reach of the best differ in log density, by up "
                f"to {worst:+.3g} on the frozen grid"
            )
    return Comparison(
        by_kind(accurate),
        by_kind(cheap),
        {kind: np.flatnonzero(some) for kind, some in by_kind(lost).items()},
        {kind: np.flatnonzero(some) for kind, some in by_kind(apart).items()},
        tuple(notes),
        not np.any(apart | lost & near),
    )


def _accurate(target, points):
    """Log densities by the program that all else is asked of, which is compiled already."""
    return ask(target, np.asarray(points), ["log_density"])["log_density"]


def _obstacles(target, q):
    """Solve name to why it cannot step on a grid, and why not by an implicit method in place of an explicit one.

    Of solves without times nothing is learned.
    """
    found = {}
    for name, message in target.run_at(q).solutions.items():
        if message["times"].size:
            ys, ok = message["value"].ys, message["value"].ok
            states = ys.size // (ok.size * message["times"].shape[-1])
            solver = message["settings"]["solver"]
            found[name] = lean.obstacle(solver, states), lean.obstacle_to_stability(solver, states)
    return found


class _Told(NamedTuple):
    """How a solve stepped: `Steps` of each point and unit, the times that must not vary, whether units are mapped."""

    ends: np.ndarray
    fixed: np.ndarray
    stops: np.ndarray
    ok: np.ndarray
    constant: bool
    mapped: bool


class _TooFine(str):
    """Why there is no grid for an explicit method, where one that is stable with any step may have one."""


def _steps(target, points, names, stable):
    """Solve name to `_Told`, with points and units as the first axes."""
    parts = []
    for start in range(0, len(points), POINTS_AT_ONCE):
        at = np.minimum(np.arange(start, start + POINTS_AT_ONCE), len(points) - 1)
        told = jax.tree.map(np.asarray, _stepped(target, points[at], names, stable))
        kept = min(POINTS_AT_ONCE, len(points) - start)
        parts.append(jax.tree.map(lambda x, kept=kept: x[:kept], told))
    found = {}
    for name in names:
        together = [np.concatenate(x) for x in zip(*(jax.tree.leaves(p[name]) for p in parts), strict=True)]
        moments, mapped = together[4:], together[3].ndim == 2
        ends, fixed, stops, ok = together[:4] if mapped else (x[:, None] for x in together[:4])
        constant = all(np.array_equal(x, np.broadcast_to(x[:1], x.shape), equal_nan=True) for x in moments)
        found[name] = _Told(ends, fixed, stops, ok, constant, mapped)
    return found


@partial(
    jax.jit, static_argnames=("names", "stable"), compiler_options=configuration.compile_options(level=0)
)
def _stepped(target, points, names, stable):
    return jax.vmap(partial(_stepped_at, target, names=names, stable=stable))(points)


def _stepped_at(target, q, names, stable):
    # What a single solve is given cannot depend on another one.
    solutions = target.run_at(q, solved=len(target.layout.solves) > 1).solutions
    return {
        name: (solutions[name]["stepped"](MOST_ADAPTIVE_STEPS, ENOUGH, stable), _moments(solutions[name]))
        for name in names
    }


def _moments(message):
    """All times that a grid rests on, as the statement was given them."""
    inputs = [(x.times, x.duration if isinstance(x, Doses) else None) for x in message["inputs"]]
    return [message["times"], message["start"], inputs]


def _plan(told, stretch, earlier):
    """Where steps end, or why there is no grid."""
    if not told.constant:
        return "its start, its times or those of its inputs depend on the unknowns"
    solved = told.ok.mean(axis=0)
    if solved.min() < FEWEST_SOLVED:
        return f"{1 - solved.min():.0%} of the adaptive solves to learn it from failed"
    rows = [(told.ok[:, unit], unit) for unit in range(told.ok.shape[1])]
    paces = [pacing.pace(told.fixed[r].ravel(), told.stops[r].ravel(), told.ends[r]) for r in rows]
    made = np.isfinite(told.ends).sum(axis=-1)
    typical = np.mean([np.median(made[told.ok[:, unit], unit]) for unit in range(made.shape[1])])
    union = np.mean(pacing.in_buckets(np.array([each.needed(1.0).sum() for each in paces])))
    if union > ALIKE * typical:
        return _TooFine(
            f"its solves differ too much: one as fine as the finest of them would have {union:.0f} steps, and an "
            f"adaptive solve makes {typical:.0f}"
        )
    grids = pacing.place(paces, stretch, MOST_STEPS, earlier)
    if grids is None:
        return _TooFine(f"it would have more than {MOST_STEPS} steps")
    return grids if told.mapped else grids[0]
