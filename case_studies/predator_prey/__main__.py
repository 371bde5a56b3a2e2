"""Fit one of the three models to the pelts, forecast the six years after, and say how well that went."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

import bayeshybrid as bh
from case_studies.predator_prey.model import FIRST_YEAR, MODELS, SPECIES, read_pelts

YEARS_AHEAD = 6
STEPS_A_YEAR = 4
MASSES = (0.5, 0.8, 0.9)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the case study as the command line asks."""
    began = time.monotonic()
    asked = _parse(arguments)
    data = read_pelts(asked.until)
    print(
        f"The {asked.model} model of {len(data['times'])} years of hare and lynx pelts, 1900 to {asked.until}.\n"
    )
    method = bh.NUTS(chains=asked.chains, draws=asked.draws, warmup=asked.warmup)
    posterior = bh.infer(MODELS[asked.model], data, method, key=asked.key, progress=bh.TextBar())

    # Every quarter of a year makes a smooth picture; the whole years among them make the table.
    times = np.arange(FIRST_YEAR, asked.until + YEARS_AHEAD + 0.01, 1 / STEPS_A_YEAR)
    forecast = posterior.predict({"times": times}, key=asked.key + 1)
    rows = forecast_rows(forecast, asked.until)
    held_out = {name: values[len(data["times"]) :] for name, values in _until(asked.until).items()}

    summary, checked = unknowns(posterior), posterior.check(key=asked.key)
    tables = {
        "summary": (str(summary), summary.to_dict()),
        "verdict": (str(posterior.verdict), posterior.verdict.to_dict()),
        "fit": (str(checked), {"inside": checked.inside, "residuals": checked.residuals}),
        "forecast": (forecast_in_words(rows), rows),
    }
    for title, (text, _) in tables.items():
        print(f"{title.capitalize()}\n\n{text}\n")
    pictures = {
        "fit": bh.plots.fit(posterior, key=asked.key),
        "forecast": bh.plots.forecast(
            forecast, fitted=data, data=held_out if len(held_out["times"]) else None
        ),
        "parameters": bh.plots.parameters(posterior),
    }
    written = write(asked.output, tables, pictures)
    print(f"Wrote {', '.join(path.name for path in written)} to {asked.output.resolve()}")
    print(f"{time.monotonic() - began:.0f} s in all")
    return 0


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m case_studies.predator_prey", description=__doc__, allow_abbrev=False
    )
    add = parser.add_argument
    add("--model", choices=MODELS, default="equation", help="which of the three models (equation)")
    add(
        "--until",
        type=int,
        default=1914,
        choices=range(1905, 1921),
        metavar="YEAR",
        help="last year fitted (1914)",
    )
    add("--key", type=int, default=0, help="seed of everything random (0)")
    add("--chains", type=int, default=4, help="chains (4)")
    add("--draws", type=int, default=1000, help="draws kept of each chain (1000)")
    add("--warmup", type=int, default=1000, help="transitions before those (1000)")
    add("--output", type=Path, default=Path("predator_prey_output"), help="folder to write to")
    return parser.parse_args(arguments)


def _until(year: int) -> dict[str, np.ndarray]:
    """The record up to the last year that is forecast."""
    return read_pelts(year + YEARS_AHEAD)


def unknowns(posterior: bh.Posterior) -> Any:
    """The summary without what is derived from the unknowns, the populations of each year."""
    summary = posterior.summary()
    return replace(summary, rows=tuple(row for row in summary if np.isfinite(row.contraction)))


def forecast_rows(forecast: bh.Forecast, until: int) -> list[dict[str, Any]]:
    """One row for each year ahead and species: quantiles, what was measured, and the share that is not known."""
    record = _until(until)
    measured = {int(year): pelts for year, pelts in zip(record["times"], record["pelts"], strict=True)}
    pelts, unknown = forecast.observed["pelts"], forecast.epistemic.share["pelts"]
    rows = []
    for year in range(until + 1, until + YEARS_AHEAD + 1):
        place = (year - int(FIRST_YEAR)) * STEPS_A_YEAR
        for s, species in enumerate(SPECIES):
            value = float(measured[year][s]) if year in measured else None
            bands = {f"{mass:.0%}": [float(end[place, s]) for end in pelts.interval(mass)] for mass in MASSES}
            inside = {
                mass: None if value is None else bool(low <= value <= high)
                for mass, (low, high) in bands.items()
            }
            rows.append(
                {
                    "year": year,
                    "species": species,
                    "measured": value,
                    "median": float(pelts.quantile(0.5)[place, s]),
                    "interval": bands,
                    "inside": inside,
                    "epistemic_share": float(unknown[place, s]),
                }
            )
    return rows


def forecast_in_words(rows: list[dict[str, Any]]) -> str:
    """The forecast as a table, the count of measured values inside its intervals, and where its doubt comes from."""
    lines = ["year  species  measured  median      central 50 %      central 90 %  not known"]
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
    return "\n".join(["pelts in thousands; not known: epistemic share of the variance", *lines])


def _count(rows, name, mass):
    compared = [row["inside"][name] for row in rows if row["measured"] is not None]
    return (
        f"{sum(compared)} of {len(compared)} held-out values lie inside the central {name} "
        f"(expected {mass * len(compared):.1f})"
    )


def write(folder: Path, tables: dict[str, tuple[str, Any]], pictures: dict[str, Any]) -> list[Path]:
    """Every table as text and as JSON, every picture as PNG; the paths written."""
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for name, (text, content) in tables.items():
        (folder / f"{name}.txt").write_text(text + "\n", encoding="utf-8")
        (folder / f"{name}.json").write_text(json.dumps(_plain(content), indent=1) + "\n", encoding="utf-8")
        written += [folder / f"{name}.txt", folder / f"{name}.json"]
    for name, figure in pictures.items():
        figure.savefig(folder / f"{name}.png", dpi=150)
        written.append(folder / f"{name}.png")
    return written


def _plain(content: Any) -> Any:
    """What JSON can hold: NaN, which it cannot, becomes null."""
    if isinstance(content, dict):
        return {str(name): _plain(value) for name, value in content.items()}
    if isinstance(content, list | tuple | np.ndarray):
        return [_plain(value) for value in content]
    if isinstance(content, float | np.floating):
        return float(content) if np.isfinite(content) else None
    return content.item() if isinstance(content, np.generic) else content


if __name__ == "__main__":
    raise SystemExit(main())
