"""The records of this case: windows that were measured, subgrid terms at some states, and statistics of the climate."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

FOLDER = Path(__file__).parent
SLOW = 8
NAMES = tuple(f"X{k}" for k in range(1, SLOW + 1))
FORCING, OTHER_FORCINGS = 20.0, (16.0, 24.0)
NOISE = 0.1  # sd of every reading

WINDOW = np.array([0.1, 0.2])  # times since the start of a window, in time units of the equation
AHEAD = np.array([0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 1.5, 2.0])

WINDOWED = ("forcing", "window", "time", *NAMES)
PAIRED = ("forcing", "window", *NAMES, *(f"U{k}" for k in range(1, SLOW + 1)))
TOLD = ("forcing", "statistic", "at", "value")


@dataclass(frozen=True)
class Climate:
    """What a long run of the truth shows under one forcing.

    - `mean`, `sd`: of all slow variables together; `levels`, `quantiles`: of their distribution.
    - `lags`, `autocorrelation`: of one slow variable with itself so much later.
    - `at`, `subgrid_mean`, `subgrid_sd`: the subgrid term where a slow variable lies within half a unit of `at`.
    """

    mean: float
    sd: float
    levels: np.ndarray
    quantiles: np.ndarray
    lags: np.ndarray
    autocorrelation: np.ndarray
    at: np.ndarray
    subgrid_mean: np.ndarray
    subgrid_sd: np.ndarray


def training(windows: int | None = None) -> dict[str, np.ndarray]:
    """Arguments of the models: the first so many windows that are there to be fitted."""
    return _windows("training", (FORCING,), WINDOW, windows)


def held_out(forcings: tuple[float, ...] = (FORCING,), times: np.ndarray = WINDOW) -> dict[str, np.ndarray]:
    """The same of windows that no model is fitted to, under these forcings, at these times after their starts."""
    return _windows("held_out", forcings, times)


def subgrid(forcings: tuple[float, ...] = (FORCING,)) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Forcing `(state,)`, slow variables and true subgrid terms `(state, slow)` where the held-out windows start."""
    table = _table("subgrid")
    table = table[np.isin(table[:, 0], forcings)]
    return table[:, 0], table[:, 2 : 2 + SLOW], table[:, 2 + SLOW :]


def climate(forcing: float = FORCING) -> Climate:
    """Statistics of the truth's long run under this forcing."""
    found: dict[str, list[tuple[float, float]]] = {}
    with open(FOLDER / "climate.csv", newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            if float(row["forcing"]) == forcing:
                found.setdefault(row["statistic"], []).append((float(row["at"]), float(row["value"])))
    told: dict[str, Any] = {name: np.array(pairs).T for name, pairs in found.items()}
    levels, quantiles = told["quantile"]
    lags, correlation = told["autocorrelation"]
    at, subgrid_mean = told["subgrid mean"]
    return Climate(
        mean=float(told["mean"][1, 0]),
        sd=float(told["sd"][1, 0]),
        levels=levels,
        quantiles=quantiles,
        lags=lags,
        autocorrelation=correlation,
        at=at,
        subgrid_mean=subgrid_mean,
        subgrid_sd=told["subgrid sd"][1],
    )


def autocorrelation(x: np.ndarray, lags: np.ndarray) -> np.ndarray:
    """Of a run `(time, ...)` with itself so many rows later, over all else together."""
    apart = x - x.mean()
    return np.array([np.mean(apart[lag:] * apart[: len(x) - lag]) for lag in lags]) / np.mean(apart**2)


def _windows(name, forcings, times, count=None):
    table = _table(name)
    parts = [_of_one_forcing(table[table[:, 0] == forcing], times, count) for forcing in forcings]
    start, forcing, x = (np.concatenate(z) for z in zip(*parts, strict=True))
    return {"start": start, "forcing": forcing, "times": np.asarray(times), "x": x}


def _of_one_forcing(table, times, count):
    size = len(np.unique(table[:, 1]))
    shaped = table.reshape(size, -1, table.shape[1])[:count]
    places = [int(np.flatnonzero(np.isclose(shaped[0, :, 2], at))[0]) for at in times]
    return shaped[:, 0, 3:], shaped[:, 0, 0], shaped[:, places, 3:]


def _table(name):
    return np.genfromtxt(FOLDER / f"{name}.csv", delimiter=",", skip_header=1)
