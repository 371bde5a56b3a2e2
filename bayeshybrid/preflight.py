"""Before any fit: what the model says without the data, and whether the data fit into that.

A prior that is harmless parameter by parameter can mean trajectories that nobody would believe, or that no solver
can follow. Both cost nothing to find out before a fit and much after it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from bayeshybrid import configuration
from bayeshybrid.data import located
from bayeshybrid.faults import ModelError
from bayeshybrid.findings import Finding, failed_units, failing_densities, failing_solves, percent, state_of
from bayeshybrid.fit import MASS, FitCheck, check_fit
from bayeshybrid.forecast import Forecast, forecast_draws
from bayeshybrid.inference.convergence import reasons_in_words
from bayeshybrid.inference.gates import scale_networks, scout
from bayeshybrid.keys import as_key
from bayeshybrid.observation import EXACT, LEFT, MISSING, RIGHT
from bayeshybrid.ranges import Range, default_range, stated_range
from bayeshybrid.survey import ask, draw_prior
from bayeshybrid.target import Target
from bayeshybrid.verdict import State, worst

LIMITS: dict[str, tuple[float, float]] = {
    "failed": (0.05, 0.5),
    "implausible": (0.2, 0.8),
    "outside": (0.2, 0.5),
}
SCOUTED = 20
SHOWN = 5
ROUNDING = 1e-5

__all__ = ["Finding", "Implausible", "Preflight", "assess"]


@dataclass(frozen=True)
class Implausible:
    """How many prior draws leave the range in which a quantity is believable.

    - `share`: of the draws that were solved, those with any entry outside; `below`, `above`: on which side.
    - `low`, `high`: the range, one number for all entries or one for each label.
    - `stated`: whether it was given; else it was made from the data of the site.
    """

    share: float
    below: float
    above: float
    low: np.ndarray
    high: np.ndarray
    stated: bool


@dataclass(frozen=True)
class Preflight:
    """What prior draws say of a model and its data.

    - `findings`: line by line, each with its limits and a remedy; `state`: the gravest of them.
    - `failed_share`: share of prior draws that cannot be solved; `failures`: the same by reason.
    - `failed_units`: solve to the share of failed draws of each unit, where it has units.
    - `implausible`: quantity to `Implausible`.
    - `inside`: observed site to `(count, compared)`: measured values inside the central 90 % of the prior
      predictive distribution. A value known to lie below or above a limit is inside if part of it lies there.
    - `outside`: observed site to the places and values of the first five that are not.
    - `warnings`: whatever the gates of `infer` remark.
    - `prior`: the prior predictive forecast, for pictures; `check`: the data beside it; `draws`: how many.

    ```python
    model = lambda y=None: numpyro.sample("y", dist.Normal(numpyro.sample("x", dist.Normal()), 1.0), obs=y)
    found = bh.preflight.assess(model, {"y": np.array([0.3, 1.0])}, key=0, draws=200)
    assert found.inside["y"] == (2, 2) and "2 of 2" in str(found)
    ```
    """

    findings: tuple[Finding, ...]
    failed_share: float
    failures: dict[str, float]
    failed_units: dict[str, dict[str, float]]
    implausible: dict[str, Implausible]
    inside: dict[str, tuple[int, int]]
    outside: dict[str, tuple[str, ...]]
    warnings: tuple[str, ...]
    prior: Forecast
    check: FitCheck
    draws: int

    @property
    def state(self) -> State:
        """The gravest state of any line; a pass with warnings is one with remarks."""
        found = worst(one.state for one in self.findings)
        return "pass with remarks" if found == "pass" and self.warnings else found

    def __str__(self) -> str:
        lines = [f"before the fit, {self.draws} draws from the prior: {self.state}"]
        lines += [f"  {finding}" for finding in self.findings]
        lines += [f"  warning: {warning}" for warning in self.warnings]
        lines.append(
            "  This looks at the prior alone; a pass does not mean that the data can tell the unknowns."
        )
        return "\n".join(lines)


def assess(
    model: Callable[..., Any],
    data: Mapping[str, Any],
    *,
    key: Any,
    plausible: Mapping[str, Any] | None = None,
    draws: int = 1000,
    limits: Mapping[str, tuple[float, float]] | None = None,
) -> Preflight:
    """Look at a model and its data before any fit.

    **Arguments:**

    - `model`, `data`: as for `infer`.
    - `key`: an integer or a JAX key.
    - `plausible`: name of a solve, derived quantity, unknown or observed site to the range `(low, high)` in its
      unit beyond which nobody would believe it, `None` for an open end; or label to range, such as
      `{"path": {"hare": (0, 500)}}`. A draw with any entry outside, by more than 1e-5 of the larger end, counts as
      implausible. Of an observed site
      the conditional mean is compared. Without it each observed site gets a range from its data: where all are
      positive from a tenth of the smallest to ten times the largest, else their range widened tenfold.
    - `draws`: how many draws of the prior.
    - `limits`: shares above which a line becomes a remark and a failure, for `"failed"` (0.05, 0.5),
      `"implausible"` (0.2, 0.8) and `"outside"` (0.2, 0.5).

    **Returns:** a `Preflight`.

    **Raises:** what `infer` raises before sampling: `DataError` for data that cannot be used, `ModelError` for a
    model that cannot be fitted, `StartError` where no prior draw has a finite density. Also `ModelError` for a
    plausible range of something that the model does not have.

    ```python
    def model(t, y=None):
        rate = numpyro.sample("rate", dist.LogNormal(0.0, 3.0))
        numpyro.sample("y", dist.LogNormal(-rate * t, 0.2), obs=y)
    data = {"t": np.array([1.0, 2.0]), "y": np.array([0.6, 0.4])}
    found = bh.preflight.assess(model, data, key=0, draws=200, plausible={"rate": (0.01, 100.0)})
    assert 0.05 < found.implausible["rate"].share < 0.25
    ```
    """
    limits = _limits(limits)
    if draws < 1:
        raise ModelError(f"draws={draws}: at least one draw is needed")
    with configuration.scope():
        scale_key, scout_key, prior_key, forecast_key = jax.random.split(as_key(key), 4)
        target, scaled = scale_networks(Target(model, data), scale_key)
        ranges = {name: stated_range(target.layout, name, told) for name, told in (plausible or {}).items()}
        with located(data):
            scouts = scout(target, scout_key, SCOUTED)
        points, proper = draw_prior(target, prior_key, draws)
        told = ask(target, points, ["values", "reasons", "finite", "initial"])
        values = {site.name: told["values"][site.name] for site in target.layout.latent}
        prior = forecast_draws(target, values, target.inputs(), forecast_key)
        check = check_fit(target, points[:1], prior)
    failures = {reason: n / draws for reason, n in reasons_in_words(told["reasons"]).items()}
    if not ranges:
        exact = {site: check.values[site][check.kinds[site] == EXACT] for site in check.errors}
        ranges = {site: one for site, y in exact.items() if (one := default_range(y)) is not None}
    implausible = {name: _implausible(prior, check, name, one) for name, one in ranges.items()}
    inside, outside = _against_data(check, told["initial"])
    findings = [
        *_improper(proper),
        *failing_solves(target, told, failures, limits["failed"]),
        *failing_densities(told, limits["failed"]),
        *(_plausibility(prior, name, one, limits["implausible"]) for name, one in implausible.items()),
        *(_expected(name, inside[name], outside[name], limits["outside"]) for name in inside),
    ]
    return Preflight(
        findings=tuple(findings),
        failed_share=sum(failures.values()),
        failures=failures,
        failed_units=failed_units(target, told["reasons"]),
        implausible=implausible,
        inside=inside,
        outside={name: lines[:SHOWN] for name, lines in outside.items()},
        warnings=_warnings(target, scouts, scaled, check),
        prior=prior,
        check=check,
        draws=draws,
    )


def _limits(given):
    for name, pair in (given or {}).items():
        if name not in LIMITS:
            raise ModelError(f"limits={{{name!r}: ...}}: there are {', '.join(map(repr, LIMITS))}")
        if len(pair) != 2 or not 0 <= pair[0] <= pair[1] <= 1:
            raise ModelError(
                f"limits={{{name!r}: {pair!r}}}: give two shares that rise, such as {LIMITS[name]}"
            )
    return {**LIMITS, **(given or {})}


def _improper(proper):
    if proper:
        return []
    words = "a prior is improper, so that it was drawn from -2 to 2 on the unconstrained scale"
    return [Finding("prior", "not assessable", float("nan"), (), words, "Give it a proper prior")]


# Plausible ranges


def _implausible(prior, check, name, wanted: Range):
    draws = _compared(prior, name)
    if not wanted.stated:
        draws = draws[:, check.kinds[name] != MISSING]
    ends = np.abs(np.where(np.isfinite([wanted.low, wanted.high]), [wanted.low, wanted.high], 0.0))
    slack = ROUNDING * ends.max(axis=0)  # a solver's zero is not quite zero
    low, high = draws < wanted.low - slack, draws > wanted.high + slack
    below, above = (side.reshape(len(draws), -1).any(axis=1) for side in (low, high))
    share, under, over = (float(np.mean(side)) for side in (below | above, below, above))
    return Implausible(share, under, over, wanted.low, wanted.high, wanted.stated)


def _compared(prior, name):
    """What is held against a plausible range: a latent quantity, or the conditional mean of an observed site."""
    if name in prior.latent:
        return prior.latent[name].draws
    mean = prior.conditional[name][0] if name in prior.conditional else np.array(np.nan)
    drawn = prior.observed[name].draws
    return mean.reshape(drawn.shape) if mean.size == drawn.size and np.all(np.isfinite(mean)) else drawn


def _plausibility(prior, name, found, limits):
    said = prior.latent.get(name) or prior.observed[name]
    unit = f" {said.unit}" if said.unit else ""
    if np.ndim(found.low):
        ends = zip(said.labels, found.low, found.high, strict=True)
        between = ", ".join(
            f"{label} {_between(*pair)}" for label, *pair in ends if np.any(np.isfinite(pair))
        )
    else:
        between = _between(found.low, found.high)
    source = "" if found.stated else ", a range made from the data"
    sides = [f"{percent(x)} {side}" for x, side in ((found.below, "below"), (found.above, "above")) if x]
    how_many = f"{percent(found.share)} of the draws leave" if sides else "no draw leaves"
    words = f"{how_many} {between}{unit}{source}" + (f" ({', '.join(sides)})" if sides else "")
    remedy = (
        "Narrow the priors on which it rests" if found.stated else "State plausible=, or narrow the priors"
    )
    return Finding(f"range of {name}", state_of(found.share, limits), found.share, limits, words, remedy)


def _between(low, high):
    if np.isinf(low):
        return f"up to {high:.3g}"
    return f"from {low:.3g}" if np.isinf(high) else f"{low:.3g} to {high:.3g}"


# The data


def _against_data(check, initial):
    """Counts of measured values inside the central 90 %, and the places of the others."""
    inside, outside = {}, {}
    for name, replicated in check.replicated.items():
        if name not in check.errors:
            inside[name], outside[name] = check.inside[name], ()
            continue
        y, kinds = check.values[name], check.kinds[name]
        low, high = replicated.interval(MASS)
        compared = (kinds == EXACT) | (kinds == LEFT) | (kinds == RIGHT)
        wrong = ((y < low) & (kinds != RIGHT)) | ((y > high) & (kinds != LEFT))
        wrong &= compared
        unit = f" {replicated.unit}" if replicated.unit else ""
        outside[name] = tuple(
            f"{_place(check, name, index, initial)} = {y[index]:.4g}{unit}, "
            f"expected {low[index]:.3g} to {high[index]:.3g}"
            for index in map(tuple, np.argwhere(wrong))
        )
        inside[name] = (int(compared.sum() - wrong.sum()), int(compared.sum()))
    return inside, outside


def _place(check, name, index, initial):
    """Unit, time and label of one cell, its row where the model has no solve with such times."""
    words, rest = [], list(index)
    units, labels = check.units[name], check.replicated[name].labels
    shape = check.values[name].shape
    last = [labels[rest.pop()]] if labels and len(labels) == shape[-1] and rest else []
    if units and rest:
        words.append(units[rest.pop(0)])
    time = _time(initial, index, shape, bool(units)) if rest else None
    words += [f"time {time:.6g}"] if time is not None else []
    words += [f"row {row}" for row in (rest[1:] if time is not None else rest)]
    return f"{name}[{', '.join([*words, *last])}]" if index else name


def _time(initial, index, shape, units):
    for solve in initial.values():
        times = np.asarray(solve["times"][0])
        for lead in (0, 1) if units else (0,):
            if times.ndim and (times.ndim == 1 + units or lead == units):
                if times.shape == shape[lead : lead + times.ndim]:
                    return float(times[tuple(index[lead : lead + times.ndim])])
    return None


def _expected(name, inside, outside, limits):
    count, compared = inside
    about = f"data of {name}"
    if not compared:
        return Finding(
            about, "not assessable", float("nan"), (), "nothing was measured", "It is forecast only"
        )
    share = 1 - count / compared
    words = f"{count} of {compared} measured values inside the central {100 * MASS:.0f} % of what the priors expect"
    if outside:
        words += f"; not expected: {'; '.join(outside[:SHOWN])}"
        words += f" and {len(outside) - SHOWN} more" if len(outside) > SHOWN else ""
    remedy = (
        "The priors do not expect these data: look at units and at the model, else move or widen the priors"
    )
    return Finding(about, state_of(share, limits), share, limits, words, remedy)


def _warnings(target, scouts, scaled, check):
    """What the gates remark, and units without a measured value."""
    said = [*target.losses, *(line for line in scouts.remarks if "of prior draws fail to solve" not in line)]
    said += [line for line in scaled if "could not be found" in line]
    odd = [f"{solve.name}: {line}" for solve in target.layout.solves for line in solve.oddities]
    said += [line for line in odd if not any(line.split(": ", 1)[1] in other for other in said)]
    measured: dict[str, bool] = {}
    for name, units in check.units.items():
        known = (check.kinds[name] != MISSING).reshape(len(units), -1).any(axis=1) if units else ()
        for unit, some in zip(units, known, strict=True):
            measured[unit] = measured.get(unit, False) or bool(some)
    empty = [unit for unit, some in measured.items() if not some]
    if empty:
        said.append(f"no value was measured of {', '.join(empty)}: known from the prior and the others only")
    return tuple(dict.fromkeys(said))
