"""Fit the equation and the hybrid to the pelts, forecast the six years after, and write what a reader must know.

With --compare the three models are held against each other under the methods that apply, with --shares on a quarter,
half and all of the years.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import bayeshybrid as bh
from case_studies.predator_prey import comparison, shares
from case_studies.predator_prey.model import MODELS, read_pelts
from case_studies.predator_prey.tables import (
    YEARS_AHEAD,
    forecast_in_words,
    forecast_rows,
    inside,
    unknowns,
)
from case_studies.writing import write

STEPS_A_YEAR = 4
SAMPLED = 1000
SHOWN_AHEAD = 11  # to 1925 from 1914: far enough for the page to say where the forecast ends

IN_WORDS = {
    "equation": "the equation of Lotka and Volterra",
    "hybrid": "the equation of Lotka and Volterra with a small network for what it leaves out",
    "network": "a neural network in place of an equation",
}


@dataclass(frozen=True)
class Story:
    """A fit, its forecast, and what was measured in the years that were held back."""

    model: str
    posterior: bh.Posterior
    forecast: bh.Forecast
    held_out: dict[str, np.ndarray] | None
    rows: list[dict[str, Any]]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the case study as the command line asks."""
    began = time.monotonic()
    asked = _parse(arguments)
    written = _compare(asked) if asked.compare else _shares(asked) if asked.shares else _tell(asked)
    names = ", ".join(str(path.relative_to(asked.output)) for path in written)
    print(f"Wrote {names} to {asked.output.resolve()}")
    print(f"{time.monotonic() - began:.0f} s in all")
    return 0


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m case_studies.predator_prey", description=__doc__, allow_abbrev=False
    )
    add = parser.add_argument
    add("--model", choices=MODELS, help="one model only (equation and hybrid)")
    add(
        "--method",
        choices=("nuts", "svi", "ensemble"),
        help="how to fit it (the equation by nuts, what holds a network by an ensemble)",
    )
    add(
        "--until",
        type=int,
        default=1914,
        choices=range(1905, 1921),
        metavar="YEAR",
        help="last year fitted (1914)",
    )
    add("--compare", action="store_true", help="compare models and methods over three origins")
    add("--shares", action="store_true", help="models on a quarter, half and all of the years")
    add("--key", type=int, default=0, help="seed of everything random (0)")
    add("--chains", type=int, default=4, help="chains of NUTS (4)")
    add("--draws", type=int, default=1000, help="draws kept of each chain (1000)")
    add("--warmup", type=int, default=1000, help="transitions before those (1000)")
    add("--members", type=int, default=32, help="members of an ensemble (32)")
    add("--steps", type=int, default=1000, help="steps of training of each member, or of SVI (1000)")
    add("--output", type=Path, default=Path("predator_prey_output"), help="folder to write to")
    return parser.parse_args(arguments)


def _methods(asked) -> dict[str, comparison.Method]:
    return {
        "nuts": bh.NUTS(chains=asked.chains, draws=asked.draws, warmup=asked.warmup),
        "svi": bh.SVI(steps=asked.steps, draws=asked.draws),
        "ensemble": bh.DeepEnsemble(members=asked.members, steps=asked.steps),
    }


def _tell(asked) -> list[Path]:
    """Every fit that was asked for, with tables and pictures in a folder of its own, and a page of each."""
    stories, written = [], []
    for model in (asked.model,) if asked.model else ("equation", "hybrid"):
        story = _fit(model, asked)
        stories.append(story)
        written += _tables(story, asked)
    # The hybrid's page is the one that answers whether the network can be trusted.
    files = [*(f"report_{story.model}.html" for story in stories[:-1]), "report.html"]
    for story, file in zip(stories, files, strict=True):
        others = [pair for pair in zip(stories, files, strict=True) if pair[0] is not story]
        written.append(_page(story, asked.output / file, others, asked))
    return written


