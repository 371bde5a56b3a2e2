"""Does this model describe what was measured: the data beside replicated data, with residuals."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from bayeshybrid.forecast import Forecast, Quantity
from bayeshybrid.moments import is_category
from bayeshybrid.observation import EXACT, MISSING
from bayeshybrid.prediction_errors import PredictionErrors, UnitScores, score_replicates
from bayeshybrid.survey import ask
from bayeshybrid.target import Target
from bayeshybrid.tracing import abstract
from bayeshybrid.visual_predictive import VisualCheck, visual_check

MASS = 0.9
UNLIKELY = 0.025
FEW = 5
PARTS = ("observed", "residuals", "inside", "probabilities", "censored", "errors", "units", "kinds", "values")
STATISTICS: dict[str, Callable[..., Any]] = {
    "mean": np.mean,
    "sd": np.std,
    "smallest": np.min,
    "largest": np.max,
}

__all__ = ["FitCheck", "check_fit"]


@dataclass(frozen=True)
class FitCheck:
    """The data beside what the fitted model would have produced in their place.

    - `observed`: the data by observed site, NaN where not measured exactly.
    - `replicated`: replicated data.
    - `residuals`: (data - mean) / sd of the replicated data, cell by cell. For classes the size of that number
      for having met the class that was observed, sqrt((1 - p) / p) with p its share of the replicated data.
    - `inside`: site to `(count, cells)` inside the central 90 % of the replicated data; for classes among the
      most frequent ones that hold 90 %.
    - `probabilities`: site to statistic to the share of replicated data sets whose statistic is larger than the
      data's, ties counted half (Gelman, Meng and Stern 1996, "Posterior predictive assessment of model
      fitness"): near 0 or 1 the model does not reproduce it. The statistics are mean, sd, smallest and largest,
      of each label where the site has labels; for classes the share of each. None where the model does not draw
      the data one by one, because without them it draws a single value.
    - `censored`: site to the number of censored cells. They are left out above, so the rest is a selection: with
      many of them residuals lean to the side that could be measured.
    - `errors`: site to `PredictionErrors`, the data as normal scores of the replicated data, decorrelated within
      each unit (the leading axis of a site with `across=`; else the whole site is one unit). None for classes,
      and where the model does not draw the data one by one.
    - `new`: what was drawn anew in the replicated data, such as `("subject",)`; without it units keep what was
      inferred of them.
    - `units`: site to the names of its units, such as `"subject 5"`; `kinds`: what is known of each cell (0
      exact, 1 missing, 2 below, 3 above, 4 between); `values`: the data as given, a limit where censored;
      `inputs`: the model's arguments without the observations.

    The data were used in the fit, so all of this is in sample: it can show misfit, not predictive skill.

    ```python
    model = lambda y=None: numpyro.sample("y", dist.Normal(numpyro.sample("x", dist.Normal()), 1.0), obs=y)
    check = bh.infer(model, {"y": np.array(2.0)}, bh.NUTS(draws=100, warmup=100), key=0).check(key=1)
    assert "1 of 1 values" in str(check)
    ```
    """

    observed: dict[str, np.ndarray]
    replicated: dict[str, Quantity]
    residuals: dict[str, np.ndarray]
    inside: dict[str, tuple[int, int]]
    probabilities: dict[str, dict[str, float]]
    censored: dict[str, int] = field(default_factory=dict)
    errors: dict[str, PredictionErrors] = field(default_factory=dict)
    new: tuple[str, ...] = ()
    units: dict[str, tuple[str, ...]] = field(default_factory=dict)
    kinds: dict[str, np.ndarray] = field(default_factory=dict)
    values: dict[str, np.ndarray] = field(default_factory=dict)
    inputs: dict[str, Any] = field(default_factory=dict)

    @property
    def scores(self) -> dict[str, np.ndarray]:
        """Normalised prediction distribution errors, shaped like the data; NaN where there are none."""
        nothing = {name: np.full(np.shape(data), np.nan) for name, data in self.observed.items()}
        return nothing | {name: found.scores for name, found in self.errors.items()}

    @property
    def by_unit(self) -> dict[str, tuple[UnitScores, ...]]:
        """The scores of each unit of each site, summed up; no rows for sites without units."""
        return {name: self.errors[name].units if name in self.errors else () for name in self.observed}

    def by_time(self, time: str, site: str | None = None, **settings: Any) -> VisualCheck:
        """The visual predictive check as figures: quantiles of data and replicated data, by time.

        **Arguments:** as for `bayeshybrid.visual_predictive.visual_check`. Make the check with
        `posterior.check(key=, new=("subject",))`, so that the replicated units are drawn anew.

        ```python
        from bayeshybrid.fit import check_fit
        model = lambda t, y=None: numpyro.sample("y", dist.Normal(numpyro.sample("x", dist.Normal()) * t, 1.0), obs=y)
        data = {"t": np.arange(8.0), "y": np.arange(8.0)}
        prior = bh.simulate(model, {"t": data["t"]}, key=0, draws=100)
        check = check_fit(bh.Target(model, data), np.zeros((1, 1)), prior)
        assert check.by_time("t", bins=2).observed.shape == (2, 3)
        ```
        """
        return visual_check(self, time, site, **settings)

    def __str__(self) -> str:
        lines = []
        for name, (count, cells) in self.inside.items():
            found = f"{count} of {cells} values inside the central 90 % of replicated data (in sample)"
            odd = [s for s, p in self.probabilities[name].items() if not UNLIKELY <= p <= 1 - UNLIKELY]
            told = f"; not reproduced: {', '.join(odd)}" if odd else ""
            left_out = self.censored.get(name, 0)
            rest = (
                f"; {left_out} censored values are left out, so the rest is a selection" if left_out else ""
            )
            lines.append(f"{name}: {found}{told}{rest}")
            if name in self.errors and self.errors[name].overall.count >= FEW:
                lines += [f"  {line}" for line in str(self.errors[name]).split("\n")]
        if self.new:
            lines.append(f"replicated data are of {', '.join(self.new)} drawn anew")
        return "\n".join(lines)


def check_fit(target: Target, draws: np.ndarray, forecast: Forecast, new: Sequence[str] = ()) -> FitCheck:
    """Compare the data of a target with a forecast at the inputs of the fit; see `Posterior.check`.

    **Arguments:**

    - `target`: the model and its data.
    - `draws`: unconstrained posterior draws `(n, size)`, of which the first is used to read the data.
    - `forecast`: draws of the observed sites at the inputs of the fit.
    - `new`: what the forecast drew anew.

    **Returns:** a `FitCheck`.

    ```python
    from bayeshybrid.fit import check_fit
    model = lambda y=None: numpyro.sample("y", dist.Normal(numpyro.sample("x", dist.Normal()), 1.0), obs=y)
    target, prior = bh.Target(model, {"y": np.array(9.0)}), bh.simulate(model, {}, key=0)
    assert check_fit(target, np.zeros((1, 1)), prior).inside["y"] == (0, 1)
    ```
    """
    told = ask(target, draws[:1], ["kinds", "data"])
    natures = _natures(target, draws[0])
    found: dict[str, dict[str, Any]] = {part: {} for part in PARTS}
    for site in target.layout.observed:
        if site.name in forecast.observed:
            (values,), (kinds,) = told["data"][site.name], told["kinds"][site.name]
            units = _units(target, site, np.shape(values))
            with np.errstate(over="ignore"):  # of prior draws, whose squares may have no end
                parts = _check_site(
                    values, kinds, forecast.observed[site.name], natures[site.name], units, new
                )
            for part, value in parts.items():
                found[part][site.name] = value
    return FitCheck(**found, replicated=dict(forecast.observed), new=tuple(new), inputs=dict(forecast.inputs))


def _check_site(values, kinds, replicated, nature, units, new):
    """The parts of a check that belong to one site."""
    kinds = np.broadcast_to(kinds.reshape(kinds.shape + (1,) * (values.ndim - kinds.ndim)), values.shape)
    exact = (kinds == EXACT) & ~np.isnan(values)
    data = np.where(exact, values, np.nan)
    classes = nature == "classes"
    residuals, within = (_compare_classes if classes else _compare_numbers)(data, replicated)
    parts = {
        "observed": data,
        "residuals": residuals,
        "inside": (int(within[exact].sum()), int(exact.sum())),
        "probabilities": _probabilities(data, exact, replicated, classes),
        "censored": int(np.sum(kinds > 1)),
        "units": units or (),
        "kinds": np.where(exact | (kinds != EXACT), kinds, MISSING),
        "values": values,
    }
    if not classes and replicated.draws.shape[1:] == data.shape:
        settings = {"inside": within, "discrete": nature == "counts", "refitted": not new}
        parts["errors"] = score_replicates(data, replicated.draws, units, **settings)
    return parts


def _natures(target, q):
    """Observed sites and whether their values are numbers, counts or the numbers of classes."""

    def look(q):
        found = target.run_at(q)
        noise = {site.name: found.sites[site.name]["fn"] for site in target.layout.observed}
        return {
            name: "classes" if is_category(one) else "counts" if one.is_discrete else "numbers"
            for name, one in noise.items()
        }

    return abstract(look, q)


def _units(target, site, shape):
    """The names of the units along the leading axis of a site, `None` where it counts no units."""
    across = site.tag.across
    if across is None or not shape:
        return None
    labels = getattr(target, "labels", {}).get(across) or tuple(map(str, range(shape[0])))
    return tuple(f"{across} {label}" for label in labels)


def _compare_numbers(data, replicated):
    """Standardised residuals, and whether each value lies in the central interval."""
    low, high = replicated.interval(MASS)
    with np.errstate(invalid="ignore", divide="ignore"):
        return (data - replicated.mean) / replicated.sd, (data >= low) & (data <= high)


def _compare_classes(data, replicated):
    """How surprising each observed class is, and whether it is among the frequent ones."""
    classes = np.arange(1 + max(np.max(replicated.draws), np.max(np.nan_to_num(data))))
    shares = np.stack([np.mean(replicated.draws == one, axis=0) for one in classes], axis=-1)
    shares = np.broadcast_to(shares, (*data.shape, len(classes)))
    met = np.nan_to_num(data).astype(int)[..., None]
    share = np.take_along_axis(shares, met, axis=-1)[..., 0]
    more_frequent = np.sum(np.where(shares > share[..., None], shares, 0.0), axis=-1)
    with np.errstate(divide="ignore"):
        surprise = np.sqrt((1.0 - share) / share)
    return np.where(np.isnan(data), np.nan, surprise), more_frequent < MASS


def _probabilities(data, exact, replicated, classes) -> Mapping[str, float]:
    """Posterior predictive p-values of the statistics of one site."""
    if replicated.draws.shape[1:] != data.shape or not exact.any():
        return {}
    if classes:
        met = np.arange(1 + int(np.nanmax(data)))
        drawn = replicated.draws.reshape(len(replicated.draws), -1)[:, exact.ravel()]
        return {
            f"share of class {one}": _larger(np.mean(drawn == one, axis=-1), np.mean(data[exact] == one))
            for one in np.union1d(met, drawn).astype(int)
        }
    columns = {"": (data, exact, replicated.draws)}
    if data.ndim and len(replicated.labels) == data.shape[-1]:
        columns = {
            f" of {label}": (data[..., i], exact[..., i], replicated.draws[..., i])
            for i, label in enumerate(replicated.labels)
        }
    found = {}
    for place, (values, known, draws) in columns.items():
        drawn = draws.reshape(len(draws), -1)[:, known.ravel()]
        if known.any():
            for name, function in STATISTICS.items():
                found[name + place] = _larger(function(drawn, axis=-1), function(values[known]))
    return found


def _larger(replicated, observed):
    """Share of replicated values above the observed one; a tie, common among counts, is half above."""
    tied = np.isclose(replicated, observed, rtol=1e-12, atol=0.0)
    return float(np.mean(np.where(tied, 0.5, replicated > observed)))
