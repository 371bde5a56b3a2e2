"""Does this model describe what was measured: the data beside replicated data, with residuals."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from bayeshybrid.forecast import Forecast, Quantity
from bayeshybrid.moments import is_category
from bayeshybrid.survey import ask
from bayeshybrid.target import Target
from bayeshybrid.tracing import abstract

MASS = 0.9
UNLIKELY = 0.025
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
        return "\n".join(lines)


def check_fit(target: Target, draws: np.ndarray, forecast: Forecast) -> FitCheck:
    """Compare the data of a target with a forecast at the inputs of the fit; see `Posterior.check`.

    **Arguments:**

    - `target`: the model and its data.
    - `draws`: unconstrained posterior draws `(n, size)`, of which the first is used to read the data.
    - `forecast`: draws of the observed sites at the inputs of the fit.

    **Returns:** a `FitCheck`.

    ```python
    from bayeshybrid.fit import check_fit
    model = lambda y=None: numpyro.sample("y", dist.Normal(numpyro.sample("x", dist.Normal()), 1.0), obs=y)
    target, prior = bh.Target(model, {"y": np.array(9.0)}), bh.simulate(model, {}, key=0)
    assert check_fit(target, np.zeros((1, 1)), prior).inside["y"] == (0, 1)
    ```
    """
    told = ask(target, draws[:1], ["kinds", "data"])
    classes = _classes(target, draws[0])
    observed, residuals, inside, probabilities, censored = {}, {}, {}, {}, {}
    for name, replicated in forecast.observed.items():
        (values,), (kinds,) = told["data"][name], told["kinds"][name]
        kinds = np.broadcast_to(kinds.reshape(kinds.shape + (1,) * (values.ndim - kinds.ndim)), values.shape)
        exact = kinds == 0
        data = np.where(exact, values, np.nan)
        compare = _compare_classes if name in classes else _compare_numbers
        residuals[name], within = compare(data, replicated)
        observed[name] = data
        inside[name] = (int(within[exact].sum()), int(exact.sum()))
        probabilities[name] = _probabilities(data, exact, replicated, name in classes)
        censored[name] = int(np.sum(kinds > 1))
    return FitCheck(observed, dict(forecast.observed), residuals, inside, probabilities, censored)


def _classes(target, q):
    """Observed sites whose values are the numbers of classes."""

    def look(q):
        found = target.run_at(q)
        names = [site.name for site in target.layout.observed]
        return {name for name in names if is_category(found.sites[name]["fn"])}

    return abstract(look, q)


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