def _fit(model, asked) -> Story:
    data = read_pelts(asked.until)
    method = _methods(asked)[asked.method or ("nuts" if model == "equation" else "ensemble")]
    print(f"The {model} model of {len(data['times'])} years of pelts, 1900 to {asked.until}, by {method!r}\n")
    posterior = bh.infer(MODELS[model], data, method, key=asked.key, progress=bh.TextBar())
    # Every quarter of a year makes a smooth picture; the whole years among them make the table.
    times = np.arange(asked.until, asked.until + SHOWN_AHEAD + 0.01, 1 / STEPS_A_YEAR)
    # An ensemble has few members: several measurements of each make quantiles that are no matter of luck.
    several = max(1, SAMPLED // posterior.size)
    forecast = posterior.predict({"times": times}, key=asked.key + 1, replicates=several)
    later = {
        name: values[len(data["times"]) :] for name, values in read_pelts(asked.until + YEARS_AHEAD).items()
    }
    held_out = later if len(later["times"]) else None
    return Story(model, posterior, forecast, held_out, forecast_rows(forecast, asked.until))


def _tables(story, asked) -> list[Path]:
    """What a fit says, printed, drawn and written."""
    posterior = story.posterior
    summary, checked = unknowns(posterior), posterior.check(key=asked.key)
    tables = {
        "summary": (str(summary), summary.to_dict()),
        "verdict": (str(posterior.verdict), posterior.verdict.to_dict()),
        "fit": (str(checked), {"inside": checked.inside, "residuals": checked.residuals}),
        "forecast": (forecast_in_words(story.rows), story.rows),
    }
    for title, (text, _) in tables.items():
        print(f"{title.capitalize()}\n\n{text}\n")
    pictures = {
        "fit": bh.plots.fit(posterior, key=asked.key),
        "forecast": bh.plots.forecast(story.forecast, fitted=posterior, data=story.held_out),
        "parameters": bh.plots.parameters(posterior),
    }
    return write(asked.output / story.model, tables, pictures)


def _page(story, path, others, asked) -> Path:
    """The page for a reader who has nothing else; it says where the other fit's page is and how that one fared."""
    years = f"1900 to {asked.until}"
    beside = [
        f"; {IN_WORDS[other.model]} was fitted too, see {file}{_against(other, story)}"
        for other, file in others
    ]
    return bh.report(
        story.posterior,
        story.forecast,
        path=path,
        data=story.held_out,
        title=f"Lynx and hare, {years}: {IN_WORDS[story.model]}",
        fitted=f"{IN_WORDS[story.model]}, to the pelts of hare and lynx (thousands a year) of {years}"
        + "".join(beside),
    )


def _against(other, story) -> str:
    """How many of the values held back the 9-in-10 ranges of either forecast hold."""
    (theirs, _), (own, compared) = inside(other.rows, "90%"), inside(story.rows, "90%")
    if not compared:
        return ""
    return (
        f": {theirs} of {compared} measured values fell inside its 9-in-10 ranges, where this one holds {own}"
    )


def _compare(asked) -> list[Path]:
    """The table of the comparison, written anew after each row."""
    written, rows = [], []
    several = comparison.contestants(_methods(asked))
    for row in comparison.compare(several, asked.key, progress=bh.TextBar()):
        rows.append(row)
        table = (comparison.in_words(rows), [row.to_dict() for row in rows])
        written = write(asked.output, {"comparison": table}, {})
    print(comparison.in_words(rows))
    return written


def _shares(asked) -> list[Path]:
    """Both tables of the shares, written anew after each."""
    written, rows = [], []
    for row in shares.compared(_methods(asked), asked.key, bh.TextBar()):
        rows.append(row)
        written = write(asked.output, {"shares": (shares.in_words(rows), rows)}, {})
    print(shares.in_words(rows))
    return written


if __name__ == "__main__":
    raise SystemExit(main())
