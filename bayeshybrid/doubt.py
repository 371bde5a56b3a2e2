"""What a budget of variance holds, and what it says in words."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

NOISE, PROCESS, UNITS, REST = "noise", "process", "differences between units", "not attributed"
ANEW = (PROCESS, UNITS, "process and differences between units")
COMPENSATION = 3.0

Scale = Literal["identity", "log"]

__all__ = ["Budget", "Scale"]


@dataclass(frozen=True)
class Budget:
    """Where the variance of a new measurement of one observed site comes from.

    Arrays have the site's shape. Variances are in the square of `unit`.

    - `rows`: variance by source, adding up to `total` exactly, in this order: `noise`; `process`, `differences
      between units` or both together, where something is drawn anew; one row a group of unknowns, its Shapley
      effect; `not attributed`. A group whose name is that of a row is called `noise (parameters)` and the like.
    - `errors`: standard errors of the rows of groups and of `not attributed`, by jackknife over blocks of draws.
    - `epistemic`: the sum of these rows: what more data could shrink.
    - `groups`: names of the rows of groups; `networks`: those of them that are networks.
    - `drop`: by group, the expected drop in variance if that group alone were known.
    - `compensation`: sum of the variances that the groups would cause one by one, over the variance that they
      cause together, in the linear fit: 1 where they act independently, above 3 where they trade off; NaN
      where the fit finds less than a tenth of the epistemic part. `compensating`: the groups that trade off.
    - `solver`: root mean square change of the conditional mean under a 100 times tighter tolerance, as a share
      of the total sd. A bias, beside the sum; 0 for a model without a solve.
    - `scale`: `"identity"`, or `"log"` where the logarithm of the measurement was split.
    - `remarks`: what a reader must know of the fit and of the draws.

    ```python
    from bayeshybrid.uncertainty import Budget
    one, three = np.array(1.0), np.array(3.0)
    rows = {"noise": one, "rates": three, "not attributed": 0 * one}
    told = Budget("y", "K", (), "identity", rows, {}, one + three, three, ("rates",), (), {}, one, (), 0 * one)
    assert told.shares()["rates"] == 0.75 and "what we do not know of rates: 75 %" in told.words[0]
    ```
    """

    site: str
    unit: str | None
    labels: tuple[str, ...]
    scale: Scale
    rows: dict[str, np.ndarray]
    errors: dict[str, np.ndarray]
    total: np.ndarray
    epistemic: np.ndarray
    groups: tuple[str, ...]
    networks: tuple[str, ...]
    drop: dict[str, np.ndarray]
    compensation: np.ndarray
    compensating: tuple[str, ...]
    solver: np.ndarray
    remarks: tuple[str, ...] = ()

    def shares(self) -> dict[str, float]:
        """Each row as a share of the total variance, averaged over the entries of the site.

        **Returns:** row name to its share; they add up to 1. NaN where nothing varies.
        """
        return {name: _mean_share(row, self.total) for name, row in self.rows.items()}

    @property
    def words(self) -> tuple[str, ...]:
        """Sentences for a reader who knows no statistics."""
        said = [*_sources(self), *_unattributed(self), *_trade(self), *_solving(self)]
        return (*said, *self.remarks)

    def __str__(self) -> str:
        unit = f" ({self.unit})" if self.unit else ""
        over = f", averages over {self.total.size} entries" if self.total.size > 1 else ""
        lines = [f"Where the variance of {_named(self)} comes from{over}"]
        width = max(len(name) for name in (*self.rows, "total"))
        lines.append(f"  {'':<{width}}  {'sd' + unit:>12}  {'share of variance':>18}")
        for name, row in {**self.rows, "total": self.total}.items():
            sd = np.sqrt(max(0.0, float(np.mean(row))))
            share = _percent(_mean_share(row, self.total))
            error = _mean_share(self.errors[name], self.total) if name in self.errors else np.nan
            doubt = f" +- {100 * error:.0f}" if np.isfinite(error) else ""
            lines.append(f"  {name:<{width}}  {sd:>12.4g}  {share:>18}{doubt}")
        return "\n".join([*lines, *(f"  {sentence}" for sentence in self.words)])


def _mean_share(row, total):
    with np.errstate(invalid="ignore", divide="ignore"):
        shares = np.ravel(row / total)
    shares = shares[np.isfinite(shares)]
    return float(shares.mean()) if len(shares) else float("nan")


def _percent(share):
    if not np.isfinite(share):
        return "-"
    if 0 < share < 0.005:
        return "below 1 %"
    return f"{100 * share + 0.0:.0f} %".replace("-0 %", "0 %")


def _named(told):
    return f"the logarithm of {told.site}" if told.scale == "log" else told.site


def _called(told, row):
    if row in told.networks:
        return f"the network {row}"
    return row


def _sources(told):
    """The main source, what comes after it, and what more data could shrink."""
    shares = told.shares()
    if not np.isfinite(shares[NOISE]):
        return ["Nothing varies in this forecast, so there is no doubt to divide."]
    order = sorted(shares, key=lambda row: -shares[row])
    first, share = order[0], _percent(shares[order[0]])
    of = f"of the variance of {_named(told)}" + (
        f", averaged over its {told.total.size} values" if told.total.size > 1 else ""
    )
    if first == NOISE:
        main = f"measurement noise: {share} {of}. It would remain if everything in this model were known, and what the "
        main += "model cannot express counts as noise too"
    elif first in told.rows and first in ANEW:
        main = f"{first}, drawn anew: {share} {of}. It would remain if everything in this model were known"
    elif first == REST:
        main = f"unknowns that act in ways which the fit cannot tell apart: {share} {of}"
    else:
        main = f"what we do not know of {_called(told, first)}: {share} {of}"
    said = [f"The main source of doubt about a new measurement of {told.site} is {main}."]
    others = [f"{_called(told, row)} {_percent(shares[row])}" for row in order[1:] if shares[row] >= 0.005]
    if others:
        said.append(f"After it come {', '.join(others)}.")
    epistemic = _mean_share(told.epistemic, told.total)
    said.append(f"More data could shrink what we do not know, {_percent(epistemic)} of the variance in all.")
    drops = {g: _mean_share(x, told.total) for g, x in told.drop.items()}
    if drops and max(drops.values()) >= 0.005:
        best = max(drops, key=drops.__getitem__)
        said.append(
            f"Knowing {_called(told, best)} exactly would be expected to take off {_percent(drops[best])}."
        )
    return said


def _unattributed(told):
    share = _mean_share(told.rows[REST], told.epistemic)
    if np.isfinite(share) and share > 0.1:
        return [f"{_percent(share)} of what we do not know could not be attributed to any group of unknowns."]
    return []


def _trade(told):
    if not told.compensating:
        return []
    names = [_called(told, row) for row in told.compensating]
    listed = f"{', '.join(names[:-1])} and {names[-1]}"
    ratio = np.ravel(told.compensation)
    many = f" at {np.sum(ratio > COMPENSATION)} of {ratio.size} values" if ratio.size > 1 else ""
    return [
        f"{listed[0].upper()}{listed[1:]} trade off: what one takes the other gives back{many}. One by one they would "
        f"cause up to {np.nanmax(ratio):.3g} times the variance that they cause together, so that the data know their "
        "sum better than either."
    ]


def _solving(told):
    most = float(np.max(told.solver, initial=0.0))
    if np.isnan(most):
        return ["Under a 100 times tighter tolerance no solve succeeded: the solver's error is not known."]
    if most == 0.0:
        return []
    grave = " Write a smaller rtol in solve_ode." if most > 0.1 else ""
    return [
        f"The solver's own error, no part of this sum, moves the expected value by at most {100 * most:.2g} % of the "
        f"standard deviation.{grave}"
    ]
