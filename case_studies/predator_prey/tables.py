"""What a run of the case study says as text and as JSON."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

import bayeshybrid as bh
from case_studies.predator_prey.model import SPECIES, read_pelts

YEARS_AHEAD = 6
MASSES = (0.5, 0.8, 0.9)


def unknowns(posterior: bh.Posterior) -> Any:
    """The summary without what is derived from the unknowns, the populations of each year."""
    summary = posterior.summary()
    return replace(summary, rows=tuple(row for row in summary if np.isfinite(row.contraction)))


def forecast_rows(forecast: bh.Forecast, until: int) -> list[dict[str, Any]]:
    """One row for each year ahead and species: quantiles, what was measured, and the share that is not known."""
    record = read_pelts(until + YEARS_AHEAD)
    measured = {int(year): pelts for year, pelts in zip(record["times"], record["pelts"], strict=True)}
    pelts, unknown = forecast.observed["pelts"], forecast.epistemic.share["pelts"]
    bands = {f"{mass:.0%}": pelts.interval(mass) for mass in MASSES}
    median = pelts.quantile(0.5)
    rows = []
    for year in range(until + 1, until + YEARS_AHEAD + 1):
        place = int(np.flatnonzero(np.isclose(forecast.inputs["times"], year))[0])
        for s, species in enumerate(SPECIES):
            value = float(measured[year][s]) if year in measured else None
            ends = {mass: [float(end[place, s]) for end in band] for mass, band in bands.items()}
            rows.append(
                {
                    "year": year,
                    "species": species,
                    "measured": value,
                    "median": float(median[place, s]),
                    "interval": ends,
                    "inside": {
                        mass: None if value is None else bool(low <= value <= high)
                        for mass, (low, high) in ends.items()
                    },
                    "epistemic_share": float(unknown[place, s]),
                }
            )
    return rows


def forecast_in_words(rows: list[dict[str, Any]]) -> str:
    """The forecast as a table, the count of measured values inside its intervals, and where its doubt comes from."""
    lines = [
        "pelts in thousands; not known: epistemic share of the variance",
        "year  species  measured  median      central 50 %      central 90 %  not known",
    ]
    for row in rows:
        measured = "" if row["measured"] is None else f"{row['measured']:.1f}"
        narrow, wide = ("{:.1f} to {:.1f}".format(*row["interval"][mass]) for mass in ("50%", "90%"))
        lines.append(
            f"{row['year']}  {row['species']:<7}  {measured:>8}  {row['median']:>6.1f}  {narrow:>16}  {wide:>16}  "
            f"{row['epistemic_share']:>9.0%}"
        )
    lines.append("")
    lines += [_count(rows, f"{mass:.0%}", mass) for mass in MASSES if rows[0]["measured"] is not None]
    for species in SPECIES:
        share = np.mean([row["epistemic_share"] for row in rows if row["species"] == species])
        lines.append(
            f"{species}: {1 - share:.0%} of the variance ahead is noise (aleatoric), "
            f"{share:.0%} is what the data left open (epistemic)"
        )
    return "\n".join(lines)


def inside(rows: list[dict[str, Any]], name: str) -> tuple[int, int]:
    """How many measured values lie inside the central interval of that name, and how many there are."""
    compared = [row["inside"][name] for row in rows if row["measured"] is not None]
    return sum(compared), len(compared)


def _count(rows, name, mass):
    held, compared = inside(rows, name)
    return (
        f"{held} of {compared} held-out values lie inside the central {name} (expected {mass * compared:.1f})"
    )
