"""Before any fit: what the model says without the data, and whether the data fit into that.

A prior that is harmless parameter by parameter can mean trajectories that nobody would believe, or that no solver
can follow. Both cost nothing to find out before a fit and much after it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import numpy as np

from bayeshybrid import configuration
from bayeshybrid.faults import ModelError
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
TELLING = 0.75

__all__ = ["Finding", "Implausible", "Preflight", "assess"]


@dataclass(frozen=True)
class Finding:
    """One line of a preflight.

    - `about`: what was looked at. `state`: how it came out, in the words of a verdict.
    - `share`, `limits`: the share measured, and those above which it is a remark and a failure.
    - `words`, `remedy`: what was found, and what to do about it.

    ```python
    from bayeshybrid.preflight import Finding
    assert "narrow" in str(Finding("solving", "fail", 0.9, (0.05, 0.5), "90 % fail", "narrow the prior"))
    ```
    """

    about: str
    state: State
    share: float
    limits: tuple[float, ...]
    words: str
    remedy: str = ""

    def __str__(self) -> str:
        limits = ", ".join(f"{100 * limit:.0f} %" for limit in self.limits)
        held = f" (limits {limits})" if self.limits else ""
        mend = f". {self.remedy}" if self.remedy and self.state != "pass" else ""
        return f"{self.state:<17} {self.about}: {self.words}{held}{mend}"


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
      `{"path": {"hare": (0, 500)}}`. A draw with any entry outside counts as implausible. Of an observed site
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
        scouts = scout(target, scout_key, SCOUTED)
        points, proper = draw_prior(target, prior_key, draws)
        told = ask(target, points, ["values", "reasons", "finite", "initial"])
        values = {site.name: told["values"][site.name] for site in target.layout.latent}
        prior = forecast_draws(target, values, target.inputs(), forecast_key)
        check = check_fit(target, points[:1], prior)
    failures = {reason: n / draws for reason, n in reasons_in_words(told["reasons"]).items()}
    if not ranges:
        ranges = {site: one for site in check.errors if (one := default_range(check, site)) is not None}
    implausible = {name: _implausible(prior, check, name, one) for name, one in ranges.items()}
    inside, outside = _against_data(check, told["initial"])
    findings = [
        *_improper(proper),
        *_solving(target, told, failures, limits["failed"]),
        *_densities(told, limits["failed"]),
        *(_plausibility(prior, name, one, limits["implausible"]) for name, one in implausible.items()),
        *(_expected(name, inside[name], outside[name], limits["outside"]) for name in inside),
    ]
    return Preflight(
        findings=tuple(findings),
        failed_share=sum(failures.values()),
        failures=failures,
        failed_units=_failed_units(target, told["reasons"]),
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


def _state(share: float, limits: tuple[float, float]) -> State:
    return "pass" if share <= limits[0] else "pass with remarks" if share <= limits[1] else "fail"


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %" if share == 0 or share >= 0.01 else f"{100 * share:.1g} %"


# Solving


def _improper(proper):
    if proper:
        return []
    words = "a prior is improper, so that it was drawn from -2 to 2 on the unconstrained scale"
    return [Finding("prior", "not assessable", float("nan"), (), words, "Give it a proper prior")]


def _solving(target, told, failures, limits):
    if not target.layout.solves:
        return []
    share = sum(failures.values())
    if not share:
        return [Finding("solving", "pass", 0.0, limits, "every draw can be solved")]
    reasons = "; ".join(f"{_percent(one)} {reason}" for reason, one in failures.items())
    failed = np.any([r.reshape(len(r), -1).any(axis=1) for r in told["reasons"].values()], axis=0)
    telling = _telling(target, told["values"], failed)
    words = (
        f"{_percent(share)} of the draws cannot be solved ({reasons}){_units_words(target, told['reasons'])}"
    )
    names = ", ".join(one.name for one in telling)
    blame = "".join(f"; draws that fail have {one}" for one in telling)
    remedy = (
        f"Narrow the prior of {names or 'what the field depends on'}, or raise max_steps or the tolerances"
    )
    return [Finding("solving", _state(share, limits), share, limits, words + blame, remedy)]


class _Telling(NamedTuple):
    """An unknown that tells failed draws from solved ones."""

    name: str
    side: str
    failed: float
    solved: float

    def __str__(self) -> str:
        return f"{self.side} {self.name} (median {self.failed:.3g}, of those solved {self.solved:.3g})"


def _telling(target, values, failed):
    """Scalar unknowns by which a failed draw is told from a solved one in three of four pairs; two at most."""
    found = []
    if failed.all() or not failed.any():
        return found
    for site in target.layout.latent:
        if site.tag.kind == "weight" or np.ndim(values[site.name]) != 1:
            continue
        drawn = values[site.name]
        ranks = np.argsort(np.argsort(drawn))
        n, m = failed.sum(), (~failed).sum()
        above = (ranks[failed].sum() - n * (n - 1) / 2) / (n * m)
        if max(above, 1 - above) > TELLING:
            side = "high" if above > 0.5 else "low"
            medians = float(np.median(drawn[failed])), float(np.median(drawn[~failed]))
            found.append((max(above, 1 - above), _Telling(site.name, side, *medians)))
    return [one for _, one in sorted(found, key=lambda pair: -pair[0])[:2]]


def _failed_units(target, reasons):
    """Share of failed draws by solve and unit."""
    found = {}
    for solve in target.layout.solves:
        codes = reasons[solve.name]
        if codes.ndim == 2:
            across = solve.across or "unit"
            labels = target.labels.get(across) or tuple(map(str, range(codes.shape[1])))
            shares = np.mean(codes > 0, axis=0)
            found[solve.name] = {f"{across} {n}": float(x) for n, x in zip(labels, shares, strict=True)}
    return found


def _units_words(target, reasons):
    """The units that fail more than twice as often as the typical one."""
    words = []
    for solve, shares in _failed_units(target, reasons).items():
        typical = float(np.median(list(shares.values())))
        odd = {unit: share for unit, share in shares.items() if share > max(2 * typical, 0.01)}
        if odd:
            worst_units = sorted(odd, key=lambda unit: -odd[unit])[:SHOWN]
            told = ", ".join(f"{unit} {_percent(odd[unit])}" for unit in worst_units)
            words.append(f"; in {solve} above all {told}")
    return "".join(words)


def _densities(told, limits):
    """Draws that are solved and yet give a site no finite log probability."""
    solved = np.all([r.reshape(len(r), -1).max(axis=1) == 0 for r in told["reasons"].values()], axis=0)
    lines = []
    for name, finite in told["finite"].items():
        share = float(np.mean(~finite & solved))
        if share and not name.startswith("_"):
            words = f"{_percent(share)} of the draws give it no finite log probability"
            remedy = "Look for noise or shares that can be negative, and for values far out in a tail"
            lines.append(Finding(name, _state(share, limits), share, limits, words, remedy))
    return lines


# Plausible ranges


def _implausible(prior, check, name, wanted: Range):
    draws = _compared(prior, name)
    if not wanted.stated:
        draws = draws[:, check.kinds[name] != MISSING]
    low, high = draws < wanted.low, draws > wanted.high
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
        pairs = zip(said.labels, found.low, found.high, strict=True)
        limited = [f"{label} {a:.3g} to {b:.3g}" for label, a, b in pairs if np.isfinite(a) or np.isfinite(b)]
        between = f"{', '.join(limited)}{unit}"
    else:
        between = f"{found.low:.3g} to {found.high:.3g}{unit}"
    source = "" if found.stated else ", a range made from the data"
    words = f"{_percent(found.share)} of the draws leave {between}{source}"
    sides = [f"{_percent(x)} {side}" for x, side in ((found.below, "below"), (found.above, "above")) if x]
    words += f" ({', '.join(sides)})" if sides else ""
    remedy = (
        "Narrow the priors on which it rests" if found.stated else "State plausible=, or narrow the priors"
    )
    return Finding(name, _state(found.share, limits), found.share, limits, words, remedy)


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
    if not compared:
        return Finding(
            name, "not assessable", float("nan"), (), "nothing was measured", "It is forecast only"
        )
    share = 1 - count / compared
    words = f"{count} of {compared} measured values inside the central {100 * MASS:.0f} % of what the priors expect"
    if outside:
        words += f"; not expected: {'; '.join(outside[:SHOWN])}"
        words += f" and {len(outside) - SHOWN} more" if len(outside) > SHOWN else ""
    remedy = (
        "The priors do not expect these data: look at units and at the model, else move or widen the priors"
    )
    return Finding(f"data of {name}", _state(share, limits), share, limits, words, remedy)


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
