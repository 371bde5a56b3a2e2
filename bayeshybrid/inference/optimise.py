"""Many optimisations side by side, all asking one compiled program for their gradients.

A failed evaluation has value infinity and gradient zero: here, as everywhere for optimisers, the step is halved.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

LEARNING_RATE = 0.05
LONGEST = 10.0
FIRST_PHASE = 150
SECOND_PHASE = 400
MEMORY = 20
ENOUGH_DECREASE = 1e-4
PATIENCE = 5
LOOK_BACK = 50
OUT_OF_SIGHT = 30.0

# The log of a group's rate changes by so much times the cosine between its last move and what is downhill now (Baydin
# et al. 2018, "Online learning rate adaptation with hypergradient descent", arXiv:1703.04782), within these limits.
ADAPTING, SLOWEST, FASTEST = 0.1, 0.01, 10.0

Slopes = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]

__all__ = ["Descent", "adam", "climb", "lbfgs"]


class Descent(NamedTuple):
    """Where many runs of Adam ended, one row each, and what it took.

    - `points`, `values`, `gradients`: the best of each, of what is made small.
    - `failed`, `clipped`: evaluations of each run that were not finite, and gradients that were cut to length.
    """

    points: np.ndarray
    values: np.ndarray
    gradients: np.ndarray
    failed: np.ndarray
    clipped: np.ndarray


def climb(
    slopes: Slopes, starts: np.ndarray, said: Callable[[int], None] = lambda done: None
) -> tuple[np.ndarray, np.ndarray]:
    """Maximise from every start: Adam to leave flat and broken regions, then L-BFGS to the top.

    **Arguments:**

    - `slopes`: points `(n, size)` to log densities `(n,)` and gradients `(n, size)`.
    - `starts`: `(n, size)`, of finite density.
    - `said`: told after each evaluation how many were made.

    **Returns:** end points `(n, size)` and their log densities.

    ```python
    from bayeshybrid.inference.optimise import climb
    ends, heights = climb(lambda x: (-np.sum((x - 3) ** 2, axis=1), -2 * (x - 3)), np.zeros((2, 4)))
    assert np.allclose(ends, 3, atol=1e-4)
    ```
    """
    evaluations = 0

    def down(points):
        nonlocal evaluations
        values, gradients = slopes(points)
        evaluations += 1
        said(evaluations)
        return -values, -gradients

    begun = adam(down, np.array(starts, dtype=float))
    points, values = lbfgs(down, begun.points, begun.values, begun.gradients)
    return points, -values


# A step that overflows fails and is halved.
@np.errstate(over="ignore", invalid="ignore")
def adam(
    down: Slopes,
    points: np.ndarray,
    steps: int = FIRST_PHASE,
    rates: np.ndarray | float = LEARNING_RATE,
    groups: np.ndarray | None = None,
    longest: float = LONGEST,
) -> Descent:
    """Kingma and Ba 2015, with gradients cut to a length and the best point kept.

    **Arguments:**

    - `down`: points `(n, size)` to values `(n,)`, infinite where they fail, and gradients; what is made small.
    - `points`: where the runs start, `(n, size)`.
    - `rates`: length of a step, of all coordinates or of each; those of rate 0 stay.
    - `groups`: to which group each coordinate belongs, counted from 0: then each run adapts the rate of each group.
    - `longest`: the length to which gradients are cut.

    ```python
    from bayeshybrid.inference.optimise import adam
    found = adam(lambda x: (np.sum((x - 3) ** 2, axis=1), 2 * (x - 3)), np.zeros((2, 4)), 400)
    assert np.allclose(found.points, 3, atol=0.05) and not found.failed.any()
    ```
    """
    first, second = np.zeros_like(points), np.zeros_like(points)
    shrink = np.ones(len(points))
    best, best_value, best_gradient = points.copy(), np.full(len(points), np.inf), np.zeros_like(points)
    failures, cuts = np.zeros((2, len(points)), int)
    pace = None if groups is None else _Pace(groups, len(points))
    for step in range(1, steps + 1):
        values, gradients = down(points)
        failed = ~np.isfinite(values)
        failures += failed
        better = values < best_value
        best[better], best_value[better], best_gradient[better] = (
            points[better],
            values[better],
            gradients[better],
        )
        length = np.linalg.norm(gradients, axis=1, keepdims=True)
        cuts += length[:, 0] > longest
        clipped = gradients * np.minimum(1.0, longest / np.maximum(length, 1e-300))
        first = np.where(failed[:, None], first, 0.9 * first + 0.1 * clipped)
        second = np.where(failed[:, None], second, 0.999 * second + 0.001 * clipped**2)
        move = rates * (first / (1 - 0.9**step)) / (np.sqrt(second / (1 - 0.999**step)) + 1e-8)
        if pace:
            move = move * pace.after(clipped, move, failed)
        shrink = np.where(failed, 0.5 * shrink, np.minimum(1.0, 1.1 * shrink))
        points = np.where(failed[:, None], 0.5 * (points + best), points - shrink[:, None] * move)
    return Descent(best, best_value, best_gradient, failures, cuts)


class _Pace:
    """The factor of each coordinate's rate in each run, by whether its group still goes downhill where it last went."""

    def __init__(self, groups, lanes):
        self.members = np.eye(groups.max() + 1)[groups]
        self.factors = np.ones((lanes, self.members.shape[1]))
        self.last = np.zeros((lanes, len(groups)))

    def after(self, gradients, moves, failed):
        along = (gradients * self.last) @ self.members
        size = np.sqrt((gradients**2 @ self.members) * (self.last**2 @ self.members))
        cosine = np.divide(along, size, out=np.zeros_like(along), where=size > 0)
        self.factors = np.clip(self.factors * np.exp(ADAPTING * cosine), SLOWEST, FASTEST)
        self.last = np.where(failed[:, None], 0.0, moves)
        return self.factors @ self.members.T


