"""Fit five models of treated tumours, judge them beyond what they saw, and three laws of untreated growth.

With --compare the five models are also fitted to a quarter and to half of the measurements.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

import bayeshybrid as bh
from case_studies.tumour_growth import comparison, growth, tables, truth
from case_studies.tumour_growth.model import MODELS
from case_studies.writing import write

ENOUGH = 500  # independent draws of each unknown of a law: spreads between animals are slow to draw


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the case study as the command line asks."""
    began = time.monotonic()
    asked = _parse(arguments)
    written = []
    if asked.part != "growth":
        written += _treated(asked)
    if asked.part != "treated":
        written += _untreated(asked)
    names = ", ".join(str(path.relative_to(asked.output)) for path in written)
    print(f"Wrote {names} to {asked.output.resolve()}")
    print(f"{time.monotonic() - began:.0f} s in all")
    return 0


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m case_studies.tumour_growth", description=__doc__, allow_abbrev=False
    )
    add = parser.add_argument
    add("--part", choices=("treated", "growth"), help="one part only (both)")
    add("--compare", action="store_true", help="fit to a quarter and half of the measurements too")
    add("--models", nargs="+", choices=MODELS, default=list(MODELS), help="these models only (all five)")
    add("--key", type=int, default=0, help="seed of everything random but the measurements (0)")
    add("--members", type=int, default=24, help="members of an ensemble (24)")
    add("--steps", type=int, default=1000, help="steps of training of each member (1000)")
    add("--output", "--out", type=Path, default=Path("tumour_growth_output"), help="folder to write to")
    return parser.parse_args(arguments)


def _treated(asked) -> list[Path]:
    """The five models, from the measurements to the page."""
    print(f"{truth.training()}\n{truth.held_out()}\n{truth.beyond()}\n")
    how = comparison.methods(asked.members, asked.steps)
    how = {name: how[name] for name in asked.models}
    shares = comparison.SHARES if asked.compare else (1.0,)
    several = list(comparison.rounds(shares, how, asked.key))
    whole = several[-1]
    told = {
        "scores": (tables.scores_in_words(several), [tables.plain(one) for one in several]),
        "parameters": (tables.parameters_in_words(several), _each(several, "unknowns")),
        "costs": (tables.costs_in_words(several), _each(several, "seconds")),
        "effect": (tables.effect_in_words(whole), tables.effect_rows(whole)),
    }
    if "hybrid" in whole.posteriors:
        told |= _checked(whole.posteriors["hybrid"], asked)
    _say(told)
    pictures = _pictures(whole, asked)
    written = write(asked.output / "treated", told, pictures)
    if "hybrid" in whole.posteriors:
        written.append(_page(whole.posteriors["hybrid"], asked))
    return written


def _each(several, name):
    """One entry of each model, by share of the measurements."""
    told = {f"{one.share:.0%}": tables.plain(one)["models"] for one in several}
    return {share: {model: row[name] for model, row in models.items()} for share, models in told.items()}


def _checked(posterior, asked):
    summary, checked = tables.unknowns(posterior), posterior.check(key=asked.key)
    return {
        "summary": (str(summary), summary.to_dict()),
        "verdict": (str(posterior.verdict), posterior.verdict.to_dict()),
        "fit": (str(checked), {"inside": checked.inside, "residuals": checked.residuals}),
    }


def _pictures(whole, asked):
    if "hybrid" not in whole.posteriors:
        return {}
    posterior = whole.posteriors["hybrid"]
    return {"fit": bh.plots.fit(posterior, key=asked.key), "parameters": bh.plots.parameters(posterior)}


def _page(posterior, asked) -> Path:
    """The page for a reader who has nothing else: the hybrid, and its forecast of doses that were not seen."""
    later = truth.beyond(truth.RADII)  # few enough to be told apart in a picture
    return bh.report(
        posterior,
        posterior.predict(later, key=asked.key + 1, replicates=8),
        path=asked.output / "report.html",
        data=later,
        title="Treated tumours: the equation with a learned effect, asked about larger doses",
        fitted="a reaction-diffusion equation with a small network for the effect of a drug, to densities of "
        f"{len(truth.SEEN_DOSES)} animals; the forecast is of two animals with larger doses",
    )


def _untreated(asked) -> list[Path]:
    """Three laws of growth, fitted to the volumes up to day 14 and judged by those after."""
    record = growth.read_record()
    print(f"{record}\n")
    fits = {}
    for name in growth.LAWS:
        began = time.monotonic()
        fits[name] = bh.infer(growth.law(name), growth.early(record), key=asked.key, target_ess=ENOUGH)
        print(f"{name}: fitted in {time.monotonic() - began:.0f} s, {fits[name].verdict.state}")
    compared = bh.compare(fits, growth.late(record), key=asked.key + 1)
    told = {"laws": (str(compared), tables.laws_plain(compared))}
    for name, posterior in fits.items():
        summary = tables.unknowns(posterior)
        told[f"summary {name}"] = (str(summary), summary.to_dict())
        told[f"verdict {name}"] = (str(posterior.verdict), posterior.verdict.to_dict())
    _say(told)
    files = {name.replace(" ", "_").lower(): what for name, what in told.items()}
    ahead = fits["Gompertz"].predict(growth.late(record), key=asked.key + 1)
    pictures = {
        "forecast_gompertz": bh.plots.forecast(ahead, fitted=fits["Gompertz"], data=growth.late(record))
    }
    return write(asked.output / "growth", files, pictures)


def _say(told):
    for title, (text, _) in told.items():
        print(f"\n{title.capitalize()}\n\n{text}")
    print()


if __name__ == "__main__":
    raise SystemExit(main())
