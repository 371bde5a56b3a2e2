"""Posteriors of one data set side by side: which forecasts better, by how much, and whether that can be told."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from bayeshybrid.faults import DataError, ModelError
from bayeshybrid.held_out import evaluate
from bayeshybrid.keys import as_key, children
from bayeshybrid.marginal_likelihood import Evidence, log_evidence
from bayeshybrid.observation import EXACT
from bayeshybrid.plays import Scored, score, scored_events
from bayeshybrid.posterior import Posterior
from bayeshybrid.progress import Progress

if TYPE_CHECKING:
    from bayeshybrid.inference.method import Method

LEVEL = 0.9
LARGE_IS_GOOD = ("log score",)
FEWEST_BLOCKS = 10
FEWEST_LEFT_OUT = 25  # of which a fifth are the tail that a Pareto distribution is fitted to

__all__ = ["Comparison", "Difference", "SiteComparison", "ablation", "compare"]


@dataclass(frozen=True)
class Difference:
    """How much worse a model scores than the best one, cell by cell or block by block.

    - `value`: mean difference in score, at least zero up to chance; `error`: its standard error.
    - `blocks`: how many independent differences it rests on; `told_apart`: whether it is larger than chance gives in
      95 of 100 cases, by Student's t.

    ```python
    from bayeshybrid.comparison import Difference
    assert Difference(1.0, 0.2, 20).told_apart and not Difference(1.0, 0.2, 2).told_apart
    ```
    """

    value: float
    error: float
    blocks: int

    @property
    def told_apart(self) -> bool:
        """Whether chance alone hardly gives such a difference."""
        from scipy.stats import t

        return bool(self.blocks > 1 and abs(self.value) > t.ppf(0.975, self.blocks - 1) * self.error)


@dataclass(frozen=True)
class SiteComparison:
    """How models forecast one observed site.

    - `figures`: model to figure to value: `"log score"` (mean log density or probability of a measurement, in nats),
      `"CRPS"`, `"RMSE"`, `"MAE"` in `unit`, and `"coverage 90 %"` of the central interval; of classes the first alone.
    - `differences`: model to figure to `Difference` from the model that is best by it, for the first two and `"MAE"`.
    - `compared`: how many values; `in_sample`: whether they were fitted, and each is scored as if left out.
    """

    site: str
    unit: str | None
    figures: dict[str, dict[str, float]]
    differences: dict[str, dict[str, Difference]]
    compared: int
    in_sample: bool


@dataclass(frozen=True)
class Comparison:
    """Posteriors of one data set side by side.

    - `sites`: observed site to `SiteComparison`.
    - `seconds`: model to the seconds of its fit and of its forecast; `megabytes`: of its draws.
    - `evidence`: model to its log evidence, or why it was not assessed.
    - `words`: what a reader must know first.
    - `posteriors`: model to posterior; `failures`: model to why there is none, where an `ablation` has no fit of it.
    """

    sites: dict[str, SiteComparison]
    seconds: dict[str, tuple[float, float]]
    megabytes: dict[str, float]
    evidence: dict[str, Evidence]
    words: tuple[str, ...]
    posteriors: dict[str, Posterior] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)

    def __getitem__(self, site: str) -> SiteComparison:
        if site not in self.sites:
            raise DataError(f"no measured site is called {site!r}: there are {', '.join(self.sites)}")
        return self.sites[site]

    def __str__(self) -> str:
        lines = []
        for site in self.sites.values():
            unit = f" [{site.unit}]" if site.unit else ""
            lines.append(f"{site.site}{unit}, {site.compared} values")
            lines += _table(site)
        lines += [
            f"{name}: fitted in {fit:.3g} s, forecast in {ahead:.2g} s, {self.megabytes[name]:.2g} MB of draws"
            for name, (fit, ahead) in self.seconds.items()
        ]
        lines += [f"{name}: log evidence {found}" for name, found in self.evidence.items()]
        lines += [f"{name}: not fitted, {reason}" for name, reason in self.failures.items()]
        return "\n".join([*lines, *self.words])


def compare(
    posteriors: Mapping[str, Posterior],
    data: Mapping[str, Any] | None = None,
    *,
    key: Any,
    blocks: Mapping[str, np.ndarray] | None = None,
    evidence: bool = True,
) -> Comparison:
    """Score several posteriors by the same measurements, and say which differences chance does not explain.

    Scores are those of the mixture over draws. Differences are paired: both models meet the same cell, and what makes
    a cell hard for all cancels. With few cells, or cells that hang together, little can be told apart: this says so.

    **Arguments:**

    - `posteriors`: name to posterior, at least two, of models fitted to the same observations.
    - `data`: inputs and measurements that no model was fitted to: later times, whole units, other conditions. By
      default those of the fit, each as if left out (Vehtari, Gelman and Gabry 2017), which says how models
      interpolate and not how they forecast.
    - `key`: an integer or a JAX key for the forecasts.
    - `blocks`: observed site to labels in its shape: cells of one label count as one. By default each unit is a
      block where the site counts units, and otherwise each cell.
    - `evidence`: whether to estimate the evidence of each model too, some four thousand evaluations.

    **Returns:** a `Comparison`.

    **Raises:** `ModelError` for fewer than two posteriors or fits of different observations; `DataError` for data that
    do not go with a model, and labels of another shape.

    ```python
    def model(spread):
        def wide(y=None):
            level = numpyro.sample("level", dist.Normal())
            numpyro.sample("y", dist.Normal(level, spread).expand([20]), obs=y)
        return wide
    y = np.linspace(-1.0, 1.0, 20)
    fits = {str(s): bh.infer(model(s), {"y": y}, bh.NUTS(draws=200, warmup=200), key=0) for s in (0.6, 5.0)}
    told = bh.compare(fits, key=1)["y"]
    assert told.differences["5.0"]["log score"].told_apart
    ```
    """
    _check(posteriors, data)
    scored: dict[str, dict[str, Scored]] = {}
    seconds, megabytes = {}, {}
    shapes: dict[str, tuple[Any, ...]] = {}
    for name, posterior in posteriors.items():
        measured = dict(posterior.target.arguments() if data is None else data)
        began = time.monotonic()
        forecast = posterior.predict(measured, key=key)
        seconds[name] = (float(posterior.record["seconds"]["total"]), time.monotonic() - began)
        megabytes[name] = posterior.unconstrained.nbytes / 1e6
        for site, held in evaluate(forecast, measured, plays=1).items():  # what is scored is the data alone
            scored.setdefault(site, {})[name] = score(forecast, held, LEVEL)
            told = forecast.observed[site]
            shapes[site] = (held, told.unit, told.across)
    partial = [site for site, found in scored.items() if set(found) != set(posteriors)]
    if partial:
        alone = ", ".join(scored[partial[0]])
        raise ModelError(f"compare(): {partial[0]!r} is measured for {alone} alone: compare what all observe")
    sites = {
        site: _site(site, shapes[site], found, None if blocks is None else blocks.get(site))
        for site, found in scored.items()
    }
    estimated = {name: log_evidence(each, key=key) for name, each in posteriors.items()} if evidence else {}
    return Comparison(sites, seconds, megabytes, estimated, _words(sites, blocks, shapes), dict(posteriors))


def ablation(
    model: Callable[..., Any],
    data: Mapping[str, Any],
    method: Method | None = None,
    *,
    key: Any,
    fixed: Mapping[str, Any] | None = None,
    rows: Sequence[str] | None = None,
    held_out: Mapping[str, Any] | None = None,
    blocks: Mapping[str, np.ndarray] | None = None,
    progress: Progress | None = None,
    time_limit: float | None = None,
) -> Comparison:
    """Fit a model again without each of its parts, and put all that comes out side by side.

    Which networks and joins it has is read off the model. Every row is a fit of its own by the same method with the
    same key, so this takes as many fits as there are rows. A part without which forecasts are no worse may still
    matter for what the parameters mean: look at the posteriors too.

    **Arguments:**

    - `model`, `data`, `method`, `progress`, `time_limit`: as for `infer`; the limit holds for each fit.
    - `key`: an integer or a JAX key.
    - `fixed`: site to a value: there is one row more for each, in which these unknowns are held at them.
    - `rows`: which of the rows, by their names; all by default. `bayeshybrid.ablations.variants` lists them.
    - `held_out`, `blocks`: measurements that nothing is fitted to and what of them hangs together, as for `compare`.

    **Returns:** a `Comparison` of the rows, with the posteriors. A row that could not be fitted or scored is told
    among its `failures`, with the reason, and the others are kept.

    **Raises:** `ModelError` for rows that the model does not have, `DataError` for data that do not go with it.

    ```python
    def model(x, y=None):
        slope = bh.parameter("slope", dist.Normal(0.0, 3.0))
        bend = bh.network("bend", bh.MLP(1, 1, width=2), scale=1.0, center=0.0, spread=1.0)
        bh.observe("y", dist.Normal(slope * x + bend(x[:, None])[:, 0], 0.1), obs=y)
    x = np.linspace(-1.0, 1.0, 8)
    found = bh.ablation(model, {"x": x, "y": 2.0 * x}, bh.DeepEnsemble(members=32, steps=50), key=0)
    assert set(found["y"].figures) == {"whole", "without bend"}
    ```
    """
    from bayeshybrid.ablations import variants
    from bayeshybrid.inference.verbs import infer  # methods are listed in the order in which they are loaded

    chosen = _chosen(variants(model, data, fixed), rows)
    fit_key, score_key = children(as_key(key), 2)
    posteriors: dict[str, Posterior] = {}
    failures: dict[str, str] = {}
    for name, variant in chosen.items():
        try:
            posteriors[name] = infer(
                variant, data, method, key=fit_key, progress=progress, time_limit=time_limit
            )
        except Exception as error:  # whatever stops one fit, the others are hours of work
            failures[name] = _reason(error)
    return _compared(posteriors, failures, held_out, score_key, blocks)


def _check(posteriors, data):
    if len(posteriors) < 2:
        raise ModelError(f"compare(): at least two posteriors stand side by side, got {list(posteriors)}")
    for name, posterior in posteriors.items():
        if not isinstance(posterior, Posterior):
            raise ModelError(
                f"compare(): {name!r} is {type(posterior).__name__}: give what bh.infer returned"
            )
        if data is None and posterior.size < FEWEST_LEFT_OUT:
            raise DataError(
                f"compare(): {name!r} has {posterior.size} draws, and to leave out one value after another takes "
                f"{FEWEST_LEFT_OUT}: draw more, or give data that nothing was fitted to"
            )
    (first, one), *others = posteriors.items()
    for name, other in others:
        for site in one.target.layout.observed:
            theirs = [s for s in other.target.layout.observed if s.name == site.name]
            if not theirs or theirs[0].shape != site.shape:
                raise ModelError(
                    f"compare(): {first!r} was fitted to {site.name!r} of shape {site.shape}, {name!r} to "
                    f"{theirs[0].shape if theirs else 'nothing of that name'}: fit all to the same observations"
                )


def _site(site, about, found, labels):
    """The figures of each model, and how far it is from the best."""
    held, unit, across = about
    labels = _labels(site, held.reading, across, labels)
    exact = labels[held.reading.kinds.ravel() == EXACT]
    size, known = scored_events(held)
    together = labels[::size][known]
    figures, cells = {}, {}
    for name, one in found.items():
        inside = (one.below[0] >= 0.5 * (1 - LEVEL)) & (one.strictly[0] <= 0.5 * (1 + LEVEL))
        cells[name] = {"log score": (one.log[0], together)}
        figures[name] = {"log score": float(np.mean(one.log[0]))}
        if one.nature != "classes":
            cells[name] |= {
                "CRPS": (one.crps[0], exact),
                "MAE": (np.abs(one.error[0]), exact),
            }
            figures[name] |= {
                "CRPS": float(np.mean(one.crps[0])),
                "RMSE": float(np.sqrt(np.mean(one.error[0] ** 2))),
                "MAE": float(np.mean(np.abs(one.error[0]))),
                "coverage 90 %": float(np.mean(inside)),
            }
    differences: dict[str, dict[str, Difference]] = {name: {} for name in found}
    for figure in next(iter(cells.values())):
        sign = -1.0 if figure in LARGE_IS_GOOD else 1.0
        best = min(found, key=lambda name, f=figure, s=sign: s * figures[name][f])
        for name in found:
            values, at = cells[name][figure]
            differences[name][figure] = _difference(sign * (values - cells[best][figure][0]), at)
    one = next(iter(found.values()))
    return SiteComparison(site, unit, figures, differences, one.values.shape[1], bool(one.seen))


def _labels(site, reading, across, labels):
    """Of each cell the block that it belongs to."""
    shape = reading.values.shape
    if labels is not None:
        if np.shape(labels) != shape:
            raise DataError(f"blocks[{site!r}] has shape {np.shape(labels)}, and the measurements {shape}")
        return np.unique(np.ravel(labels), return_inverse=True)[1]
    if across is not None and shape:
        return np.repeat(np.arange(shape[0]), int(np.prod(shape[1:], dtype=int)))
    return np.arange(int(np.prod(shape, dtype=int)))


def _difference(values, labels):
    """Mean and standard error of paired differences, from the sums of blocks."""
    if not len(values):
        return Difference(np.nan, np.nan, 0)
    mean = float(np.mean(values))
    _, place = np.unique(labels, return_inverse=True)
    sums = np.bincount(place, weights=values - mean)
    count = len(sums)
    spread = np.sqrt(np.sum(sums**2) * count / max(count - 1, 1)) / len(values)
    return Difference(mean, float(spread), count)


def _table(site):
    names = list(next(iter(site.figures.values())))
    width = max(map(len, site.figures))
    head = " " * (width + 2) + "".join(f"{name:>16}" for name in names)
    lines = [head]
    for model, figures in site.figures.items():
        lines.append(f"  {model:<{width}}" + "".join(f"{figures[name]:>16.4g}" for name in names))
    for model, found in site.differences.items():
        for figure, difference in found.items():
            if difference.value == 0.0:
                continue
            apart = "" if difference.told_apart else ", not told apart"
            lines.append(
                f"  {model}: {figure} worse by {difference.value:.3g} (standard error {difference.error:.2g}{apart})"
            )
    return lines


def _words(sites, blocks, about):
    told = []
    if any(site.in_sample for site in sites.values()):
        told.append(
            "These values were fitted: each is scored as if it had been left out, which tells how the models fill gaps "
            "and not how they forecast."
        )
    for name, site in sites.items():
        among = {d.blocks for found in site.differences.values() for d in found.values()}
        if among and min(among) < FEWEST_BLOCKS:
            told.append(
                f"{name}: differences rest on {min(among)} independent values, so that little can be told apart."
            )
        if about[name][2] is None and not (blocks and name in blocks) and site.compared > 1:
            told.append(
                f"{name}: its cells are taken as independent; where errors run on from one to the next, give blocks."
            )
    return tuple(told)


# Parts taken away


def _chosen(made, rows):
    rows = list(made) if rows is None else [rows] if isinstance(rows, str) else list(rows)
    unknown = [name for name in rows if name not in made]
    if unknown:
        raise ModelError(f"ablation(): there is no row {unknown[0]!r}; there are {', '.join(made)}")
    return {name: made[name] for name in rows}


def _compared(posteriors, failures, held_out, key, blocks):
    """The rows side by side; where that fails the posteriors alone, with the reason."""
    words: tuple[str, ...] = ("fewer than two rows were fitted, so that nothing can be compared",)
    if len(posteriors) > 1:
        try:
            return replace(compare(posteriors, held_out, key=key, blocks=blocks), failures=failures)
        except Exception as error:
            words = (f"the rows were fitted, but could not be scored: {_reason(error)}",)
    return Comparison({}, {}, {}, {}, words, posteriors, failures)


def _reason(error):
    return f"{type(error).__name__}: {error}"
