"""What if the sick had been isolated: two forecasts of one posterior, paired draw by draw."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np

import bayeshybrid as bh
from bayeshybrid.diagnostics import mean_error
from case_studies.influenza.model import ISOLATION_DAY, isolation

LAST_DAY = 42.0  # by then the outbreak is over, isolated or not
DAYS = np.arange(0.0, LAST_DAY + 0.01, 0.25)
FEW_BEDS = 100
MASS = 0.9

RECORDED_ILL = (
    512  # boys away from class for three to seven days, by the same report; no model was given this
)

# Beds were counted, infections were not. The names of a function's parameters choose what it is given.
QUESTIONS: dict[str, Callable[..., Any]] = {
    "most in bed at once": lambda beds: beds.max(),
    "day of the peak": lambda beds: jnp.asarray(DAYS)[beds.argmax()],
    "ever infected": lambda path: (
        path[0].sum() - path[-1, 0]
    ),  # all at the start less those still susceptible
    f"never {FEW_BEDS} in bed": lambda beds: beds.max() < FEW_BEDS,
}


@dataclass(frozen=True)
class Figure:
    """One number of a forecast: its mean over draws with Monte Carlo error, and the central 90 %.

    An event is a number too, one where it happens: then `low` and `high` are `None`.
    """

    mean: float
    error: float
    low: float | None = None
    high: float | None = None

    def __str__(self) -> str:
        if self.low is None:
            return f"{self.mean:.3f} ({self.error:.3f})"
        return f"{self.mean:.4g} ({self.error:.2g}), {self.low:.4g} to {self.high:.4g}"


@dataclass(frozen=True)
class Answer:
    """One question, answered without the change, with it, and for the difference in each draw."""

    question: str
    without: Figure
    isolated: Figure
    difference: Figure | None = None


def ahead(
    posterior: bh.Posterior,
    share: float,
    *,
    key: int,
    day: float = ISOLATION_DAY,
) -> tuple[bh.Forecast, bh.Forecast]:
    """The outbreak as it went and as it would have gone with transmission reduced by `share` from `day` on."""
    inputs = {"day": DAYS, "isolation": isolation(0.0, day)}
    baseline = posterior.predict(inputs, key=key)
    isolated = posterior.predict(inputs, key=key, change={"isolation": isolation(share, day)})
    return isolated, baseline


def answers(isolated: bh.Forecast, baseline: bh.Forecast) -> list[Answer]:
    """Every question for both forecasts, and the paired difference where the answer is a number."""
    effect = isolated - baseline
    found = []
    for words, function in QUESTIONS.items():
        if words.startswith("never"):
            found.append(Answer(words, _event(baseline, function), _event(isolated, function)))
            continue
        without, changed = (
            _figure(forecast, forecast.of(function).draws) for forecast in (baseline, isolated)
        )
        found.append(Answer(words, without, changed, _figure(isolated, effect.of(function).draws)))
    return found


def put_to_bed(baseline: bh.Forecast) -> Figure:
    """How many boys were ever in bed by a model: days in bed of all together, over the days that each is ill."""
    step = DAYS[1] - DAYS[0]
    return _figure(baseline, baseline.of(lambda beds, days_ill: beds.sum() * step / days_ill).draws)


def days_in_bed(baseline: bh.Forecast) -> Figure:
    """How many days each of them was, by a model."""
    return _figure(baseline, baseline.of(lambda days_ill: days_ill).draws)


def _event(forecast, function):
    found = forecast.probability(function)
    return Figure(float(found.value), float(found.error))


def _figure(forecast, draws):
    low, high = np.quantile(draws, [(1 - MASS) / 2, (1 + MASS) / 2])
    return Figure(float(draws.mean()), _error(forecast, draws), float(low), float(high))


def _error(forecast, draws):
    """Monte Carlo error of a mean over draws that stand in chains; zero where all draws agree."""
    if np.ptp(draws) == 0 or forecast.origin is None:
        return 0.0
    chain = forecast.origin.chain[: len(draws)]
    chains = [draws[chain == c] for c in np.unique(chain)]
    length = min(map(len, chains))
    return mean_error(np.stack([one[:length] for one in chains]))
