"""Does this model describe what was measured: the data beside replicated data, with residuals."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from bayeshybrid.forecast import Forecast, Quantity
from bayeshybrid.survey import ask
from bayeshybrid.target import Target

STATISTICS = {
    "mean": lambda x: np.mean(x, axis=-1),
    "sd": lambda x: np.std(x, axis=-1),
    "smallest": lambda x: np.min(x, axis=-1),
    "largest": lambda x: np.max(x, axis=-1),
}

__all__ = ["FitCheck", "check_fit"]


@dataclass(frozen=True)
class FitCheck:
    """The data beside what the fitted model would have produced in their place.

    - `observed`: the data by observed site, NaN where not measured exactly.
    - `replicated`: replicated data.
    - `residuals`: (data - mean) / sd of the replicated data, cell by cell.
    - `inside`: site to `(count, cells)` inside the central 90 % of the replicated data.
    - `probabilities`: site to statistic to the share of replicated data sets whose statistic is larger than
      the data's (Gelman, Meng and Stern 1996): near 0 or 1 the model does not reproduce it.

    The data were used in the fit, so all of this is in sample: it can show misfit, not predictive skill.
    """

    observed: dict[str, np.ndarray]
    replicated: dict[str, Quantity]
    residuals: dict[str, np.ndarray]
    inside: dict[str, tuple[int, int]]
    probabilities: dict[str, dict[str, float]]

    def __str__(self) -> str:
        lines = []
        for name, (count, cells) in self.inside.items():
            odd = [s for s, p in self.probabilities[name].items() if not 0.025 <= p <= 0.975]
            told = f"; not reproduced: {', '.join(odd)}" if odd else ""
            lines.append(
                f"{name}: {count} of {cells} values inside the central 90 % of replicated data (in sample){told}"
            )
        return "\n".join(lines)


def check_fit(target: Target, draws: np.ndarray, forecast: Forecast) -> FitCheck:
    """Compare the data of a target with a forecast at the inputs of the fit; see `Posterior.check`."""
    explained = {
        k: {n: v[0] for n, v in told.items()} for k, told in ask(target, draws[:1], ["kinds", "data"]).items()
    }
    observed, residuals, inside, probabilities = {}, {}, {}, {}
    for name, replicated in forecast.observed.items():
        values = explained["data"][name]
        exact = np.broadcast_to(_spread(explained["kinds"][name], values) == 0, values.shape)
        data = np.where(exact, values, np.nan)
        low, high = replicated.interval(0.9)
        with np.errstate(invalid="ignore", divide="ignore"):
            residuals[name] = (data - replicated.mean) / replicated.sd
        within = (data >= low) & (data <= high)
        observed[name] = data
        inside[name] = (int(within[exact].sum()), int(exact.sum()))
        repeated = replicated.draws.reshape(len(replicated.draws), -1)[:, exact.ravel()]
        probabilities[name] = (
            {
                statistic: float(np.mean(function(repeated) > function(data[exact])))
                for statistic, function in STATISTICS.items()
            }
            if exact.any()
            else {}
        )
    return FitCheck(observed, dict(forecast.observed), residuals, inside, probabilities)


def _spread(kinds: Any, values: np.ndarray) -> np.ndarray:
    kinds = np.asarray(kinds)
    return kinds.reshape(kinds.shape + (1,) * (values.ndim - kinds.ndim))
