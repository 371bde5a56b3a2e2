"""Where the steps of a frozen grid end: as dense in time as those of adaptive solves, and at all fixed times."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from bayeshybrid.science.events import ROUNDINGS_IN_A_MOMENT

# Steps that end this near to a stop, as a share of the whole solve, were cut short by it.
BESIDE_A_STOP = 1e-9

# A grid of so many times the steps it needs costs more than another program.
FAR_MORE = 4

__all__ = ["Pace", "halved", "pace", "place"]


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
    paces: Sequence[Pace], stretch: float, most: int, least: int = 0
) -> Float[np.ndarray, "units ends"] | None:
    """A grid for each unit, all of one length; `None` where that would be more than `most` steps.

    Each interval between fixed times has the whole number of steps that it needs. The sum is rounded up to a
    power of two, so that few programs serve many grids: what is left over goes where steps are longest.

    **Arguments:**

    - `paces`: of each unit.
    - `stretch`: how many times longer the steps may be.
    - `most`: steps.
    - `least`: steps to make, if fewer are needed and not under a quarter of them.

    ```python
    from bayeshybrid.science.pacing import pace, place
    found = pace(np.array([0.0, 3.0]), np.array([3.0]), [np.array([1.0, 2.0, 3.0])])
    assert place([found], 1.0, 100).tolist() == [[0.0, 0.75, 1.5, 2.25, 3.0]] and place([found], 1.0, 2) is None
    ```
    """
    steps = _rounded_up(max(int(np.ceil(each.needed(stretch)).sum()) for each in paces))
    steps = least if steps <= least <= FAR_MORE * steps else steps
    return None if steps > most else np.stack([_placed(each, each.needed(stretch), steps) for each in paces])


def halved(grid: Float[np.ndarray, "*units ends"]) -> Float[np.ndarray, "*units more"]:
    """The grid with every step cut in two.

    ```python
    from bayeshybrid.science.pacing import halved
    assert halved(np.array([0.0, 1.0, 3.0])).tolist() == [0.0, 0.5, 1.0, 2.0, 3.0]
    ```
    """
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
