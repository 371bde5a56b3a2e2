"""What if the sick had been isolated: two forecasts of one posterior, paired draw by draw."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np

import bayeshybrid as bh
from bayeshybrid.diagnostics import mean_error
from case_studies.influenza.model import BOYS, ISOLATION_DAY, SEIR, SIR, isolation

LAST_DAY = 60.0  # by then the outbreak is over in nearly every draw, isolated or not
DAYS = np.arange(0.0, LAST_DAY + 0.01, 0.25)
FEW_BEDS = 100
MASS = 0.9


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
    days: np.ndarray = DAYS,
) -> tuple[bh.Forecast, bh.Forecast]:
    """The outbreak as it went and as it would have gone with transmission reduced by `share` from `day` on."""
    inputs = {"day": days, "isolation": isolation(0.0, day)}
    baseline = posterior.predict(inputs, key=key)
    isolated = posterior.predict(inputs, key=key, change={"isolation": isolation(share, day)})
    return isolated, baseline


def questions(model: str) -> dict[str, Callable[..., Any]]:
    """What is asked of each trajectory, by its words; the parameters' names choose what a function is given.

    The first two count boys in bed, which were recorded; the third counts infections, which were not.
    """
    ill = (SIR if model == "sir" else SEIR).index("ill")
    if model == "open":
        return {
            "most in bed at once": lambda path, put_to_bed: (put_to_bed * path[:, ill]).max(),
            "day of the peak": lambda path: jnp.asarray(DAYS)[path[:, ill].argmax()],
            "ever infected": lambda path, reached: BOYS * reached - path[-1, 0],
            f"never {FEW_BEDS} in bed": lambda path, put_to_bed: (put_to_bed * path[:, ill]).max() < FEW_BEDS,
        }
    return {
        "most in bed at once": lambda path: path[:, ill].max(),
        "day of the peak": lambda path: jnp.asarray(DAYS)[path[:, ill].argmax()],
        "ever infected": lambda path: BOYS - path[-1, 0],
        f"never {FEW_BEDS} in bed": lambda path: path[:, ill].max() < FEW_BEDS,
    }


def answers(model: str, isolated: bh.Forecast, baseline: bh.Forecast) -> list[Answer]:
    """Every question of the model for both forecasts, and the paired difference where it is a number."""
    effect = isolated - baseline
    found = []
    for words, function in questions(model).items():
        if words.startswith("never"):
            events = (_event(forecast, function) for forecast in (baseline, isolated))
            found.append(Answer(words, *events))
            continue
        numbers = (_figure(forecast, forecast.of(function).draws) for forecast in (baseline, isolated))
        found.append(Answer(words, *numbers, _figure(isolated, effect.of(function).draws)))
    return found


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
