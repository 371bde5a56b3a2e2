"""Figures of forecasts and free runs: errors with lead time, slopes against the truth, distance between climates."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

import bayeshybrid as bh
from case_studies.lorenz96_closure import records

STARTS, MEMBERS = 16, 8
SPIN_UP, LONG, EVERY = 5.0, 30.0, 0.1  # of a free run, in time units
FREE = np.arange(SPIN_UP, LONG, EVERY)


def figures(forecast: bh.Forecast, x: np.ndarray, times: slice = slice(None)) -> dict[str, float]:
    """Errors of the mean, CRPS and coverage over all windows and slow variables at some of the times ahead.

    `x` is what was measured there, `(window, time, slow)`.
    """
    draws, x = forecast.observed["x"].draws[:, :, times], x[:, times]
    error = draws.mean(axis=0) - x
    low, high = np.quantile(draws, [0.05, 0.95], axis=0)
    return {
        "RMSE": float(np.sqrt(np.mean(error**2))),
        "MAE": float(np.mean(np.abs(error))),
        "CRPS": float(crps(draws, x).mean()),
        "coverage 90 %": float(np.mean((low <= x) & (x <= high))),
    }


def crps(draws: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Continuous ranked probability score of `x` under draws along the first axis (Gneiting and Raftery 2007).

    The mean distance between two draws is taken over different ones, so that few draws are no disadvantage.
    """
    count = len(draws)
    weights = (2 * np.arange(1, count + 1) - count - 1).reshape(-1, *(1,) * x.ndim)
    between = 2 * np.sum(weights * np.sort(draws, axis=0), axis=0) / (count * (count - 1))
    return np.abs(draws - x).mean(axis=0) - 0.5 * between


def residual(forecast: bh.Forecast, forcing: np.ndarray, x: np.ndarray, u: np.ndarray) -> float:
    """Physical residual: root mean square of the model's slope at true states less the slope of the truth there.

    `u` are the true subgrid terms. Where the fast variables happen to be no function of the slow ones can know.
    """
    neighbourhood = np.roll(x, 1, -1) * (np.roll(x, -1, -1) - np.roll(x, 2, -1))
    truth = neighbourhood - x + forcing[:, None] - u
    return float(np.sqrt(np.mean((forecast.latent["tendency"].mean - truth) ** 2)))


@dataclass(frozen=True)
class Free:
    """A long free run beside the truth's.

    - `mean`, `sd`: of the slow variables.
    - `distance`: Kolmogorov and Smirnov's, the largest gap between the distribution functions.
    - `memory`: root mean square gap between the autocorrelations up to two time units.
    - `lost`: share of the members that could not be solved or left what the truth ever visits by tenfold.
    """

    mean: float
    sd: float
    distance: float
    memory: float
    lost: float

    def to_dict(self) -> dict[str, float]:
        """The figures by name."""
        return asdict(self)


def free_inputs(forcing: float) -> dict[str, Any]:
    """What a model is given for a free run: starts of held-out windows, and times long after."""
    held = records.held_out((forcing,))
    return {"start": held["start"][:STARTS], "forcing": held["forcing"][:STARTS], "times": FREE}


def free(forecast: bh.Forecast, forcing: float) -> Free:
    """How the climate of a free run, without any noise, differs from that of the truth under this forcing."""
    truth = records.climate(forcing)
    paths = forecast.latent["path"].draws  # (member, start, time, slow)
    kept = np.abs(paths).max(axis=(2, 3)) < 10 * np.abs(truth.quantiles).max()
    x = np.moveaxis(paths[kept], 1, 0)
    below = np.searchsorted(np.sort(x, axis=None), truth.quantiles) / x.size
    correlation = records.autocorrelation(x, np.rint(truth.lags / EVERY).astype(int))
    return Free(
        float(x.mean()),
        float(x.std()),
        float(np.abs(below - truth.levels).max()),
        float(np.sqrt(np.mean((correlation - truth.autocorrelation) ** 2))),
        1.0 - kept.mean() * len(paths) / forecast.asked,
    )


def closure(
    forecast: bh.Forecast, at: np.ndarray, forcing: float, mass: float = 0.9
) -> dict[str, np.ndarray]:
    """The closure that a model has come to, with its band: from its slope where all slow variables are the same.

    There nothing is advected, so that the slope is the forcing less the variable and its closure.
    """
    told = forcing - at - forecast.latent["tendency"].draws[:, :, 0]
    low, middle, high = np.quantile(told, [0.5 * (1 - mass), 0.5, 0.5 * (1 + mass)], axis=0)
    return {"low": low, "median": middle, "high": high}


def uniform(at: np.ndarray, forcing: float, times: np.ndarray) -> dict[str, Any]:
    """States at which all slow variables are the same, one for each value of `at`."""
    start = np.repeat(np.asarray(at)[:, None], records.SLOW, axis=1)
    return {"start": start, "forcing": np.full(len(at), forcing), "times": times}
