"""Fit twelve subjects after one dose of theophylline, check the fit, and ask what a divided dose would do.

With --network absorption may change over the hours after a dose, by a small network.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

import bayeshybrid as bh
from case_studies.theophylline import published, what_if
from case_studies.theophylline.model import MODELS, read_record
from case_studies.theophylline.tables import (
    absorption_in_words,
    absorption_rows,
    answer_rows,
    answers_in_words,
    residuals,
    unknowns,
)
from case_studies.writing import write

# Beyond these nobody would believe a trajectory: 50 mg/L is deadly, and no more than the dose is in the body.
PLAUSIBLE = {"conc": (0.0, 50.0), "amounts": {"gut": (0.0, 6.0), "blood": (0.0, 6.0)}}
KNOWN = ("1", "9")  # the slowest to clear the drug, and the fastest to absorb it
NEW_DOSE = 4.6  # mg/kg for the new subject, near the mean of the twelve
ASKED = 400


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the case study as the command line asks."""
    began = time.monotonic()
    asked = _parse(arguments)
    written = _tell("hybrid" if asked.network else "equation", asked)
    names = ", ".join(str(path.relative_to(asked.output)) for path in written)
    print(f"Wrote {names} to {asked.output.resolve()}")
    print(f"{time.monotonic() - began:.0f} s in all")
    return 0


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m case_studies.theophylline", description=__doc__, allow_abbrev=False
    )
    add = parser.add_argument
    add("--network", action="store_true", help="let a network change absorption over time")
    add("--key", type=int, default=0, help="seed of everything random (0)")
    add("--draws", type=int, default=1000, help="draws kept of each of four chains of NUTS (1000)")
    add("--warmup", type=int, default=500, help="transitions before those (500)")
    add("--output", type=Path, default=Path("theophylline_output"), help="folder to write to")
    return parser.parse_args(arguments)


def _tell(model: str, asked: argparse.Namespace) -> list[Path]:
    """Everything from the table to the answer, printed and written."""
    record = read_record()
    print(f"{record}\n")
    before = bh.preflight.assess(MODELS[model], record, key=asked.key, plausible=PLAUSIBLE, draws=500)
    print(f"{before}\n")
    posterior = bh.infer(MODELS[model], record, _method(model, asked), key=asked.key, progress=bh.TextBar())
    answers, contrasts = _answers(posterior, record, asked)
    tables = {"before": (str(before), {"state": before.state}), **_checks(posterior, asked)}
    tables["published"] = _published(posterior)
    tables["what_if"] = (answers_in_words(answers), answer_rows(answers))
    if model == "hybrid":
        rows = absorption_rows(posterior)
        tables["absorption"] = (absorption_in_words(rows), rows)
        tables["network"] = _network(contrasts)
    for title, (text, _) in list(tables.items())[1:]:
        print(f"{title.replace('_', ' ').capitalize()}\n\n{text}\n")
    written = write(asked.output / model, tables, _pictures(posterior, contrasts, asked))
    if model == "equation":
        written.append(_page(posterior, contrasts["known"].changed, asked))
    return written


def _method(model: str, asked: argparse.Namespace) -> bh.SharedHMC | bh.NUTS:
    # Few steps more than with 0.8, and none that fails: the spreads make narrow places.
    if model == "hybrid":
        return bh.SharedHMC(target_acceptance=0.9)
    return bh.NUTS(draws=asked.draws, warmup=asked.warmup, target_acceptance=0.9)


def _answers(posterior, record, asked):
    """Each question for the twelve subjects of the record, of whom two are told of, and for one never seen."""
    amounts = record["dose"]["amounts"].sum(axis=1)
    names = record.labels["subject"]
    settings = {"key": asked.key + 1, "draws": ASKED}
    contrasts = {
        "known": what_if.ask(posterior, what_if.inputs(amounts), **settings),
        "new": what_if.ask(
            posterior, what_if.inputs(np.array([NEW_DOSE])), **settings, new=("subject",), replicates=4
        ),
    }
    known = {f"subject {name}": names.index(name) for name in KNOWN}
    answers = what_if.answers(contrasts["known"], known)
    return answers + what_if.answers(contrasts["new"], {"a new one": 0}), contrasts


def _checks(posterior, asked):
    """What is known of the unknowns, whether the computation can be trusted, and whether the model fits."""
    summary = unknowns(posterior)
    same, anew = (posterior.check(key=asked.key, new=new) for new in ((), ("subject",)))
    quantiles = anew.by_time("hours")
    each, rows = residuals(same)
    return {
        "summary": (str(summary), summary.to_dict()),
        "verdict": (str(posterior.verdict), posterior.verdict.to_dict()),
        "fit": (f"{same}\n\n{each}", {"inside": same.inside, "units": rows}),
        "population": (f"{anew}\n{quantiles}", {"inside": anew.inside, "quantiles": quantiles.inside}),
    }


def _published(posterior):
    rows = published.rows(posterior)
    return published.in_words(rows), rows


def _network(contrasts):
    """What came through the network, and where it was asked outside what it saw."""
    told = {
        name: {
            "share": contrast.network_share("conc"),
            "outside": {network: asked.outside for network, asked in contrast.changed.extrapolation.items()},
        }
        for name, contrast in contrasts.items()
    }
    return "\n\n".join(map(str, contrasts.values())), told


def _pictures(posterior, contrasts, asked):
    new = contrasts["new"]
    return {
        "fit": bh.plots.fit(posterior, key=asked.key),
        "residuals": bh.plots.residuals(posterior, key=asked.key, new=("subject",)),
        "visual_predictive_check": bh.plots.visual_predictive_check(posterior, key=asked.key),
        "divided_dose": bh.plots.forecast(contrasts["known"].changed),
        "difference_new_subject": bh.plots.contrast(new),
    }


def _page(posterior, forecast, asked) -> Path:
    """The page for a reader who has nothing else."""
    return bh.report(
        posterior,
        forecast,
        path=asked.output / "report.html",
        title="Theophylline: the daily dose given in two halves",
        fitted="one compartment with absorption from the gut, to concentrations of twelve subjects after one dose",
    )


if __name__ == "__main__":
    raise SystemExit(main())
