"""Where the steps of a frozen grid end: as dense in time as those of adaptive solves, and at all fixed times."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from bayeshybrid.science.events import ROUNDINGS_IN_A_MOMENT

# Steps that end this near to a stop, as a share of the whole solve, were cut short by it.
BESIDE_A_STOP = 1e-9

# Units whose solves differ in length are solved in so many groups at most, a factor of four in length apart, each of a
# loop of its own, if that spares half of all steps, and so many that compiling two more loops (some 4 s) comes back in
# one run of 20,000 gradients.
MOST_BUCKETS, APART, LEAST_SPARED = 3, 4, 2000

# A grid of more steps than it needs is another program less. It is kept unless it has over four times as many, or that
# program would come back in one run: a hierarchical model of 12 people and 44 unknowns took 70,000 gradients, at 0.3
# microseconds for each step of a person by the stable method, and compiled for 5 s.
FAR_MORE, FAR_MORE_STEPS, STABLE_STEP = 4, 500, 3

__all__ = ["Buckets", "Pace", "Stable", "halved", "in_buckets", "pace", "place", "steps_of"]


class Buckets(NamedTuple):
    """Grids of units whose solves differ in length: a short one shall not make as many steps as the longest.

    - `units`: of each bucket the places of its units, `(n,)`.
    - `ends`: of each bucket where the steps of its units end, `(n, steps + 1)`.
    - `order`: of each unit its place when the buckets are put one behind the other, `(units,)`.
    """

    units: Any
    ends: Any
    order: Any


class Stable(NamedTuple):
    """A grid for an implicit method in place of the explicit one that was asked for: no step is too long to be stable.

    - `grid`: where steps end, or `Buckets`.
    """

    grid: Any


class Pace(NamedTuple):
    """How many steps one unit needs.

    - `fixed`: the times at which steps must end, sorted, none twice; the first is the start.
    - `times`, `counted`: how many steps are needed from the start to each of these times, a broken line.
    """

    fixed: Float[np.ndarray, " fixed"]
    times: Float[np.ndarray, " knots"]
    counted: Float[np.ndarray, " knots"]

    def needed(self, stretch: float) -> Float[np.ndarray, " intervals"]:
        """How many steps each interval between fixed times needs, above zero, if they may be so much longer."""
        counts = np.diff(np.interp(self.fixed, self.times, self.counted)) / stretch
        return np.maximum(counts, np.finfo(counts.dtype).tiny)


def pace(fixed: np.ndarray, stops: np.ndarray, solves: Sequence[np.ndarray]) -> Pace:
    """Steps as short as the shortest that any solve made at the same time.

    **Arguments:**

    - `fixed`: times at which steps must end, in any order.
    - `stops`: times before which a solve may have cut a step short.
    - `solves`: of each solve where its accepted steps ended, infinite behind the last.

    ```python
    from bayeshybrid.science.pacing import pace
    found = pace(np.array([0.0, 2.0, 4.0]), np.array([4.0]), [np.array([2.0, 4.0]), np.array([1.0, 2.0, 4.0])])
    assert found.needed(1.0).tolist() == [2.0, 1.0]
    ```
    """
    fixed = _distinct(fixed)
    lengths = [_lengths(ends, fixed[0], stops) for ends in solves]
    times = np.unique(np.concatenate([fixed, *(begins for begins, _ in lengths)]))
    times = times[(fixed[0] <= times) & (times <= fixed[-1])]
    middle = (times[1:] + times[:-1]) / 2
    at = [own[np.searchsorted(begins, middle, side="right") - 1] for begins, own in lengths]
    counted = np.cumsum(np.diff(times) / np.min(at, axis=0))
    return Pace(fixed, times, np.concatenate([[0.0], counted]))


def place(
    paces: Sequence[Pace], stretch: float, most: int, earlier: Any = None
) -> Float[np.ndarray, "units ends"] | Buckets | None:
    """A grid for each unit; `None` where one would have more than `most` steps.

    Each interval between fixed times has the whole number of steps that it needs. The sum is rounded up to a
    power of two, so that few programs serve many grids: what is left over goes where steps are longest. All grids have
    as many steps as the one that needs most, or, where that spares half of all steps and 2,000 at least, they come in
    up to three buckets: with as many, a quarter and a sixteenth.

    **Arguments:**

    - `paces`: of each unit.
    - `stretch`: how many times longer the steps may be.
    - `most`: steps.
    - `earlier`: a plan whose numbers of steps are kept, if they suffice and are not far too many.

    ```python
    from bayeshybrid.science.pacing import pace, place
    found = pace(np.array([0.0, 3.0]), np.array([3.0]), [np.array([1.0, 2.0, 3.0])])
    assert place([found], 1.0, 100).tolist() == [[0.0, 0.75, 1.5, 2.25, 3.0]] and place([found], 1.0, 2) is None
    ```
    """
    needed = np.array([_rounded_up(int(np.ceil(each.needed(stretch)).sum())) for each in paces])
    if needed.max() > most:
        return None
    steps, before = in_buckets(needed), _each_of(earlier, len(paces))
    if before is not None and np.all(needed <= before) and not _far_more(before, steps, earlier):
        steps = before
    grids = [_placed(each, each.needed(stretch), count) for each, count in zip(paces, steps, strict=True)]
    if len(set(steps)) == 1:
        return np.stack(grids)
    units = tuple(np.flatnonzero(steps == count) for count in sorted(set(steps)))
    ends = tuple(np.stack([grids[unit] for unit in bucket]) for bucket in units)
    return Buckets(units, ends, np.argsort(np.concatenate(units)))


def in_buckets(needed: np.ndarray) -> np.ndarray:
    """Of each unit the steps of its bucket, from those that it needs.

    ```python
    from bayeshybrid.science.pacing import in_buckets
    assert set(in_buckets(np.repeat([3, 100, 512], 10))) == {32, 128, 512}
    ```
    """
    most = needed.max()
    steps = np.full(len(needed), most)
    for turn in range(1, MOST_BUCKETS):
        steps[needed <= most / APART**turn] = most // APART**turn
    spared = most * len(needed) - steps.sum()
    return steps if spared >= max(LEAST_SPARED, steps.sum()) else np.full(len(needed), most)


def _far_more(before, steps, plan):
    """Whether steps of all units together are so many more that another program is worth its compiling."""
    spared = (before.sum() - steps.sum()) * (STABLE_STEP if isinstance(plan, Stable) else 1)
    return before.sum() > FAR_MORE * steps.sum() or spared > FAR_MORE_STEPS


def _each_of(plan, units):
    """Of each unit the steps that a plan gives it; `None` where there is none for so many."""
    if plan is None:
        return None
    if isinstance(plan, Stable):
        return _each_of(plan.grid, units)
    if not isinstance(plan, Buckets):
        return np.full(units, steps_of(plan)[0])
    steps = np.repeat(steps_of(plan), [len(bucket) for bucket in plan.units])
    return steps[np.asarray(plan.order)] if len(plan.order) == units else None


def steps_of(plan: Any) -> list[int]:
    """The numbers of steps of a plan, one for each bucket.

    ```python
    from bayeshybrid.science.pacing import steps_of
    assert steps_of(np.linspace(0.0, 1.0, 9)) == [8]
    ```
    """
    plan = plan.grid if isinstance(plan, Stable) else plan
    return [np.shape(ends)[-1] - 1 for ends in (plan.ends if isinstance(plan, Buckets) else [plan])]


def halved(grid: Any) -> Any:
    """The grid, or each of them, with every step cut in two.

    ```python
    from bayeshybrid.science.pacing import halved
    assert halved(np.array([0.0, 1.0, 3.0])).tolist() == [0.0, 0.5, 1.0, 2.0, 3.0]
    ```
    """
    if isinstance(grid, Stable):
        return Stable(halved(grid.grid))
    if isinstance(grid, Buckets):
        return grid._replace(ends=tuple(map(halved, grid.ends)))
    grid = np.asarray(grid)
    between = (grid[..., 1:] + grid[..., :-1]) / 2
    pairs = np.stack([grid[..., :-1], between], axis=-1).reshape(*grid.shape[:-1], -1)
    return np.concatenate([pairs, grid[..., -1:]], axis=-1)


def _distinct(times):
    """Sorted, and without those that a solve takes for one."""
    times = np.sort(times)
    moment = ROUNDINGS_IN_A_MOMENT * np.finfo(times.dtype).eps * np.abs(times[[0, -1]]).max()
    return times[np.concatenate([[True], np.diff(times) > moment])]


def _lengths(ends, start, stops):
    """Where the steps of one solve begin, and how long they are.

    A step that was cut short before a stop tells nothing: it counts as long as the one before it. Nor does the very
    first, which a solver chooses without knowing its error: the second stands for it.
    """
    times = np.concatenate([[start], np.unique(ends[np.isfinite(ends)])])
    own = np.diff(times)
    beside = BESIDE_A_STOP * (times[-1] - start)
    cut = (np.abs(times[1:, None] - np.unique(stops)) <= beside).any(axis=1)
    own[1:] = np.where(cut[1:], np.maximum(own[1:], own[:-1]), own[1:])
    if len(own) > 1:
        own[0] = max(own[0], own[1])
    return times[:-1], own


def _rounded_up(steps):
    """The next power of two."""
    return 2 ** int(np.ceil(np.log2(max(steps, 2))))


def _placed(pace, needed, steps):
    """Where so many steps end, each worth the same within its interval."""
    if len(pace.fixed) == 1:
        return np.repeat(pace.fixed, steps + 1)
    counts = np.ceil(needed).astype(int)
    for _ in range(steps - counts.sum()):
        counts[np.argmax(needed / counts)] += 1
    marks = np.interp(pace.fixed, pace.times, pace.counted)
    ends = [
        np.append(np.interp(np.linspace(low, high, count + 1)[1:-1], pace.counted, pace.times), end)
        for low, high, count, end in zip(marks[:-1], marks[1:], counts, pace.fixed[1:], strict=True)
    ]
    return np.concatenate([pace.fixed[:1], *ends])
