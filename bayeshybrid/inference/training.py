"""Training: a recipe followed from many starts, alone or before a search."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from bayeshybrid import configuration
from bayeshybrid.faults import ModelError
from bayeshybrid.inference.gates import read
from bayeshybrid.inference.search import STARTS, Search, at_initial_values, basins_of, spread_of
from bayeshybrid.inference.stages import Stage, Tally, Work, as_recipe, follow
from bayeshybrid.inference.trajectories import slopes
from bayeshybrid.keys import as_key, children
from bayeshybrid.progress import Progress, Silent
from bayeshybrid.survey import ask
from bayeshybrid.target import Target

__all__ = ["Begun", "Trained", "begin", "train"]


class Begun(NamedTuple):
    """Where searches begin.

    - `points`: unconstrained, `(starts, size)`.
    - `spread`: the unit of length of each unknown, that of prior draws.
    - `tally`: what a recipe took on the way there, and `notes`, the same in words; nothing without one.
    """

    points: np.ndarray
    spread: np.ndarray
    tally: Tally
    notes: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Trained:
    """Where a recipe led many starts, the highest first.

    - `target`: the model with its data; `unconstrained`: the end points, `(starts, size)`.
    - `log_density`: there, `(starts,)`; `-inf` where none was found.
    - `values`: name to unknowns and derived quantities, `(starts, ...)`; `trained[name]` is short for them.
    - `tally`: what each start took, in the same order: `gradients`, `failed`, `clipped`, `returned`, `unmoved`, each
      `(starts,)`.
    - `search`: the basins that the ends lie in, told apart by what they predict.
    - `seconds`: how long it took, compiling included.

    ```python
    model = lambda y=None: numpyro.sample("y", dist.Normal(numpyro.sample("x", dist.Normal()), 1.0), obs=y)
    found = bh.train(model, {"y": np.array(2.0)}, bh.recipes.LBFGS(), key=0, starts=4)
    assert found["x"].shape == (4,) and len(found.search.basins) == 1
    ```
    """

    target: Target
    unconstrained: np.ndarray
    log_density: np.ndarray
    values: dict[str, np.ndarray]
    tally: Tally
    search: Search
    seconds: float

    def __getitem__(self, name: str) -> np.ndarray:
        """The values of one unknown or derived quantity, the highest start first."""
        if name not in self.values:
            raise KeyError(f"{name!r} is none of {', '.join(self.values)}")
        return self.values[name]

    def __str__(self) -> str:
        return f"{self.tally}\n{self.search}"


def train(
    model: Callable[..., Any],
    data: Mapping[str, Any],
    recipe: Stage | Sequence[Stage],
    *,
    key: Any,
    starts: int = STARTS,
    progress: Progress | None = None,
) -> Trained:
    """Follow a recipe from many prior draws side by side: the highest points found, and no posterior.

    **Arguments:**

    - `model`, `data`: as in `infer`.
    - `recipe`: one stage of `bh.recipes`, or a sequence of them.
    - `key`: an integer or a JAX key.
    - `starts`: how many.
    - `progress`: `TextBar()` to see how far it has come; silent by default.

    **Returns:** a `Trained`.

    **Raises:** as `infer`; `ModelError` for a recipe that the model cannot follow.

    ```python
    model = lambda y=None: numpyro.sample("y", dist.Normal(numpyro.sample("x", dist.Normal()), 1.0), obs=y)
    recipe = [bh.recipes.Adam(100), bh.recipes.LBFGS(20)]
    assert abs(bh.train(model, {"y": np.array(2.0)}, recipe, key=0)["x"][0] - 1.0) < 1e-5
    ```
    """
    if starts < 1:
        raise ModelError(f"starts={starts}: at least one run must begin somewhere")
    progress = progress or Silent()
    recipe = as_recipe(recipe)
    with configuration.scope():
        began = time.monotonic()
        scout_key, recipe_key, mass_key = children(as_key(key), 3)
        target, scouts, _ = read(model, data, scout_key, starts, progress, False)
        begun = begin(target, scouts.points, recipe, recipe_key, progress)
        heights, _ = slopes(target, begun.points)
        order = np.argsort(-heights, kind="stable")
        ends, heights = begun.points[order], heights[order]
        search = basins_of(target, ends, heights, scouts.points, begun.spread, mass_key)
        values = ask(target, ends, ["values"])["values"]
        tally = begun.tally.of_starts(order)
        return Trained(target, ends, heights, values, tally, search, time.monotonic() - began)


def begin(
    target: Target, draws: np.ndarray, recipe: tuple[Stage, ...], key: Any, progress: Progress
) -> Begun:
    """Where searches begin: at prior draws, or where a recipe leads from them.

    **Arguments:**

    - `draws`: from the prior, `(starts, size)`.
    - `recipe`: stages, or none.
    """
    points = at_initial_values(target, draws)
    spread, tally = spread_of(points), Tally.of(len(points))
    if not recipe:
        return Begun(points, spread, tally, ())
    work = Work(target, target, spread, key, tally, progress)
    points = follow(recipe, work, points)
    names = ", ".join(type(stage).__name__ for stage in recipe)
    return Begun(points, spread, tally, (f"searches began where a recipe ended ({names}): {tally}",))
