"""Three models under the methods that apply, judged by years that their fits had not seen."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

import bayeshybrid as bh
from case_studies.predator_prey.model import any_year, equation, hybrid, network_only, read_pelts

Method = bh.NUTS | bh.SVI | bh.DeepEnsemble

ORIGINS = (1908, 1911, 1914)
YEARS_AHEAD = 6
POOLED = (3, 4, 5, 6)
LEVELS = (0.5, 0.8, 0.9)
BASELINE = "any year"

# The hybrid by NUTS takes over a hundred gradients of a stiff model a draw: long enough to be judged, no more.
SHORT_WARMUP, SHORT_DRAWS = 80, 40


@dataclass(frozen=True)
class Contestant:
    """A model, by its name in the table, and a method, by its name there."""

    name: str
    label: str
    model: Callable[..., Any]
    method: Method


@dataclass(frozen=True)
class Row:
    """One contestant over all origins.

    - `pooled`: how its forecasts three to six years ahead met what was measured; `nearer`: those one and two ahead.
    - `seconds`: wall time of the fit and the forecast from each origin, compiling included.
    - `verdicts`: of the fit from each origin.
    """

    contestant: Contestant
    origins: tuple[int, ...]
    pooled: Any
    nearer: Any
    seconds: tuple[float, ...]
    verdicts: tuple[bh.Verdict, ...]

    @property
    def crps(self) -> float:
        """Mean continuous ranked probability score three to six years ahead, in thousand pelts."""
        return self.pooled.figures["CRPS"].value

    def to_dict(self) -> dict[str, Any]:
        """Everything in the row as plain lists and numbers."""
        return {
            "model": self.contestant.name,
            "method": self.contestant.label,
            "settings": repr(self.contestant.method),
            "origins": self.origins,
            "three_to_six_years_ahead": _figures(self.pooled),
            "one_and_two_years_ahead": _figures(self.nearer),
            "seconds": self.seconds,
            "verdicts": [{"state": verdict.state, **verdict.to_dict()} for verdict in self.verdicts],
        }


def contestants(methods: Mapping[str, Method]) -> tuple[Contestant, ...]:
    """Models and the methods that apply, the quick ones first; `methods` holds nuts, svi and ensemble."""
    nuts, svi, ensemble = (methods[name] for name in ("nuts", "svi", "ensemble"))
    assert isinstance(nuts, bh.NUTS)
    short = bh.NUTS(
        chains=nuts.chains,
        draws=min(nuts.draws or SHORT_DRAWS, SHORT_DRAWS),
        warmup=min(nuts.warmup, SHORT_WARMUP),
    )
    return (
        Contestant(BASELINE, "NUTS", any_year, nuts),
        Contestant("equation", "NUTS", equation, nuts),
        Contestant("equation", "SVI", equation, svi),
        Contestant("equation", "ensemble", equation, ensemble),
        Contestant("hybrid", "ensemble", hybrid, ensemble),
        Contestant("network", "ensemble", network_only, ensemble),
        Contestant("hybrid", "NUTS, short", hybrid, short),
    )


def compare(
    several: Sequence[Contestant],
    key: int,
    origins: Sequence[int] = ORIGINS,
    progress: Any = None,
) -> Iterator[Row]:
    """One row a contestant, as soon as it is known."""
    for contestant in several:
        fits = [_from_origin(contestant, origin, key, progress) for origin in origins]
        forecasts, seconds, verdicts = zip(*fits, strict=True)
        near = tuple(years for years in range(1, YEARS_AHEAD + 1) if years not in POOLED)
        pooled, nearer = (
            bh.calibration.assess(forecasts, [_measured(origin, years) for origin in origins], levels=LEVELS)
            for years in (POOLED, near)
        )
        yield Row(contestant, tuple(origins), pooled["pelts"], nearer["pelts"], seconds, verdicts)


def _from_origin(contestant, origin, key, progress):
    """The forecast of the six years after `origin` from those up to it, with its wall time and verdict."""
    began = time.monotonic()
    if progress is not None:
        progress.start(f"{contestant.name} by {contestant.label}, 1900 to {origin}", 1)
        progress.finish()
    posterior = bh.infer(contestant.model, read_pelts(origin), contestant.method, key=key, progress=progress)
    years = np.arange(origin + 1.0, origin + YEARS_AHEAD + 1.0)
    forecast = posterior.predict({"times": years}, key=key + 1)
    return forecast, time.monotonic() - began, posterior.verdict


def _measured(origin, years_ahead):
    """The pelts of the six years after `origin`, NaN where they are not asked for."""
    record = read_pelts(origin + YEARS_AHEAD)
    pelts = record["pelts"][record["times"] > origin]
    asked = np.isin(np.arange(1, YEARS_AHEAD + 1), years_ahead)
    return {"pelts": np.where(asked[:, None], pelts, np.nan)}


def _figures(site):
    return {
        "compared": site.compared,
        "inside": {f"{level:.0%}": inside for level, (inside, _) in site.counts.items()},
        "figures": {
            name: {what: getattr(figure, what) for what in ("value", "expected", "low", "high", "better")}
            for name, figure in site.figures.items()
        },
    }


def in_words(rows: Sequence[Row]) -> str:
    """The table, what its columns mean, and each verdict with its reasons."""
    origins, compared = rows[0].origins, rows[0].pooled.compared
    lines = [
        f"Fits to 1900 up to {', '.join(map(str, origins))}; forecasts 3 to 6 years ahead (3, 4, 5 and 6), pooled: "
        f"{compared} values.",
        "",
        "model     method         CRPS  skill  log score  inside 50 %  inside 80 %  inside 90 %  wall s  verdict",
    ]
    baseline = next((row.crps for row in rows if row.contestant.name == BASELINE), np.nan)
    lines += [_line(row, baseline) for row in rows]
    lines += ["", *_legend(origins), "", "Verdicts, as they are"]
    for row in rows:
        for origin, verdict in zip(row.origins, row.verdicts, strict=True):
            lines += [
                "",
                f"{row.contestant.name} by {row.contestant.label}, up to {origin}: {verdict.state}",
                *(f"  {said}" for said in _reasons(verdict)),
            ]
    return "\n".join(lines)


def _line(row, baseline):
    figures = row.pooled.figures
    skill = 1 - row.crps / baseline
    inside = [_inside(row.pooled, level) for level in LEVELS]
    states = dict.fromkeys(verdict.state for verdict in row.verdicts)
    return (
        f"{row.contestant.name:<8}  {row.contestant.label:<11}  {row.crps:>6.2f}  "
        f"{'' if np.isnan(skill) else f'{skill:.0%}':>5}  {figures['log score'].value:>9.2f}  "
        f"{inside[0]:>11}  {inside[1]:>11}  {inside[2]:>11}  {sum(row.seconds):>6.0f}  {' / '.join(states)}"
    )


def _inside(site, level):
    """How many lie inside, and how many nine in ten forecasts of this size would hold that are calibrated."""
    inside, compared = site.counts[level]
    figure = site.figures[f"coverage {100 * level:.4g} %"]
    return f"{inside} ({figure.low * compared:.0f}-{figure.high * compared:.0f})"


def _legend(origins):
    return (
        "CRPS: mean continuous ranked probability score in thousand pelts, small is good. Log score: mean log density",
        f"of a value, large is good. Skill: share of the CRPS of {BASELINE!r} that is saved; that model takes each",
        "year to be like any other so far. Inside: values inside the central interval; in brackets what nine in ten",
        "perfectly calibrated forecasts of the same size would show. Wall: seconds of all fits and forecasts,",
        f"compiling included. The {len(origins)} forecasts overlap and are counted as independent, so the brackets are "
        "somewhat too narrow.",
    )


def _reasons(verdict):
    nature = [] if verdict.nature == "draws of the posterior" else [verdict.nature]
    remarks = [f"remark: {remark}" for remark in verdict.remarks]
    return [*nature, *map(str, verdict.reasons), *remarks]
