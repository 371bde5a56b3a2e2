"""What a recipe of training is: stages that lead many starts to good basins, one after another.

A stage is an immutable object that is its own configuration. It improves many points side by side and counts what that
took.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np

from bayeshybrid.faults import ModelError
from bayeshybrid.inference.relaxing import Relaxed
from bayeshybrid.inference.trajectories import slopes
from bayeshybrid.keys import child
from bayeshybrid.progress import Progress, Silent
from bayeshybrid.target import Target

WORDS = {
    "failed": "evaluations failed",
    "clipped": "gradients clipped",
    "returned": "ends of stages where the density is zero",
    "unmoved": "stages that ended where they began",
}

__all__ = ["Stage", "Tally", "Work", "as_recipe", "follow"]


@dataclass
class Tally:
    """What a recipe took, one entry a start.

    - `gradients`: evaluations of a density and its gradient, relaxed or not.
    - `failed`: those that were not finite, so that a step was halved.
    - `clipped`: gradients that were cut to length.
    - `returned`: stages that ended where the model's own density is zero, so that the next one began where they had.
    - `unmoved`: stages that ended where they began, for this reason or because they found nothing higher.
    """

    gradients: np.ndarray
    failed: np.ndarray
    clipped: np.ndarray
    returned: np.ndarray
    unmoved: np.ndarray

    @classmethod
    def of(cls, starts: int) -> Tally:
        """Nothing yet."""
        return cls(*np.zeros((len(fields(cls)), starts), int))

    def of_starts(self, order: np.ndarray) -> Tally:
        """The same for starts in another order, or for some of them."""
        return Tally(*(getattr(self, entry.name)[order] for entry in fields(self)))

    def __str__(self) -> str:
        few, many = self.gradients.min(), self.gradients.max()
        each = f"{few}" if few == many else f"{few} to {many}"
        told = [f"{each} gradients a start"]
        told += [
            f"{getattr(self, name).sum()} {words}"
            for name, words in WORDS.items()
            if getattr(self, name).any()
        ]
        return ", ".join(told)


@dataclass(frozen=True)
class Work:
    """What the stages of a recipe share.

    - `target`: the model as stated.
    - `density`: what is climbed, the target or a relaxation of it.
    - `spread`: the unit of length of each of its unknowns, `(size,)`.
    - `key`, `tally`, `progress`: for random choices, for counting, and to be told how far it is.
    """

    target: Target
    density: Target | Relaxed
    spread: np.ndarray
    key: Any
    tally: Tally
    progress: Progress = field(default_factory=Silent)

    def down(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """What optimisers make small, and its gradient, at points in units of `spread`."""
        values, gradients = slopes(self.density, points * self.spread)  # pyright: ignore[reportArgumentType]
        self.tally.gradients += 1
        self.tally.failed += ~np.isfinite(values)
        return -values, -gradients * self.spread

    def telling(self) -> Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]:
        """`down`, with progress told of each call."""
        done = 0

        def down(points):
            nonlocal done
            done += 1
            self.progress.update(done)
            return self.down(points)

        return down

    def relaxed(self, density: Relaxed) -> Work:
        """The same with a relaxed density, whose unknown states have their own scale as unit."""
        more = density.layout.size - self.target.layout.size
        known = self.spread[: self.target.layout.size]
        return replace(self, density=density, spread=np.concatenate([known, np.ones(more)]))

    def sound(self, points: np.ndarray, before: np.ndarray) -> np.ndarray:
        """The points, or where the model's own density is zero there those of before."""
        values, _ = slopes(self.target, points)
        self.tally.gradients += 1
        kept = np.isfinite(values)
        self.tally.returned += ~kept
        return np.where(kept[:, None], points, before)


class Stage(ABC):
    """One step of a recipe."""

    def check(self, target: Target, starts: int) -> None:  # noqa: B027 - most stages take every model
        """Raise a `ModelError` where the stage cannot take this model, or so many starts."""

    @abstractmethod
    def improve(self, work: Work, points: np.ndarray) -> np.ndarray:
        """Points `(starts, size)` of the density, as this stage leaves them."""


def as_recipe(stages: Any) -> tuple[Stage, ...]:
    """One stage or a sequence of them as a tuple.

    **Raises:** `ModelError` for anything else.

    ```python
    from bayeshybrid.inference.stages import as_recipe
    assert as_recipe(bh.recipes.Adam()) == (bh.recipes.Adam(),)
    ```
    """
    stages = (stages,) if not isinstance(stages, Sequence) else tuple(stages)
    for stage in stages:
        if isinstance(stage, type) and issubclass(stage, Stage):
            raise ModelError(f"recipe: write {stage.__name__}(), with its settings in the brackets")
        if not isinstance(stage, Stage):
            raise ModelError(
                f"recipe: {stage!r} is not a stage; write one or several of bh.recipes, such as [Adam(), LBFGS()]"
            )
    if not stages:
        raise ModelError(
            "recipe: it has no stages; write one or several of bh.recipes, such as [Adam(), LBFGS()]"
        )
    return stages


def follow(recipe: tuple[Stage, ...], work: Work, points: np.ndarray) -> np.ndarray:
    """Where the stages lead, one after another, from points `(starts, size)`; none begins before all are checked."""
    for stage in recipe:
        stage.check(work.target, len(points))
    for turn, stage in enumerate(recipe):
        before = points
        points = stage.improve(replace(work, key=child(work.key, turn)), before)
        work.tally.unmoved += np.all(np.isclose(points, before, rtol=1e-12, atol=0.0), axis=1)
        work.progress.finish()
    return points
