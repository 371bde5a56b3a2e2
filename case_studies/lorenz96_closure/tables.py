"""What a run of the case study says: tables for people, the same as plain numbers, and two pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from matplotlib.figure import Figure

import bayeshybrid as bh
from case_studies.lorenz96_closure import records
from case_studies.lorenz96_closure.comparison import PLACES, Row
from case_studies.lorenz96_closure.model import ARNOLD, WILKS, polynomial
from case_studies.lorenz96_closure.records import AHEAD, FORCING, WINDOW

TOLD_AT = (-6.0, -3.0, 0.0, 3.0, 6.0, 9.0, 12.0)
IN_PLACE = {"same forcing": "held-out windows, F = 20 as fitted", "other forcing": "F = 16 and F = 24"}
WIDTH = 17


def unknowns(posterior: bh.Posterior) -> Any:
    """The summary without what is derived from the unknowns for each window."""
    summary = posterior.summary()
    return replace(summary, rows=tuple(row for row in summary if "[" not in row.name))


def comparison_in_words(rows: Sequence[Row]) -> str:
    """How each model met the held-out windows over the times that windows are fitted at."""
    lines = []
    for place, words in IN_PLACE.items():
        lines += [
            f"{words}, up to {WINDOW[-1]:g} time units ahead",
            f"{'':<{WIDTH}}  windows   RMSE    MAE   CRPS  inside 90 %  residual",
        ]
        for row in rows:
            told = row.figures[place]
            lines.append(
                f"{row.model:<{WIDTH}}  {row.windows:>7}  {told['RMSE']:.3f}  {told['MAE']:.3f}  {told['CRPS']:.3f}  "
                f"{told['coverage 90 %']:>11.1%}  {told['residual']:>8.2f}"
            )
        lines.append("")
    lines.append(f"{'':<{WIDTH}}  windows  advection (true: 1)  fit, s  forecast, s  draws, MB  verdict")
    for row in rows:
        advection = "" if row.advection is None else "{:.3f} ({:.3f})".format(*row.advection)
        fit, forecast = row.seconds
        lines.append(
            f"{row.model:<{WIDTH}}  {row.windows:>7}  {advection:>19}  {fit:>6.1f}  {forecast:>11.2f}  "
            f"{row.megabytes:>9.2f}  {row.posterior.verdict.state}"
        )
    return "\n".join(lines)


def leads_in_words(rows: Sequence[Row]) -> str:
    """RMSE and CRPS with lead time."""
    lines = []
    for place, words in IN_PLACE.items():
        for figure in ("RMSE", "CRPS"):
            heads = "".join(f"{at:>7g}" for at in AHEAD)
            lines += [f"{figure}, {words}: time units ahead", f"{'':<{WIDTH}}{heads}"]
            lines += [
                f"{row.model:<{WIDTH}}" + "".join(f"{told[figure]:>7.2f}" for told in row.leads[place])
                for row in rows
            ]
            lines.append("")
    return "\n".join(lines[:-1])


def climate_in_words(rows: Sequence[Row]) -> str:
    """Free runs beside the truth's."""
    lines = []
    for forcing in rows[0].free:
        truth = records.climate(forcing)
        lines += [
            f"climate of a free run, F = {forcing:g}",
            f"{'':<{WIDTH}}   mean     sd  distance  memory  lost",
            f"{'truth':<{WIDTH}}  {truth.mean:>5.2f}  {truth.sd:>5.2f}",
        ]
        for row in rows:
            free = row.free[forcing]
            lines.append(
                f"{row.model:<{WIDTH}}  {free.mean:>5.2f}  {free.sd:>5.2f}  {free.distance:>8.3f}  "
                f"{free.memory:>6.3f}  {free.lost:>4.0%}"
            )
        lines.append("")
    return "\n".join(
        [
            *lines,
            "distance: largest gap between the distribution functions of the slow variables; memory: rms gap between",
            "the autocorrelations up to two time units; lost: share of the members that left any climate.",
        ]
    )


def closure_rows(at: np.ndarray, told: Mapping[str, np.ndarray]) -> list[dict[str, float]]:
    """The closure at some values of a slow variable, beside the true subgrid terms and what was published."""
    truth = records.climate(FORCING)
    rows = []
    for x in TOLD_AT:
        rows.append(
            {
                "x": x,
                **{name: float(np.interp(x, at, values)) for name, values in told.items()},
                "truth": float(np.interp(x, truth.at, truth.subgrid_mean)),
                "scatter": float(np.interp(x, truth.at, truth.subgrid_sd)),
                "Wilks": float(polynomial(WILKS, x)),
                "Arnold": float(polynomial(ARNOLD, x)),
            }
        )
    return rows


def closure_in_words(rows: Sequence[Mapping[str, float]]) -> str:
    """The same as a table."""
    lines = ["     X  truth: mean (sd)  hybrid: median, central 90 %  Wilks  Arnold"]
    for row in rows:
        truth = f"{row['truth']:.2f} ({row['scatter']:.2f})"
        ours = f"{row['median']:.2f}, {row['low']:.2f} to {row['high']:.2f}"
        lines.append(f"{row['x']:>6g}  {truth:>16}  {ours:>28}  {row['Wilks']:>5.2f}  {row['Arnold']:>6.2f}")
    return "\n".join(lines)


def closure_picture(at: np.ndarray, told: Mapping[str, np.ndarray]) -> Figure:
    """The learned closure with its band over the true subgrid terms and both published polynomials."""
    _, x, u = records.subgrid()
    figure = Figure(figsize=(7.0, 4.5), layout="constrained")
    axes = figure.subplots()
    axes.plot(x.ravel(), u.ravel(), ".", color="0.7", markersize=3, label="subgrid terms of the truth")
    axes.fill_between(at, told["low"], told["high"], alpha=0.35, color="C0", linewidth=0)
    axes.plot(at, told["median"], color="C0", label="network of the hybrid, central 90 %")
    axes.plot(at, polynomial(WILKS, at), "--", color="C1", label="Wilks (2005)")
    axes.plot(at, polynomial(ARNOLD, at), ":", color="C3", label="Arnold and others (2013)")
    seen = records.training()["x"]
    axes.axvspan(seen.min(), seen.max(), color="0.95", zorder=-1, label="where windows were measured")
    axes.set(xlabel="slow variable X", ylabel="taken by the fast ones, U, per time unit", ylim=(-15, 25))
    axes.legend(fontsize="small")
    return figure


def leads_picture(rows: Sequence[Row]) -> Figure:
    """CRPS with lead time, under the forcing of the fit and under others."""
    figure = Figure(figsize=(9.0, 4.0), layout="constrained")
    several = figure.subplots(1, len(PLACES), sharey=True)
    for axes, (place, words) in zip(several, IN_PLACE.items(), strict=True):
        for row in rows:
            axes.plot(AHEAD, [told["CRPS"] for told in row.leads[place]], ".-", label=row.model)
        axes.set(title=words, xlabel="time units ahead")
    several[0].set_ylabel("CRPS of X")
    several[0].legend(fontsize="small")
    return figure
