"""The question: one whole dose a day, or the same amount in two halves six hours apart?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np

import bayeshybrid as bh

LIMIT = 5.0  # mg/L, the concentration that is to be exceeded for long
FALL = 1.0  # mg/L, a fall of the peak that would matter
SECOND = 6.0  # h, when the second half is given
# Dense where a dose is absorbed, so that a peak is met to 0.02 mg/L; a day in all.
GRID = np.unique(
    np.round(
        np.concatenate(
            [np.arange(0, 4, 0.1), np.arange(4, 6, 0.5), np.arange(6, 10, 0.1), np.arange(10, 24.1, 0.5)]
        ),
        6,
    )
)


def inputs(amounts: np.ndarray) -> dict[str, Any]:
    """One whole dose for each subject: `amounts` in mg/kg `(subject,)`, and room for a second at six hours."""
    doses = np.stack([amounts, np.zeros_like(amounts)], axis=1)
    times = np.broadcast_to([0.0, SECOND], doses.shape)
    hours = np.broadcast_to(GRID, (len(amounts), len(GRID)))
    return {"hours": hours, "dose": {"times": times, "amounts": doses, "duration": np.zeros_like(doses)}}


def divided(dose: Mapping[str, Any]) -> dict[str, Any]:
    """The same amount in two halves."""
    half = dose["amounts"].sum(axis=1, keepdims=True) / 2
    return {**dose, "amounts": np.broadcast_to(half, dose["amounts"].shape)}


def peak(amounts, volume):
    """The highest concentration of each subject, mg/L."""
    return jnp.max(amounts[..., 1] / volume[:, None], axis=-1)


def hours_above(amounts, volume):
    """How long each subject's concentration exceeds the limit, straight lines between the times of the grid."""
    over = amounts[..., 1] / volume[:, None] - LIMIT
    left, right = over[:, :-1], over[:, 1:]
    rise = jnp.abs(right - left)
    share = jnp.maximum(left, right) / jnp.where(rise > 0, rise, 1.0)
    share = jnp.where(rise > 0, jnp.clip(share, 0.0, 1.0), left > 0)
    return share @ jnp.diff(GRID)


@dataclass(frozen=True)
class Answer:
    """One figure of one subject: with a whole dose, divided, and the difference of the two, draw by draw.

    - `whole`, `divided`, `difference`: mean and the ends of the central 90 %; `error`: Monte Carlo standard error
      of the mean difference.
    - `event`: in words; `probability` and its Monte Carlo standard error.
    """

    subject: str
    figure: str
    unit: str
    whole: tuple[float, float, float]
    divided: tuple[float, float, float]
    difference: tuple[float, float, float]
    error: float
    event: str
    probability: float
    probability_error: float


EVENTS = {
    "peak": (peak, "mg/L", f"falls by more than {FALL:g} mg/L", lambda d: d < -FALL),
    f"time above {LIMIT:g} mg/L": (hours_above, "h", "grows", lambda d: d > 0),
}


def ask(posterior: bh.Posterior, inputs: Mapping[str, Any], *, key: Any, **settings: Any) -> Any:
    """Both forecasts under one key, and their contrast."""
    whole = posterior.predict(inputs, key=key, **settings)
    return posterior.predict(inputs, key=key, change={"dose": divided}, **settings) - whole


def answers(contrast: Any, subjects: Mapping[str, int]) -> list[Answer]:
    """Every figure of the subjects named, each by its place along the subjects of the forecast."""
    found = []
    for figure, (function, unit, event, happens) in EVENTS.items():
        quantities = {
            "whole": contrast.baseline.of(function),
            "divided": contrast.changed.of(function),
            "difference": contrast.of(function),
        }
        for subject, place in subjects.items():
            draws = {name: quantity.draws[:, place] for name, quantity in quantities.items()}
            rows = draws["difference"].reshape(-1, contrast.changed.replicates)
            share = happens(rows).mean(axis=1)
            found.append(
                Answer(
                    subject,
                    figure,
                    unit,
                    **{name: _told(values) for name, values in draws.items()},
                    error=_error(rows.mean(axis=1)),
                    event=event,
                    probability=float(share.mean()),
                    probability_error=max(_error(share), 0.5 / len(share)),  # what never happened may yet
                )
            )
    return found


def _told(draws):
    low, high = np.quantile(draws, [0.05, 0.95])
    return float(draws.mean()), float(low), float(high)


def _error(values):
    """Of a mean. The draws are some of the chain's, hardly correlated; what is drawn anew for one belongs together."""
    return float(values.std(ddof=1) / np.sqrt(len(values)))
