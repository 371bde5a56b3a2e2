"""The stages of which recipes of training are made: `bh.recipes`.

`train` runs a recipe alone, and `infer(..., recipe=...)` runs it before the search, so that any method begins where it
ended.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from numbers import Integral
from typing import ClassVar

import jax
import numpy as np

from bayeshybrid.faults import ModelError
from bayeshybrid.inference import optimise
from bayeshybrid.inference.predictability import windows
from bayeshybrid.inference.relaxing import finest, loosened, relaxable, shortened, solved
from bayeshybrid.inference.search import at_initial_values
from bayeshybrid.inference.stages import Stage, Tally, Work
from bayeshybrid.keys import child
from bayeshybrid.science.relaxed import Curve, Relaxation, Segments
from bayeshybrid.survey import draw_prior
from bayeshybrid.target import Target

__all__ = [
    "LBFGS", "Adam", "BestOf", "Collocation", "DifferentialEvolution", "GrowingInterval", "MultipleShooting",
    "SmallPerturbation",
]  # fmt: skip

EIGHTHS = 8  # into so many windows the time of a solve is cut where nothing asks for more
KNOTS = 41, 201  # the fewest and the most of a curve where nothing asks for others


def _whole(stage, name, least):
    value = getattr(stage, name)
    if not isinstance(value, Integral) or isinstance(value, bool) or value < least:
        raise ModelError(f"{type(stage).__name__}({name}={value!r}): write a whole number from {least}")


def _rising(numbers):
    """Whether these are several numbers above zero, each larger than the one before."""
    if not isinstance(numbers, Sequence) or not numbers:
        return False
    return all(a < b for a, b in zip((0.0, *numbers), numbers, strict=False)) and np.isfinite(numbers[-1])


def _climber(stage):
    """Refuse a stage within that is more than a way to climb whatever density it is given."""
    if not isinstance(stage.inner, Adam | LBFGS):
        raise ModelError(f"{type(stage).__name__}(inner={stage.inner!r}): write Adam(...) or LBFGS(...)")


def _above(stage, name, least):
    value = getattr(stage, name)
    if not least < value < np.inf:
        raise ModelError(f"{type(stage).__name__}({name}={value!r}): write a number above {least:g}")


@dataclass(frozen=True)
class Adam(Stage):
    """Gradient steps of each coordinate's own length (Kingma and Ba 2015, arXiv:1412.6980).

    Where the density is zero the run goes half way back to the best point so far, and each ends at that.

    **Arguments:**

    - `steps`: how many.
    - `rate`: length of the first steps, in units of half the width of the middle two thirds of prior draws.
    - `rates`: group name to a rate of its own, such as `{"missing": 0.01}`; 0 holds the group where it is.
    - `adapt`: let the rate of each group grow while it goes downhill where it last went, and fall where it does not.
    - `clip`: the length to which gradients are cut, in the same units.

    **Raises:** `ModelError` for numbers out of range, and for a group that the model does not have.

    ```python
    recipe = [bh.recipes.Adam(steps=100, rates={"x": 0.2}), bh.recipes.LBFGS()]
    model = lambda y=None: numpyro.sample("y", dist.Normal(numpyro.sample("x", dist.Normal()), 1.0), obs=y)
    assert abs(bh.train(model, {"y": np.array(2.0)}, recipe, key=0)["x"][0] - 1.0) < 1e-4
    ```
    """

    steps: int = 300
    rate: float = 0.05
    rates: Mapping[str, float] = field(default_factory=dict)
    adapt: bool = False
    clip: float = optimise.LONGEST

    def __post_init__(self) -> None:
        _whole(self, "steps", 1)
        _above(self, "clip", 0.0)
        for name, rate in (("rate", self.rate), *self.rates.items()):
            if not 0 <= rate < np.inf:
                raise ModelError(
                    f"Adam(): the rate of {name!r} is {rate}; write a number from 0, such as 0.05"
                )

    def check(self, target: Target, starts: int) -> None:
        """See `Stage`."""
        groups = target.layout.groups
        unknown = sorted(set(self.rates) - set(groups))
        if unknown:
            raise ModelError(
                f"Adam(rates={dict(self.rates)}): the model has no group {unknown[0]!r}; its groups are "
                f"{', '.join(groups)}"
            )

    def improve(self, work: Work, points: np.ndarray) -> np.ndarray:
        """See `Stage`."""
        work.progress.start("Adam", self.steps)
        rates, groups = self._by_group(work)
        grouped = groups if self.adapt else None
        found = optimise.adam(work.telling(), points / work.spread, self.steps, rates, grouped, self.clip)
        work.tally.clipped += found.clipped
        return found.points * work.spread

    def _by_group(self, work):
        rates = np.full(len(work.spread), float(self.rate))
        named = work.target.layout.groups
        groups = np.full(len(work.spread), len(named))  # what a relaxation adds is a group of its own
        for place, (name, part) in enumerate(named.items()):
            rates[part], groups[part] = self.rates.get(name, self.rate), place
        return rates, groups


@dataclass(frozen=True)
class LBFGS(Stage):
    """Steps by the curvature that the last steps showed (Nocedal and Wright 2006, algorithm 7.4).

    **Arguments:**

    - `steps`: gradients at most; a run ends earlier where it finds nothing more.

    ```python
    model = lambda y=None: numpyro.sample("y", dist.Normal(numpyro.sample("x", dist.Normal()), 1.0), obs=y)
    found = bh.train(model, {"y": np.array(2.0)}, bh.recipes.LBFGS(20), key=0)
    assert abs(found["x"][0] - 1.0) < 1e-6
    ```
    """

    steps: int = optimise.SECOND_PHASE

    def __post_init__(self) -> None:
        _whole(self, "steps", 1)

    def improve(self, work: Work, points: np.ndarray) -> np.ndarray:
        """See `Stage`."""
        work.progress.start("L-BFGS", self.steps)
        down, start = work.telling(), points / work.spread
        values, gradients = down(start)
        ends, values = optimise.lbfgs(down, start, values, gradients, self.steps - 1)
        return np.where(np.isfinite(values)[:, None], ends, start) * work.spread


@dataclass(frozen=True)
class BestOf(Stage):
    """Multistart: each start and some more prior draws take a few steps, and the highest of them goes on.

    A first stage: the further draws know nothing of stages before it.

    **Arguments:**

    - `candidates`: how many for each start, itself among them.
    - `steps`: of `Adam`, of each.
    - `rate`: of these steps.

    ```python
    model = lambda y=None: numpyro.sample("y", dist.Normal(numpyro.sample("x", dist.Normal()), 1.0), obs=y)
    found = bh.train(model, {"y": np.array(2.0)}, bh.recipes.BestOf(4, steps=5), key=0, starts=3)
    assert found.tally.gradients.tolist() == [24] * 3
    ```
    """

    candidates: int = 4
    steps: int = 30
    rate: float = 0.1

    def __post_init__(self) -> None:
        _whole(self, "candidates", 2)
        _whole(self, "steps", 1)
        _above(self, "rate", 0.0)

    def improve(self, work: Work, points: np.ndarray) -> np.ndarray:
        """See `Stage`."""
        count, size = points.shape
        drawn, _ = draw_prior(work.target, child(work.key, 0), count * (self.candidates - 1))
        drawn = at_initial_values(work.target, drawn)
        every = np.concatenate([points, drawn])
        own = replace(work, tally=Tally.of(len(every)))
        ends = Adam(self.steps, self.rate).improve(own, every)
        heights = -own.down(ends / work.spread)[0]
        for name in ("gradients", "failed", "clipped"):
            counted = getattr(own.tally, name).reshape(self.candidates, count)
            setattr(work.tally, name, getattr(work.tally, name) + counted.sum(axis=0))
        best = np.argmax(heights.reshape(self.candidates, count), axis=0)
        return ends.reshape(self.candidates, count, size)[best, np.arange(count)]


@dataclass(frozen=True)
class DifferentialEvolution(Stage):
    """A global optimiser without gradients, with all starts as its first population (Storn and Price 1997).

    That of SciPy, within a box half as wide again as the starts. Where these are all alike they are spread by one unit
    of length to either side. All of its evaluations count as gradients.

    **Arguments:**

    - `generations`: how often each member of the population is held against a mixture of others.

    **Raises:** `ModelError` for fewer than five starts.

    ```python
    model = lambda y=None: numpyro.sample("y", dist.Normal(numpyro.sample("x", dist.Normal()), 1.0), obs=y)
    found = bh.train(model, {"y": np.array(2.0)}, bh.recipes.DifferentialEvolution(30), key=0)
    assert abs(found["x"][0] - 1.0) < 0.1
    ```
    """

    generations: int = 100

    def __post_init__(self) -> None:
        _whole(self, "generations", 1)

    def check(self, target: Target, starts: int) -> None:
        """See `Stage`."""
        if starts < 5:
            raise ModelError(f"DifferentialEvolution(): {starts} starts are too few to mix; give 5 or more")

    def improve(self, work: Work, points: np.ndarray) -> np.ndarray:
        """See `Stage`."""
        from scipy.optimize import differential_evolution

        work.progress.start("differential evolution", self.generations)
        start, tell = points / work.spread, work.telling()
        generator = np.random.default_rng(np.asarray(jax.random.key_data(work.key)))
        alike = np.ptp(start, axis=0) == 0  # as of networks that begin at zero: no mixture would leave it
        start = np.where(alike, start + generator.uniform(-1.0, 1.0, start.shape), start)
        low, high = start.min(axis=0), start.max(axis=0)
        room = 0.25 * (high - low)
        found = differential_evolution(
            lambda columns: np.nan_to_num(tell(columns.T)[0], nan=np.inf, posinf=1e300),
            list(zip(low - room, high + room, strict=True)),
            init=start,  # pyright: ignore[reportArgumentType]  # an array is what SciPy documents
            maxiter=self.generations,
            tol=0.0,
            polish=False,
            vectorized=True,
            updating="deferred",
            rng=generator,
        )
        return found.population * work.spread


@dataclass(frozen=True)
class SmallPerturbation(Stage):
    """Networks begin as small perturbations of what the equation says: their weights are a share of prior draws.

    With all weights at zero (`initial="zero"`) the inner ones have no gradient at first, and all starts see the same
    network; with weights as large as the prior's the equation is lost before it is fitted.

    **Arguments:**

    - `share`: of prior draws.

    ```python
    assert bh.recipes.SmallPerturbation(0.1).share == 0.1
    ```
    """

    share: float = 0.1

    def __post_init__(self) -> None:
        _above(self, "share", 0.0)

    def check(self, target: Target, starts: int) -> None:
        """See `Stage`."""
        if not _weights(target):
            raise ModelError("SmallPerturbation(): this model has no network whose weights could be small")

    def improve(self, work: Work, points: np.ndarray) -> np.ndarray:
        """See `Stage`."""
        drawn, _ = draw_prior(work.target, child(work.key, 1), len(points))
        points = points.copy()
        for part in _weights(work.target):
            points[:, part] = self.share * drawn[:, part]
        return points


def _weights(target):
    return [slice(site.start, site.stop) for site in target.layout.latent if site.tag.kind == "weight"]


@dataclass(frozen=True)
class GrowingInterval(Stage):
    """Fit the beginning first, then longer and longer intervals of time.

    **Arguments:**

    - `shares`: of the time of each solve, rising; observations that depend on later times do not count. By default an
      eighth, a quarter and a half; of a chaotic system the first is its horizon of predictability.
    - `inner`: the stage that climbs each of them.

    **Raises:** `ModelError` for shares that do not rise between 0 and 1, a model without solves, and where no
    observation lies within the first share.

    ```python
    recipe = [bh.recipes.GrowingInterval((0.25, 0.5), bh.recipes.Adam(100)), bh.recipes.LBFGS()]
    assert recipe[0].shares == (0.25, 0.5)
    ```
    """

    shares: tuple[float, ...] | None = None
    inner: Stage = Adam(100)

    def __post_init__(self) -> None:
        _climber(self)
        if self.shares is not None and not (_rising(self.shares) and self.shares[-1] <= 1):
            raise ModelError(
                f"GrowingInterval(shares={self.shares}): write rising shares, such as (0.25, 0.5)"
            )

    def check(self, target: Target, starts: int) -> None:
        """See `Stage`."""
        solved(target)
        self.inner.check(target, starts)

    def improve(self, work: Work, points: np.ndarray) -> np.ndarray:
        """See `Stage`."""
        before = points
        for share in self.shares or _doubling(1 / windows(work.target, points, EIGHTHS)):
            density = shortened(work.target, points, share)
            if density is not None:
                points = self.inner.improve(work.relaxed(density), points)
            elif self.shares is not None:
                raise ModelError(
                    f"GrowingInterval(shares={self.shares}): no observation depends on the first {share:.3g} of the "
                    "time of each solve alone: begin with a larger share"
                )
        return work.sound(points, before)


def _doubling(share):
    """Shares up to one, each twice the one before."""
    return tuple(share * 2.0**k for k in range(int(np.ceil(-np.log2(share)))))


@dataclass(frozen=True)
class _Tightening(Stage):
    """States of solves as unknowns, tied to the equation more and more tightly."""

    strengths: tuple[float, ...] = (0.3, 3.0, 30.0)
    inner: Stage = Adam(100)
    relaxation: ClassVar[Callable[..., Relaxation]]

    def __post_init__(self) -> None:
        _climber(self)
        if not _rising(self.strengths):
            raise ModelError(
                f"{type(self).__name__}(strengths={self.strengths}): write rising numbers above zero, such as (1, 10)"
            )

    @abstractmethod
    def _places(self, target: Target, points: np.ndarray) -> int:
        """At how many times of each solve the states are unknowns."""

    def check(self, target: Target, starts: int) -> None:
        """See `Stage`."""
        relaxable(target, self.relaxation)
        self.inner.check(target, starts)

    def improve(self, work: Work, points: np.ndarray) -> np.ndarray:
        """See `Stage`."""
        drawn, _ = draw_prior(work.target, child(work.key, 2), len(points))  # of these some do not explode
        nearby = np.concatenate([points, drawn])
        density = loosened(work.target, nearby, self._places(work.target, points), self.relaxation)
        whole = np.pad(points, ((0, 0), (0, density.layout.size - points.shape[1])))
        for strength in self.strengths:
            whole = self.inner.improve(work.relaxed(replace(density, strength=np.asarray(strength))), whole)
        return work.sound(whole[:, : points.shape[1]], points)


@dataclass(frozen=True)
class MultipleShooting(_Tightening):
    """Cut each solve into segments with starts of their own, and let continuity tighten (Bock and Plitt 1984).

    Over a short segment the likelihood is smooth and a solve seldom fails. That segments join is a normal prior on the
    jumps between them, of standard deviation `scale / strength`, where `scale` is the size of each state.

    **Arguments:**

    - `strengths`: rising.
    - `inner`: the stage that climbs each of them.
    - `segments`: how many; by default eight, or as many as a chaotic system needs for each to lie within its horizon
      of predictability.

    **Raises:** `ModelError` for numbers out of range, a model without solves, and solves with doses.

    ```python
    recipe = [bh.recipes.MultipleShooting(segments=5), bh.recipes.LBFGS()]
    assert recipe[0].strengths == (0.3, 3.0, 30.0)
    ```
    """

    segments: int | None = None
    relaxation = Segments

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.segments is not None:
            _whole(self, "segments", 2)

    def _places(self, target, points):
        return (self.segments or windows(target, points, EIGHTHS)) - 1


@dataclass(frozen=True)
class Collocation(_Tightening):
    """Fit a smooth curve first, and let its slopes match the equation more and more closely: no step solves anything.

    The curve is a cubic spline; parameters and curve are fitted together, so that states that were not measured are
    found too (Ramsay, Hooker, Campbell and Cao 2007, doi:10.1111/j.1467-9868.2007.00610.x).

    **Arguments:**

    - `strengths`: rising; the slopes times the spacing of knots are those of the field up to a normal error of standard
      deviation `scale / strength`, where `scale` is the size of each state.
    - `inner`: the stage that climbs each of them.
    - `knots`: of the curve, equally spaced; by default two in each shortest gap between times measured, from 41 to 201.

    **Raises:** `ModelError` for numbers out of range, a model without solves, and solves with doses.

    ```python
    recipe = [bh.recipes.Collocation(knots=41), bh.recipes.Adam(), bh.recipes.LBFGS()]
    assert recipe[0].knots == 41
    ```
    """

    knots: int | None = None
    relaxation = Curve

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.knots is not None:
            _whole(self, "knots", 3)

    def _places(self, target, points):
        return self.knots or int(np.clip(2 * finest(target, points[0]) + 1, *KNOTS))
