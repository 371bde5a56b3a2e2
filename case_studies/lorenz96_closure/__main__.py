"""Fit six models of the slow variables, judge each by windows and climates that none has seen, and say how it fared.

With --sizes the hybrid and the network are also fitted to a quarter and to half of the windows.
"""

from __future__ import annotations

import argparse
import resource
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax

import bayeshybrid as bh
from bayeshybrid.science.chaos import horizon, largest_exponent
from case_studies.lorenz96_closure import records, tables
from case_studies.lorenz96_closure.comparison import PLACES, Row, ahead, closures, row
from case_studies.lorenz96_closure.model import MODELS, WILKS, polynomial, resolved
from case_studies.lorenz96_closure.records import AHEAD, FORCING, NOISE, WINDOW
from case_studies.writing import write

LYAPUNOV_TIME = 100.0
ON_THE_PAGE = 4  # windows


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the case study as the command line asks."""
    began = time.monotonic()
    asked = _parse(arguments)
    print(_horizon_in_words())
    rows = _fits(asked)
    written = _tables(rows, asked)
    written.append(_page(rows["hybrid"], asked))
    names = ", ".join(str(path.relative_to(asked.output)) for path in written)
    print(f"Wrote {names} to {asked.output.resolve()}")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    print(f"{time.monotonic() - began:.0f} s in all, at most {peak:.1f} GB of memory")
    return 0


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m case_studies.lorenz96_closure", description=__doc__, allow_abbrev=False
    )
    add = parser.add_argument
    add("--sizes", action="store_true", help="also fit a quarter and half of the windows")
    add("--key", type=int, default=0, help="seed of everything random (0)")
    add("--members", type=int, default=16, help="members of the network's ensemble (16)")
    add("--steps", type=int, default=800, help="steps of training of each member (800)")
    add("--output", type=Path, default=Path("lorenz96_closure_output"), help="folder to write to")
    return parser.parse_args(arguments)


def _horizon_in_words() -> str:
    """How long a window may be: far shorter than it takes an error of one reading to become that of a guess."""

    def field(t, x, forcing):
        return resolved(t, x, (forcing, 1.0)) - polynomial(WILKS, x)

    start = records.training()["start"][0]
    with jax.enable_x64(True):
        found = largest_exponent(field, start, FORCING, duration=LYAPUNOV_TIME, rtol=1e-6, atol=1e-6)
    spread = records.climate().sd
    ahead = horizon(float(found.value), NOISE, spread)
    return (
        f"Errors of the slow equation with Wilks' closure grow by {found.value:.2f} ({found.error:.2f}) per time unit: "
        f"one of {NOISE:g} at the start is as large as the climate's spread, {spread:.1f}, after {ahead:.1f} time "
        f"units. Windows have {WINDOW[-1]:g}.\n"
    )


def _method(model: str, asked: argparse.Namespace) -> Any:
    return bh.DeepEnsemble(members=asked.members, steps=asked.steps) if model == "network" else None


def _fits(asked) -> dict[str, Row]:
    """Every model fitted to all windows, and to fewer where that is asked."""
    fitted = {}
    for model in MODELS:
        print(f"{model}: all windows")
        fitted[model] = row(model, _method(model, asked), asked.key, progress=bh.TextBar())
    every = len(records.training()["start"])
    for share in (4, 2) if asked.sizes else ():
        for model in ("hybrid", "network"):
            print(f"{model}: {every // share} windows")
            one = partial(row, model, _method(model, asked), asked.key, progress=bh.TextBar())
            fitted[f"{model}, {every // share} windows"] = one(windows=every // share, climate=False)
    return fitted


def _tables(rows, asked) -> list[Path]:
    """What the fits say, printed, drawn and written."""
    whole = [rows[model] for model in MODELS]
    hybrid = rows["hybrid"]
    at, told = closures(hybrid, asked.key)
    closure = tables.closure_rows(at, told)
    summary = tables.unknowns(hybrid.posterior)
    sorted_rows = sorted(rows.values(), key=lambda one: (list(MODELS).index(one.model), one.windows))
    contents = {
        "summary": (str(summary), summary.to_dict()),
        "verdict": (str(hybrid.posterior.verdict), hybrid.posterior.verdict.to_dict()),
        "comparison": (tables.comparison_in_words(sorted_rows), [one.to_dict() for one in sorted_rows]),
        "paired": _paired(rows, asked),
        "calibration": _calibration(rows, asked),
        "leads": (tables.leads_in_words(whole), {one.model: one.leads for one in whole}),
        "climate": (
            tables.climate_in_words(whole),
            {one.model: {str(f): free.to_dict() for f, free in one.free.items()} for one in whole},
        ),
        "closure": (tables.closure_in_words(closure), closure),
    }
    for title, (text, _) in contents.items():
        print(f"{title.capitalize()}\n\n{text}\n")
    pictures = {
        "closure": tables.closure_picture(at, told),
        "leads": tables.leads_picture(whole),
        "parameters": bh.plots.parameters(hybrid.posterior),
    }
    return write(asked.output, contents, pictures)


def _paired(rows, asked):
    """Hybrid and network beside one another, window by window."""
    fits = {name: rows[name].posterior for name in ("hybrid", "network")}
    found = {
        place: bh.compare(fits, records.held_out(forcings), key=asked.key)["x"].differences
        for place, forcings in PLACES.items()
    }
    lines = ["CRPS worse than that of the best (standard error over windows)"]
    lines += [
        f"{tables.IN_PLACE[place]}: {name} {told['CRPS'].value:.3f} ({told['CRPS'].error:.3f}"
        f"{'' if told['CRPS'].told_apart else ', not told apart'})"
        for place, site in found.items()
        for name, told in site.items()
        if told["CRPS"].value
    ]
    plain = {
        place: {
            name: {
                what: {"value": one.value, "error": one.error, "told_apart": one.told_apart}
                for what, one in told.items()
            }
            for name, told in site.items()
        }
        for place, site in found.items()
    }
    return "\n".join(lines), plain


def _calibration(rows, asked):
    """How often held-out values fall where the hybrid and the network said."""
    words, plain = [], {}
    for name in ("hybrid", "network"):
        for place, forcings in PLACES.items():
            held = records.held_out(forcings)
            forecast = ahead(rows[name].posterior, name, held, asked.key)
            found = bh.calibration.assess(forecast, {"x": held["x"]})["x"]
            words += [f"{name}, {tables.IN_PLACE[place]}", *(f"  {said}" for said in found.words), ""]
            counts = {f"{level:.0%}": inside for level, (inside, _) in found.counts.items()}
            plain[f"{name}, {place}"] = {"inside": counts, "compared": found.compared}
    return "\n".join(words[:-1]), plain


def _page(hybrid, asked) -> Path:
    """The page of the hybrid for a reader who has nothing else."""
    held = records.held_out(times=AHEAD)
    few = {name: values if name == "times" else values[:ON_THE_PAGE] for name, values in held.items()}
    inputs = {name: values for name, values in few.items() if name != "x"}
    return bh.report(
        hybrid.posterior,
        hybrid.posterior.predict(inputs, key=asked.key + 1),
        path=asked.output / "report.html",
        data=few,
        title="Lorenz 1996: eight slow variables, and a network for what the fast ones take",
        fitted="the equation of the slow variables with a small network for the fast scale, to windows of "
        f"{WINDOW[-1]:g} time units",
    )


if __name__ == "__main__":
    raise SystemExit(main())
