"""Equation, hybrid and network on a quarter, half and all of the years, judged by the six years after each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import bayeshybrid as bh
from case_studies.predator_prey.comparison import Method
from case_studies.predator_prey.model import MODELS, lotka_volterra, read_pelts

SHARES = {"a quarter": 1903, "half": 1907, "all": 1914}
AHEAD = {"1 to 3 years ahead": (1, 2, 3), "4 to 6 years ahead": (4, 5, 6)}

# The posterior mean given all 21 years (posteriordb, hudson_lynx_hare-lotka_volterra; see expected.json).
PUBLISHED = {"birth": 0.5469, "eaten": 0.02775, "death": 0.8001, "growth": 0.02409}
LEGEND = (
    "RMSE, MAE and CRPS in thousand pelts, of the 6 values of three years. Residual: how far the growth of the median",
    "forecast is from that of the published equation, root mean square, per year. MB: of the draws.",
)
FIGURES = ("RMSE", "MAE", "CRPS", "coverage 90 %")


def compared(methods: Mapping[str, Method], key: int, progress: Any) -> Iterator[dict[str, Any]]:
    """One row for each model, share of the years and distance ahead, as soon as a share is fitted."""
    chosen = {"equation": "nuts", "hybrid": "ensemble", "network": "ensemble"}
    for share, until in SHARES.items():
        fits = {
            name: bh.infer(model, read_pelts(until), methods[chosen[name]], key=key, progress=progress)
            for name, model in MODELS.items()
        }
        for words, years in AHEAD.items():
            yield from _rows(fits, share, words, later(until, years), key)


def later(until: int, years: Sequence[int]) -> dict[str, np.ndarray]:
    """The record of so many years after `until`."""
    record = read_pelts()
    asked = np.isin(record["times"] - until, years)
    return {name: values[asked] for name, values in record.items()}


def _rows(fits, share, words, measured, key):
    told = bh.compare(fits, measured, key=key + 1, evidence=False)
    for name, posterior in fits.items():
        seconds, forecast_seconds = told.seconds[name]
        yield {
            "model": name,
            "share": share,
            "ahead": words,
            **{figure: told["pelts"].figures[name][figure] for figure in FIGURES},
            "behind the best": told["pelts"].differences[name]["CRPS"].told_apart,
            "residual": residual(posterior, measured["times"], key + 1),
            "rates": rates(posterior),
            "seconds": seconds,
            "forecast_seconds": forecast_seconds,
            "megabytes": told.megabytes[name],
            "verdict": posterior.verdict.state,
        }


def residual(posterior: bh.Posterior, years: np.ndarray, key: int) -> float:
    """How far the median forecast is from the published equation: root mean square difference in log growth, 1/yr.

    By central differences over a twentieth of a year.
    """
    step = 0.05
    times = np.sort(np.concatenate([years - step, years, years + step]))
    path = posterior.predict({"times": times}, key=key).latent["path"].quantile(0.5)
    before, at, after = (path[place::3] for place in range(3))
    slopes = (np.log(after) - np.log(before)) / (2 * step)
    expected = jax.vmap(lambda y: lotka_volterra(0.0, y, SimpleNamespace(**PUBLISHED)) / y)(jnp.asarray(at))
    return float(np.sqrt(np.mean((slopes - np.asarray(expected)) ** 2)))


def rates(posterior: bh.Posterior) -> dict[str, tuple[float, float, float]]:
    """Median and central 90 % of each rate that the model has, in the units of the table."""
    known = [name for name in PUBLISHED if name in posterior.samples]
    return {name: tuple(np.quantile(posterior[name], (0.5, 0.05, 0.95)).tolist()) for name in known}


def in_words(rows: Sequence[Mapping[str, Any]]) -> str:
    """Both tables and what their columns mean."""
    lines = [
        f"fitted to   judged               model       RMSE    MAE   CRPS  inside 90 %  residual  {'fit s':>5}  "
        f"{'ahead s':>7}     MB  verdict"
    ]
    lines += [
        f"{row['share']:<10}  {row['ahead']:<19}  {row['model']:<8}  {row['RMSE']:>6.1f} {row['MAE']:>6.1f} "
        f"{row['CRPS']:>6.1f}  {row['coverage 90 %']:>11.0%}  {row['residual']:>8.2f}  {row['seconds']:>5.0f}  "
        f"{row['forecast_seconds']:>7.1f}  {row['megabytes']:>5.2f}  {row['verdict']}"
        for row in rows
    ]
    lines += ["", "rates: median (5 to 95 %), beside those of all 21 years", *_rates(rows), "", *LEGEND]
    return "\n".join(lines)


def _rates(rows):
    told = {(row["share"], row["model"]): row["rates"] for row in rows if row["rates"]}
    yield "fitted to   model     " + "".join(
        f"{f'{name} {value:.4g}':>30}" for name, value in PUBLISHED.items()
    )
    for (share, model), found in told.items():
        cells = (f"{mid:.3g} ({low:.3g} to {high:.3g})" for mid, low, high in found.values())
        yield f"{share:<10}  {model:<8}  " + "".join(f"{cell:>30}" for cell in cells)