@np.errstate(over="ignore", invalid="ignore")
def lbfgs(
    down: Slopes, points: np.ndarray, values: np.ndarray, gradients: np.ndarray, steps: int = SECOND_PHASE
) -> tuple[np.ndarray, np.ndarray]:
    """Nocedal and Wright 2006, algorithm 7.4, with a backtracking search, every lane at its own step.

    **Arguments:**

    - `down`: as in `adam`.
    - `points`, `values`, `gradients`: where the runs start, and what `down` says there.
    - `steps`: calls of `down` at most.

    **Returns:** end points and their values.

    ```python
    from bayeshybrid.inference.optimise import lbfgs
    down = lambda x: (np.sum((x - 3) ** 2, axis=1), 2 * (x - 3))
    points, values = lbfgs(down, np.zeros((2, 4)), *down(np.zeros((2, 4))))
    assert np.allclose(points, 3)
    ```
    """
    lanes, _ = points.shape
    moves: list[np.ndarray] = []
    changes: list[np.ndarray] = []
    direction = -gradients / np.maximum(np.linalg.norm(gradients, axis=1, keepdims=True), 1.0)
    step, stalled = np.ones(lanes), np.zeros(lanes, int)
    earlier, late = values, np.zeros(lanes, bool)
    for turn in range(steps):
        if turn and turn % LOOK_BACK == 0:
            if stalled[np.argmin(values)] >= PATIENCE:
                late |= _too_late(values, earlier - values, points.shape[1], steps - turn)
            earlier = values
        active = (stalled < PATIENCE) & np.isfinite(values) & ~late
        if not active.any():
            break
        trial = np.where(active[:, None], points + step[:, None] * direction, points)
        trial_values, trial_gradients = down(trial)
        slope = np.sum(gradients * direction, axis=1)
        taken = active & (trial_values <= values + ENOUGH_DECREASE * step * slope)
        gain = np.where(taken, values - trial_values, 0.0)
        little = gain <= 1e-9 * np.maximum(1.0, np.abs(values))
        stalled = np.where(
            active & little & (taken | (step < 1e-8)), stalled + 1, np.where(taken, 0, stalled)
        )
        move = np.where(taken[:, None], trial - points, 0.0)
        change = np.where(taken[:, None], trial_gradients - gradients, 0.0)
        sound = np.sum(move * change, axis=1, keepdims=True) > 1e-12
        if taken.any():
            moves, changes = (
                [*moves, np.where(sound, move, 0.0)][-MEMORY:],
                [*changes, np.where(sound, change, 0.0)][-MEMORY:],
            )
        points = np.where(taken[:, None], trial, points)
        values = np.where(taken, trial_values, values)
        gradients = np.where(taken[:, None], trial_gradients, gradients)
        following = _two_loops(gradients, moves, changes)
        direction = np.where(taken[:, None], following, direction)
        step = np.where(taken, 1.0, 0.5 * step)
        lost = active & (step < 1e-6) & ~taken
        steepest = -gradients / np.maximum(np.linalg.norm(gradients, axis=1, keepdims=True), 1.0)
        direction = np.where(lost[:, None], steepest, direction)
        stalled = np.where(lost, stalled + 1, stalled)
        step = np.where(lost, 0.1, step)
    return points, values


def _too_late(values, gained, size, left):
    """Lanes so far from the best that at their pace they come near it in none of the turns that are left.

    All lanes wait for the last one, and one or two of them creep along some valley far out until the end.
    """
    gap = values - values.min() - OUT_OF_SIGHT - size
    return gap > gained * left / LOOK_BACK


def _two_loops(gradients, moves, changes):
    """Minus the inverse Hessian, as the last moves tell it, times the gradient; empty pairs are passed over."""
    result = gradients.copy()
    kept = []
    for move, change in zip(reversed(moves), reversed(changes), strict=True):
        curvature = np.sum(move * change, axis=1, keepdims=True)
        weight = np.where(curvature > 0, 1 / np.where(curvature > 0, curvature, 1.0), 0.0)
        share = weight * np.sum(move * result, axis=1, keepdims=True)
        result = result - share * change
        kept.append((move, change, weight, share))
    result = result * _scale(moves, changes)
    for move, change, weight, share in reversed(kept):
        result = result + move * (share - weight * np.sum(change * result, axis=1, keepdims=True))
    return -result


def _scale(moves, changes):
    """The last known ratio of move to change in each lane, as the first guess of the inverse curvature."""
    if not moves:
        return 1.0
    scale = np.ones((len(moves[0]), 1))
    for move, change in zip(moves, changes, strict=True):
        above = np.sum(move * change, axis=1, keepdims=True)
        below = np.sum(change**2, axis=1, keepdims=True)
        scale = np.where((above > 0) & (below > 0), above / np.where(below > 0, below, 1.0), scale)
    return scale
