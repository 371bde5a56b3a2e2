"""Fits of the models, each judged by windows that none has seen, under the forcing of the fit and under others."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

import bayeshybrid as bh
from case_studies.lorenz96_closure import records, scores
from case_studies.lorenz96_closure.model import MODELS, arguments
from case_studies.lorenz96_closure.records import AHEAD, FORCING, OTHER_FORCINGS, WINDOW

FITTED = slice(0, len(WINDOW))  # times ahead at which windows were fitted
DRAWS, SAMPLES = 250, 500  # of the unknowns, and of measurements, in a forecast
PLACES = {"same forcing": (FORCING,), "other forcing": OTHER_FORCINGS}


@dataclass(frozen=True)
class Row:
    """One model fitted to some windows, and how it fared.

    - `forecasts`: of the held-out windows, under the same forcing and under others.
    - `figures`: by place, RMSE, MAE, CRPS and coverage over the times that windows were fitted at, and `residual`, that
      of the slopes; `leads`: the same but for the last at each time ahead.
    - `free`: forcing to the climate of a free run.
    - `seconds`: processor time of the fit, compiling included, and of a forecast of 48 windows, compiled before: what
      else runs on a machine does not count.
    """

    model: str
    windows: int
    posterior: bh.Posterior
    forecasts: dict[str, bh.Forecast]
    figures: dict[str, dict[str, float]]
    leads: dict[str, list[dict[str, float]]]
    free: dict[float, scores.Free]
    seconds: tuple[float, float]

    @property
    def advection(self) -> tuple[float, float] | None:
        """Mean and standard deviation of the one coefficient whose true value, 1, is known; where it is free."""
        if "advection" not in self.posterior.samples:
            return None
        draws = self.posterior["advection"]
        return float(draws.mean()), float(draws.std())

    @property
    def megabytes(self) -> float:
        """What the draws of the unknowns take."""
        return self.posterior.unconstrained.nbytes / 1e6

    def to_dict(self) -> dict[str, Any]:
        """Everything in the row as plain lists and numbers."""
        return {
            "model": self.model,
            "windows": self.windows,
            "method": self.posterior.method,
            "verdict": {"state": self.posterior.verdict.state, **self.posterior.verdict.to_dict()},
            "figures": self.figures,
            "leads": self.leads,
            "free": {f"{forcing:g}": free.to_dict() for forcing, free in self.free.items()},
            "advection": self.advection,
            "seconds": self.seconds,
            "megabytes": self.megabytes,
        }


def row(
    model: str,
    method: Any,
    key: int,
    windows: int | None = None,
    progress: Any = None,
    climate: bool = True,
) -> Row:
    """Fit a model to the first so many windows, all by default, and judge it."""
    data = arguments(model, records.training(windows))
    began = time.process_time()
    posterior = bh.infer(MODELS[model], data, method, key=key, progress=progress)
    fitted, seconds = time.process_time() - began, 0.0
    forecasts, figures, leads = {}, {}, {}
    for place, forcings in PLACES.items():
        held = records.held_out(forcings, AHEAD)
        began = time.process_time()
        forecast = ahead(posterior, model, held, key)
        seconds = time.process_time() - began
        forecasts[place] = forecast
        forcing, x, u = records.subgrid(forcings)
        at = ahead(posterior, model, {"start": x, "forcing": forcing, "times": AHEAD}, key)
        figures[place] = scores.figures(forecast, held["x"], FITTED) | {
            "residual": scores.residual(at, forcing, x, u)
        }
        leads[place] = [scores.figures(forecast, held["x"], slice(i, i + 1)) for i in range(len(AHEAD))]
    free = {}
    for forcing in (FORCING, *OTHER_FORCINGS) if climate else ():
        given = arguments(model, scores.free_inputs(forcing))
        free[forcing] = scores.free(posterior.predict(given, key=key, draws=scores.MEMBERS), forcing)
    return Row(model, len(data["start"]), posterior, forecasts, figures, leads, free, (fitted, seconds))


def ahead(posterior: bh.Posterior, model: str, inputs: Mapping[str, Any], key: int) -> bh.Forecast:
    """The forecast at a record's inputs, with as many samples whether a posterior has many draws or few."""
    given = {name: value for name, value in inputs.items() if name != "x"}
    draws = min(DRAWS, posterior.size)
    return posterior.predict(
        arguments(model, given), key=key + 1, draws=draws, replicates=max(1, SAMPLES // draws)
    )


def closures(row: Row, key: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Values of a slow variable, and what the model's closure takes there, with its central 90 %."""
    at = np.linspace(-8.0, 15.5, len(row.forecasts["same forcing"].inputs["start"]))
    told = ahead(row.posterior, row.model, scores.uniform(at, FORCING, AHEAD), key)
    return at, scores.closure(told, at, FORCING)
